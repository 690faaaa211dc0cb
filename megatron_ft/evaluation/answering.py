"""Where answers come from: a model, a file, or the benchmark's own solutions; and what is made of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from megatron_ft import log
from megatron_ft.data.templates import Template
from megatron_ft.evaluation import model_folder, prompts
from megatron_ft.evaluation.harness_files import Given
from megatron_ft.evaluation.judging import Judge
from megatron_ft.evaluation.run_folder import Key, RunFolder
from megatron_ft.evaluation.scenarios import DESCRIBED, Task
from megatron_ft.evaluation.settings import Settings

EXPLAINED = "explainsynthesize"


@dataclass(frozen=True)
class Wanted:
    """One sample that a run consists of."""

    task: Task
    sample: int

    @property
    def key(self) -> Key:
        """How its rows are found."""
        return self.task.problem.task_id, self.task.scenario, self.sample


def answer(settings: Settings, wanted: Sequence[Wanted], judges: Mapping[str, Judge], template: Template | None,
           given: Given | None, folder: RunFolder) -> dict:
    """Keep an answer to everything that has none, from wherever answers come; the figures of generating them."""
    if settings.model:
        return generate(settings, wanted, judges, template, folder)
    missing = [each for each in wanted if each.key not in folder.samples]
    if given:
        for each in missing:
            keep_answer(each, judges, folder, given.answers[each.key])
    else:
        take_solutions(settings, missing, judges, folder)
    return {}


def take_solutions(settings: Settings, wanted: Sequence[Wanted], judges: Mapping[str, Judge], folder: RunFolder) -> None:
    """The benchmark's own solutions as if a model had written them: the prompt is stripped, so the rest is theirs."""
    for each in wanted:
        text = each.task.base + getattr(each.task.problem, f"{settings.solutions}_solution")
        keep_answer(each, judges, folder, {"completion": text[len(each.task.base.rstrip()):], "finish": settings.solutions})


def keep_answer(each: Wanted, judges: Mapping[str, Judge], folder: RunFolder, answer: dict) -> None:
    """Keep a sample with what is made of it: a program, or a description that is handed on.

    A program that was whole when it was given stays as it is.
    """
    judge, task = judges[each.task.language], each.task
    if task.scenario == DESCRIBED:
        made = {"description": judge.description(task, answer["completion"])}
    else:
        made = {} if "program" in answer else {"program": judge.program(task, answer["completion"])}
    folder.add_sample({"task_id": task.problem.task_id, "scenario": task.scenario, "language": task.language,
                       "sample": each.sample, **answer, **made})


def generate(settings: Settings, wanted: Sequence[Wanted], judges: Mapping[str, Judge], template: Template,
             folder: RunFolder) -> dict:
    """Keep a model's answers; descriptions come before what is asked about them. The model is gone when this returns."""
    missing = [each for each in wanted if each.key not in folder.samples]
    if not missing:
        return {}
    from megatron_ft.evaluation import generation  # imports torch and transformers, which takes seconds

    model = model_folder.load(settings.model, device=settings.device, dtype=settings.dtype)
    log.get().info(f"{settings.model}: {sum(p.numel() for p in model.network.parameters()):,} parameters, "
                   f"{model.network.dtype} on {model.device}, {len(missing)} samples wanted")
    sampling = generation.Sampling(settings.temperature, settings.top_p, settings.max_new_tokens, settings.seed)
    figures = generation.Report()
    for explained in (False, True):
        asked = {(each.task.key, each.sample): with_description(each, folder) if explained else each
                 for each in missing if (each.task.scenario == EXPLAINED) == explained}
        requests = [generation.Request(each.task.key, each.sample, prompts.prompt(each.task, template),
                                       completion_test(each, judges)) for each in asked.values()]

        def keep(request: generation.Request, done: generation.Completion, asked: dict = asked) -> None:
            keep_answer(asked[request.key, request.sample], judges, folder,
                        {"completion": done.text, "tokens": done.tokens, "finish": done.finish})

        if requests:
            figures += generation.generate(model, requests, sampling, batch_size=settings.batch_size,
                                            batch_tokens=settings.batch_tokens, keep=keep)
    return figures.as_dict()


def with_description(each: Wanted, folder: RunFolder) -> Wanted:
    """The same sample, asked with what the model described in the sample of that number."""
    told = folder.samples[each.task.problem.task_id, DESCRIBED, each.sample]["description"]
    return replace(each, task=replace(each.task, description=told))


def completion_test(each: Wanted, judges: Mapping[str, Judge]) -> object:
    """Says of an answer whether the rest would be cut off."""
    return lambda text: judges[each.task.language].is_complete(each.task, text)
