"""Where answers come from: a model, a file, or the benchmark's own solutions; and what is made of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from megatron_ft import log
from megatron_ft.data.templates import Template
from megatron_ft.evaluation import judging, languages, prompts
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


@dataclass(frozen=True)
class Completeness:
    """Says of an answer to a task whether whatever follows would be cut off; made of plain values, to be sent to processes."""

    task: Task
    mode: str
    style: str

    def __call__(self, text: str) -> bool:
        # The class of the language does as well as an object of it: a judgement of text needs no box.
        return judging.MODES[self.mode](languages.get(self.task.language), self.style).is_complete(self.task, text)


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
    """The benchmark's own solutions as if a model had written them."""
    for each in wanted:
        completion = prompts.own_answer(each.task, settings.solutions)
        keep_answer(each, judges, folder, {"completion": completion, "finish": settings.solutions})


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
    from megatron_ft.evaluation import batching, engines, generation  # import torch and transformers, which takes seconds

    sampling = batching.Sampling(settings.temperature, settings.top_p, settings.max_new_tokens, settings.seed)
    figures = generation.Report()
    with engines.opened(settings) as engine:
        log.get().info(f"{len(missing)} samples wanted")
        for explained in (False, True):
            asked = {(each.task.key, each.sample): with_description(each, folder) if explained else each
                     for each in missing if (each.task.scenario == EXPLAINED) == explained}
            requests = [batching.Request(each.task.key, each.sample, prompts.prompt(each.task, template),
                                         Completeness(each.task, settings.mode, settings.prompt_style))
                        for each in asked.values()]

            def keep(request: batching.Request, done: batching.Completion, asked: dict = asked) -> None:
                keep_answer(asked[request.key, request.sample], judges, folder,
                            {"completion": done.text, "tokens": done.tokens, "finish": done.finish})

            if requests:
                figures += generation.generate(engine, requests, sampling, keep)
    return figures.as_dict()


def resolve(settings: Settings, *, begun: str = "") -> Settings:
    """Settings with the backend and devices that are there; see `engines.resolve`. Without a model as they are.

    Args:
        begun: the backend of the run that this one goes on with, which may be on another machine where nothing is missing.
    """
    if not settings.model:
        return settings
    if settings.backend == "auto" and begun:
        return replace(settings, backend=begun)
    from megatron_ft.evaluation import engines  # as above

    return engines.resolve(settings)


def with_description(each: Wanted, folder: RunFolder) -> Wanted:
    """The same sample, asked with what the model described in the sample of that number."""
    told = folder.samples[each.task.problem.task_id, DESCRIBED, each.sample]["description"]
    return replace(each, task=replace(each.task, description=told))
