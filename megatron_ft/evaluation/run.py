"""One evaluation from its settings to its folder of results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

from megatron_ft import cli, log
from megatron_ft.data import templates
from megatron_ft.data.templates import Template
from megatron_ft.evaluation import benchmark as benchmarks
from megatron_ft.evaluation import (
    calibration,
    fitting,
    harness_files,
    judging,
    languages,
    model_folder,
    prompts,
    report,
    run_folder,
    sandbox,
    scenarios,
    shards,
)
from megatron_ft.evaluation.answering import EXPLAINED, Wanted, answer, resolve
from megatron_ft.evaluation.benchmark import Benchmark, Problem
from megatron_ft.evaluation.execution import Attempt, Executed, execute
from megatron_ft.evaluation.harness_files import Given
from megatron_ft.evaluation.judging import Judge
from megatron_ft.evaluation.problem import Kind
from megatron_ft.evaluation.run_folder import Key, RunFolder
from megatron_ft.evaluation.sandbox import Sandbox
from megatron_ft.evaluation.scenarios import DESCRIBED
from megatron_ft.evaluation.settings import Settings
from megatron_ft.evaluation.shards import Shard
from megatron_ft.evaluation.toolchain_cache import digest
from megatron_ft.evaluation.verdict import Verdict
from megatron_ft.evaluation.verdict_cache import Circumstances, VerdictCache

CLOCK_FACTOR = 4  # a program may take this many times its cpu seconds by the clock, on a machine that does more
DECIDE_SAMPLES = ("scenario", "language", "mode", "solutions", "samples", "temperature", "top_p", "max_new_tokens",
                  "prompt_style", "seed", "dtype", "backend", "limit", "problems", "timeout_s", "shard")


def evaluate(settings: Settings) -> dict:
    """Generate, execute, write and print; returns the summary.

    Everything that can be wrong beforehand is looked at before a model is loaded: the output folder, the benchmark,
    the model's folder, the sandbox and the toolchains. An interrupted run goes on where it was. With generate_only it ends when
    there is an answer to everything, and nothing that only judging needs has to be there; the summary is empty then.
    """
    output = cli.require_absent(settings.output, option="--output")
    found = benchmarks.find(settings.benchmark, settings.languages)
    settings = fitting.fitted(settings, kind := benchmarks.kind_of(found))
    chosen = {language: benchmarks.select(benchmark, problems=settings.problems, limit=settings.limit or None)
              for language, benchmark in found.items()}
    given = harness_files.read(settings, found, chosen) if settings.generations else None
    settings = replace(settings, samples=given.samples) if given else settings
    wanted = tasks_of(settings, chosen)
    template = template_of(settings)
    settings = resolve(settings, begun=run_folder.begun(output).get("backend", ""))
    if settings.generate_only:
        only_generate(settings, wanted, template, RunFolder(output, identity(settings, found, chosen)))
        return {}
    box = sandbox.find(unsafe=settings.unsafe)
    if box.tool == "none":
        log.get().warning("--unsafe: programs run without a sandbox, with your rights")
    slowness = 1.0 if settings.timeout_s else calibration.slowness(workers_of(settings))
    judges = {name: judge_of(settings, name, box, slowness, kind) for name in settings.languages}
    toolchains = {name: judge.language.check() for name, judge in judges.items()}
    run = identity(settings, found, chosen, given)
    with RunFolder(output, run) as folder:
        figures = answer(settings, wanted, judges, template, given, folder)
        caches = {name: VerdictCache(Circumstances(name, settings.mode, toolchain, box, settings.timeout_s))
                  for name, toolchain in toolchains.items() if not settings.fresh and box.tool != "none"}
        executed = judge_all(settings, wanted, judges, folder, caches)
        facts = {"generation": figures, "settings": asdict(settings), "benchmark": described(found),
                 "sandbox": {**asdict(box), "described": box.described()}, "toolchains": toolchains,
                 "versions": report.versions(), "execution": asdict(executed),
                 "timeouts": {"slowness": round(slowness, 2),
                              "cpu_s": {name: round(judge.language.limits.cpu_s, 1) for name, judge in judges.items()}}}
        order = [each.key for each in wanted]
        result = report.write(report.Outcome(
            facts, run["bug_types"], {problem.task_id: problem for problems in chosen.values() for problem in problems},
            in_order(folder.samples, order), in_order(folder.results, order)), folder.path)
        folder.finish(order)
    report.show(result)
    log.get().info(f"written to {output}; {output / report.PAGE} shows it")
    return result


def only_generate(settings: Settings, wanted: Sequence[Wanted], template: Template, folder: RunFolder) -> None:
    """Keep an answer to everything in the unfinished folder, and say how it is judged."""
    readers = {name: judging.MODES[settings.mode](languages.get(name), settings.prompt_style) for name in settings.languages}
    with folder:
        answer(settings, wanted, readers, template, None, folder)
    log.get().info(f"{len(wanted)} samples are in {folder.path}; the same command without --generate-only judges them, where "
                   "programs can be run")


def tasks_of(settings: Settings, chosen: Mapping[str, Sequence[Problem]]) -> list[Wanted]:
    """Every sample of the run, or of its shard, in the order of its files."""
    problems = {(language, problem.task_id): problem for language, each in chosen.items() for problem in each}
    whole = shards.places({language: [problem.task_id for problem in each] for language, each in chosen.items()},
                          asked_for(settings))
    tasks = [scenarios.task(problems[place.language, place.task_id], place.scenario, place.language, mode=settings.mode)
             for place in shards.part(whole, Shard.parse(settings.shard))]
    return [Wanted(task, sample) for task in tasks for sample in range(settings.samples)]


def described(found: Mapping[str, Benchmark]) -> dict[str, dict]:
    """The benchmark's files, for the summary."""
    return {name: {"path": str(benchmark.path), "sha256": benchmark.sha256, "problems": len(benchmark.problems),
                   "kind": benchmark.kind.name, "note": benchmark.note}
            for name, benchmark in found.items()}


def in_order(rows: Mapping[Key, Mapping], order: Sequence[Key]) -> dict[Key, Mapping]:
    """Rows as the finished files have them: verdicts come in the order in which programs end."""
    return {key: rows[key] for key in order if key in rows}


def asked_for(settings: Settings) -> tuple[str, ...]:
    """The scenarios, with the one that describes if answers go on from descriptions; only a model describes."""
    if not settings.model:
        return tuple(name for name in settings.scenarios if name != DESCRIBED)
    if EXPLAINED in settings.scenarios and DESCRIBED not in settings.scenarios:
        return (DESCRIBED, *settings.scenarios)
    return settings.scenarios


def template_of(settings: Settings) -> Template | None:
    """The wording of the prompts; it can word the scenarios, and the model's tokenizer can write it."""
    if not settings.model:
        return None
    for scenario in settings.scenarios:
        prompts.check(settings.prompt_style, scenario)
    folder = model_folder.tokenizer_folder(settings.model, fetch=settings.prompt_style == "chat")
    return templates.get(settings.prompt_style, tokenizer_path=folder)


def workers_of(settings: Settings) -> int:
    """How many programs run at a time."""
    return settings.workers or cli.cores()


def judge_of(settings: Settings, name: str, box: Sandbox, slowness: float, kind: Kind) -> Judge:
    """The rules of a language under the run's limits: a slow machine's programs get more time, and those with many tests."""
    language = languages.get(name)
    cpu_s = settings.timeout_s or max(language.default_limits.cpu_s, kind.cpu_s) * slowness
    limits = replace(language.default_limits, cpu_s=cpu_s, wall_s=CLOCK_FACTOR * cpu_s)
    judged = language(box, limits)
    judged.slow_down(slowness)
    return judging.MODES[settings.mode](judged, settings.prompt_style)


def identity(settings: Settings, found: Mapping[str, Benchmark], chosen: Mapping[str, Sequence[Problem]],
             given: Given | None = None) -> dict:
    """What a run must have in common with one that it goes on with; and the order of its tasks, which `merge` needs."""
    return {"model": model_folder.identity(settings.model) if settings.model else "",
            "benchmark": {name: benchmark.sha256 for name, benchmark in found.items()},
            "generations": given.sha256 if given else "", "scenarios": list(asked_for(settings)),
            **{name: getattr(settings, name) for name in DECIDE_SAMPLES},
            "bug_types": {language: {problem.task_id: problem.bug_type for problem in problems}
                          for language, problems in chosen.items()}}


def judge_all(settings: Settings, wanted: Sequence[Wanted], judges: Mapping[str, Judge], folder: RunFolder,
              caches: Mapping[str, VerdictCache]) -> Executed:
    """Keep a verdict on every program that has none; one on another text than the sample has now is none."""
    attempts = [Attempt(each.task, each.sample, folder.samples[each.key]["program"]) for each in wanted
                if each.task.scenario != DESCRIBED]
    shas = {(attempt.task.problem.task_id, attempt.task.scenario, attempt.sample): digest(attempt.program)
            for attempt in attempts}

    def keep(attempt: Attempt, verdict: Verdict) -> None:
        key = attempt.task.problem.task_id, attempt.task.scenario, attempt.sample
        folder.add_result({"task_id": key[0], "scenario": key[1], "language": attempt.task.language, "sample": key[2],
                           **verdict.row(), "program_sha256": shas[key]})

    missing = [attempt for attempt, (key, sha) in zip(attempts, shas.items(), strict=True)
               if folder.results.get(key, {}).get("program_sha256") != sha]
    try:
        return execute(missing, judges, workers=workers_of(settings), keep=keep, caches=caches)
    finally:
        for cache in caches.values():
            cache.close()
