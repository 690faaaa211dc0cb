"""`python -m megatron_ft.evaluate selftest`: the benchmark's own solutions through every rule, as a table.

What is right must pass and what is buggy must fail. In `compat` the faults of the public harness show: the second table names
the problems on which the two modes differ.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace

from megatron_ft import cli, log
from megatron_ft.evaluation import benchmark, calibration, languages, run, sandbox, scenarios
from megatron_ft.evaluation.execution import Attempt, execute
from megatron_ft.evaluation.settings import Settings
from megatron_ft.evaluation.verdict import Verdict

COLUMNS = (("canonical", "synthesize"), ("canonical", "fixtests"), ("buggy", "fixtests"))
"""Solutions, and a scenario whose base they go on with: the docstring's, or the bare declaration's."""
REASON_CHARACTERS = 100
Verdicts = Mapping[tuple[str, str], Verdict]
"""Key of a task, and mode -> verdict."""


def command(argv: Sequence[str] | None = None) -> int:
    """Print both tables as Markdown; exit code 1 unless `fixed` is right on all but what is allowed."""
    parser = argparse.ArgumentParser(prog="python -m megatron_ft.evaluate selftest", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--benchmark", required=True, help="HumanEvalPack: a folder, or its id on the hub")
    parser.add_argument("--language", default="all", help="languages, separated by commas (default: all)")
    parser.add_argument("--mode", default="fixed,compat", help="modes, separated by commas (default: both)")
    parser.add_argument("--limit", type=int, default=None, help="only the first so many problems of each language")
    parser.add_argument("--allow", default="", help="task ids that may be wrong in fixed mode, separated by commas")
    parser.add_argument("--timeout-s", type=float, default=0.0, help="CPU seconds of a program (default: the language's own)")
    args = parser.parse_args(argv)
    names = list(languages.LANGUAGES) if args.language == "all" else args.language.split(",")
    found = {name: replace(held, problems=benchmark.select(held, limit=args.limit))
             for name, held in benchmark.find(args.benchmark, names).items()}
    judged = {(solutions, scenario): judge_all(found, solutions, scenario, args.mode.split(","), args.timeout_s)
              for solutions, scenario in COLUMNS}
    print(table(found, judged, args.mode.split(",")))
    print(differences(found, judged))
    allowed = {name.strip() for name in args.allow.split(",")}
    wrong = [key for (solutions, _), verdicts in judged.items() for (key, mode), verdict in verdicts.items()
             if mode == "fixed" and verdict.passed != (solutions == "canonical") and key.rpartition("/")[0] not in allowed]
    return cli.EXIT_CHECK_FAILED if wrong else cli.EXIT_OK


def judge_all(found: Mapping[str, benchmark.Benchmark], solutions: str, scenario: str, modes: Sequence[str],
              timeout_s: float) -> dict[tuple[str, str], Verdict]:
    """The verdicts on every problem's solution, cut as a model's answer is, in each mode."""
    verdicts: dict[tuple[str, str], Verdict] = {}
    box, slowness = sandbox.find(), 1.0 if timeout_s else calibration.slowness(cli.cores())
    for mode in modes:
        for language, held in found.items():
            settings = Settings(benchmark=str(held.path), output="none", scenario=scenario, solutions=solutions, mode=mode,
                                timeout_s=timeout_s)
            judge = run.judge_of(settings, language, box, slowness)
            log.get().info(f"{solutions} solutions of {language}, {scenario}, {mode}")
            attempts = []
            for problem in held.problems:
                task = scenarios.task(problem, scenario, language, mode=mode)
                whole = task.base + getattr(problem, f"{solutions}_solution")
                attempts.append(Attempt(task, 0, judge.program(task, whole[len(task.base.rstrip()):])))

            def keep(attempt: Attempt, verdict: Verdict, mode: str = mode) -> None:
                verdicts[attempt.task.key, mode] = verdict

            execute(attempts, {language: judge}, workers=cli.cores(), keep=keep)
    return verdicts


def table(found: Mapping[str, benchmark.Benchmark], judged: Mapping[tuple[str, str], Verdicts], modes: Sequence[str]) -> str:
    """How many passed, a row for each language."""
    columns = [(mode, *column) for mode in modes for column in COLUMNS]
    lines = [["language", *(f"{mode}: {solutions}, {scenario}" for mode, solutions, scenario in columns)],
             ["---"] * (1 + len(columns))]
    for language, held in found.items():
        cells = [str(sum(judged[solutions, scenario][f"{problem.task_id}/{scenario}", mode].passed
                         for problem in held.problems)) for mode, solutions, scenario in columns]
        lines.append([f"{language} ({len(held.problems)})", *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def differences(found: Mapping[str, benchmark.Benchmark], judged: Mapping[tuple[str, str], Verdicts]) -> str:
    """Every problem that is not as it should be in one of the modes, with the reason."""
    lines = [["problem", "solution, scenario", "mode", "verdict", "reason"], ["---"] * 5]
    ranks = {problem.task_id: rank for rank, problem in enumerate(
        problem for held in found.values() for problem in held.problems)}
    rows = [(ranks[key.rpartition("/")[0]], solutions, scenario, mode, key, verdict)
            for (solutions, scenario), verdicts in judged.items() for (key, mode), verdict in verdicts.items()
            if verdict.passed != (solutions == "canonical")]
    for _, solutions, scenario, mode, key, verdict in sorted(rows, key=lambda row: row[:4]):
        reason = " ".join(verdict.reason.split())[:REASON_CHARACTERS].replace("|", "\\|")
        lines.append([key.rpartition("/")[0], f"{solutions}, {scenario}", mode, verdict.status, reason])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
