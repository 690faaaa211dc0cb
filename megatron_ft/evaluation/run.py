"""One evaluation from its settings to its folder of results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace

from megatron_ft import cli, log
from megatron_ft.data import templates
from megatron_ft.data.templates import Segment
from megatron_ft.errors import DataError
from megatron_ft.evaluation import benchmark as benchmarks
from megatron_ft.evaluation import languages, model_folder, prompts, report, sandbox
from megatron_ft.evaluation.benchmark import Benchmark, Problem
from megatron_ft.evaluation.execution import Attempt, cores, execute
from megatron_ft.evaluation.languages.base import Language
from megatron_ft.evaluation.prompts import base
from megatron_ft.evaluation.settings import Settings

CLOCK_FACTOR = 4  # a program may take this many times its cpu seconds by the clock, on a machine that does more
PREFIXES = ("Python", "JavaScript", "Java", "Go", "CPP", "Rust")


def evaluate(settings: Settings) -> dict:
    """Generate, execute, write and print; returns the summary.

    Everything that can be wrong beforehand is looked at before a model is loaded: the output folder, the benchmark,
    the model's folder, the sandbox and the toolchain.
    """
    output = cli.require_absent(settings.output, option="--output")
    kind = languages.get(settings.language)
    benchmark = benchmarks.read(settings.benchmark)
    problems = benchmarks.select(benchmark, problems=settings.problems, limit=settings.limit or None)
    check_language(benchmark, kind)
    asked = word(settings, problems) if settings.model else {}
    box = sandbox.find(unsafe=settings.unsafe)
    if box.tool == "none":
        log.get().warning("--unsafe: programs run without a sandbox, with your rights")
    limits = replace(sandbox.Limits(), cpu_s=settings.timeout_s, wall_s=CLOCK_FACTOR * settings.timeout_s)
    language = kind(box, limits)
    toolchain = language.check()
    with cli.write_beside(output) as folder:
        attempts, completions, figures = (
            own_solutions(settings, problems) if settings.solutions else generated(settings, problems, asked, kind))
        verdicts = execute(attempts, language, settings.scenario, workers=settings.workers or cores())
        result = report.write(report.Outcome(settings, benchmark, attempts, completions, verdicts, figures, toolchain,
                                             asdict(box)), folder)
    report.show(result)
    log.get().info(f"written to {output}")
    return result


def word(settings: Settings, problems: Sequence[Problem]) -> dict[str, Segment]:
    """Each problem's prompt; the style is one that words the scenario and that the model's tokenizer can write."""
    prompts.check(settings.prompt_style, settings.scenario)
    folder = model_folder.tokenizer_folder(settings.model, fetch=settings.prompt_style == "chat")
    template = templates.get(settings.prompt_style, tokenizer_path=folder)
    return {problem.task_id: prompts.prompt(problem, settings.scenario, template) for problem in problems}


def check_language(benchmark: Benchmark, kind: type[Language]) -> None:
    """Raise DataError when a file's task ids are those of another language."""
    first = benchmark.problems[0].task_id
    prefix = first.partition("/")[0]
    if prefix in PREFIXES and prefix != kind.task_prefix:
        raise DataError(f"{benchmark.path}: holds {prefix} problems ({first}), but --language is {kind.name}")


def own_solutions(settings: Settings, problems: Sequence[Problem]) -> tuple[list[Attempt], list[dict], None]:
    """The benchmark's canonical or buggy programs, as they are, without any cutting."""
    texts = [getattr(problem, f"{settings.solutions}_solution") for problem in problems]
    attempts = [Attempt(problem, 0, base(problem, settings.scenario) + text)
                for problem, text in zip(problems, texts, strict=True)]
    return attempts, [{"completion": text, "finish": settings.solutions} for text in texts], None


def generated(settings: Settings, problems: Sequence[Problem], asked: dict[str, Segment],
              kind: type[Language]) -> tuple[list[Attempt], list[dict], dict]:
    """A model's programs. The model is gone from memory when this returns."""
    from megatron_ft.evaluation import generation  # imports torch and transformers, which takes seconds

    wanted = [(problem, sample) for problem in problems for sample in range(settings.samples)]
    requests = [generation.Request(problem.task_id, sample, asked[problem.task_id], problem.entry_point)
                for problem, sample in wanted]
    model = model_folder.load(settings.model, device=settings.device, dtype=settings.dtype)
    log.get().info(f"{settings.model}: {sum(p.numel() for p in model.network.parameters()):,} parameters, "
                   f"{model.network.dtype} on {model.device}, {len(requests)} samples wanted")
    sampling = generation.Sampling(settings.temperature, settings.top_p, settings.max_new_tokens, settings.seed)
    completions, figures = generation.generate(model, requests, sampling, batch_size=settings.batch_size,
                                               is_complete=kind.is_complete)
    attempts = [Attempt(problem, sample, kind.assemble(problem, base(problem, settings.scenario), completion.text))
                for (problem, sample), completion in zip(wanted, completions, strict=True)]
    named = [{"completion": done.text, **{k: v for k, v in asdict(done).items() if k != "text"}}
             for done in completions]
    return attempts, named, figures.as_dict()
