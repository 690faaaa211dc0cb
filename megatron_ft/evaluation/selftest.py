"""`python -m megatron_ft.evaluate selftest`: the benchmark's own solutions through every rule, as tables.

What is right must pass and what is buggy must fail. In `compat` the faults of the public harness show: the second table names
the problems on which the two modes differ.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from megatron_ft import cli, log
from megatron_ft.errors import ConfigError, DataError
from megatron_ft.evaluation import benchmark, calibration, languages, prompts, run, sandbox, scenarios
from megatron_ft.evaluation.execution import Attempt, execute
from megatron_ft.evaluation.judging import MODES
from megatron_ft.evaluation.problem import PACK, Kind
from megatron_ft.evaluation.settings import Settings
from megatron_ft.evaluation.verdict import Verdict
from megatron_ft.evaluation.verdict_cache import Circumstances, VerdictCache

COLUMNS = (("canonical", "synthesize"), ("canonical", "fixtests"), ("buggy", "fixtests"))
"""Solutions, and a scenario whose base they go on with: the docstring's, or the bare declaration's."""
REASON_CHARACTERS = 100
Verdicts = Mapping[tuple[str, str], Verdict]
"""Key of a task, and mode -> verdict."""


def command(argv: Sequence[str] | None = None) -> int:
    """Print both tables as Markdown; exit code 1 unless `fixed` is right on all but what is allowed."""
    parser = argparse.ArgumentParser(prog="python -m megatron_ft.evaluate selftest", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--benchmark", required=True, help="a benchmark's file, HumanEvalPack's folder, or an id on the hub")
    parser.add_argument("--language", default="", help="languages, separated by commas (default: all of a folder, python "
                        "of a file)")
    parser.add_argument("--mode", default="fixed,compat", help="modes, separated by commas (default: both)")
    parser.add_argument("--limit", type=int, default=None, help="only the first so many problems of each language")
    parser.add_argument("--allow", default="", help="task ids that may be wrong in fixed mode, separated by commas")
    parser.add_argument("--timeout-s", type=float, default=0.0, help="CPU seconds of a program (default: the language's own)")
    parser.add_argument("--fresh", action="store_true", help="run every program; else verdicts that earlier runs have kept are "
                        "taken, so that one which was interrupted goes on")
    parser.add_argument("--markdown", default="", metavar="FILE", help="write the tables into this file too, between its lines "
                        "'<!-- selftest BENCHMARK -->' and '<!-- end of selftest -->'")
    args = parser.parse_args(argv)
    modes = args.mode.split(",")
    if unknown := [mode for mode in modes if mode not in MODES]:
        raise ConfigError(f"--mode: '{', '.join(unknown)}' is unknown; use one or more of {', '.join(MODES)}")
    found = {name: replace(held, problems=benchmark.select(held, limit=args.limit))
             for name, held in benchmark.find(args.benchmark, languages_of(args.benchmark, args.language)).items()}
    kind = benchmark.kind_of(found)
    if args.markdown:
        place_of(args.markdown, kind)  # a file that cannot take the tables is told of before an hour of running programs
    judged = {(solutions, scenario): judge_all(found, solutions, scenario, modes, args.timeout_s, fresh=args.fresh)
              for solutions, scenario in columns_of(kind)}
    allowed = {name.strip() for name in args.allow.split(",")}
    text = f"{table(found, judged, modes)}\n{differences(found, judged)}"
    sys.stdout.write(text)
    if args.markdown:
        write(args.markdown, kind, text)
    wrong = [key for (solutions, _), verdicts in judged.items() for (key, mode), verdict in verdicts.items()
             if mode == "fixed" and verdict.passed != (solutions == "canonical") and key.rpartition("/")[0] not in allowed]
    return cli.EXIT_CHECK_FAILED if wrong else cli.EXIT_OK


def languages_of(source: str, asked: str) -> list[str]:
    """The languages that are judged."""
    if asked and asked != "all":
        return [name.strip() for name in asked.split(",")]
    several = asked == "all" or Path(source).is_dir() or (not Path(source).exists() and source not in benchmark.ON_THE_HUB)
    return list(languages.LANGUAGES) if several else ["python"]


def columns_of(kind: Kind) -> tuple[tuple[str, str], ...]:
    """Which solutions there are, in which scenarios."""
    return COLUMNS if kind.name == PACK else (("canonical", scenarios.ONLY),)


def judge_all(found: Mapping[str, benchmark.Benchmark], solutions: str, scenario: str, modes: Sequence[str],
              timeout_s: float, *, fresh: bool = False) -> dict[tuple[str, str], Verdict]:
    """The verdicts on every problem's solution, cut as a model's answer is, in each mode."""
    verdicts: dict[tuple[str, str], Verdict] = {}
    box, slowness = sandbox.find(), 1.0 if timeout_s else calibration.slowness(cli.cores())
    for mode in modes:
        for language, held in found.items():
            settings = Settings(benchmark=str(held.path), output="none", scenario=scenario, solutions=solutions, mode=mode,
                                timeout_s=timeout_s)
            judge = run.judge_of(settings, language, box, slowness, held.kind)
            log.get().info(f"{solutions} solutions of {language}, {scenario}, {mode}")
            attempts = []
            for problem in held.problems:
                task = scenarios.task(problem, scenario, language, mode=mode)
                attempts.append(Attempt(task, 0, judge.program(task, prompts.own_answer(task, solutions))))

            def keep(attempt: Attempt, verdict: Verdict, mode: str = mode) -> None:
                verdicts[attempt.task.key, mode] = verdict

            caches = {} if fresh else {
                language: VerdictCache(Circumstances(language, mode, judge.language.check(), box, timeout_s))}
            execute(attempts, {language: judge}, workers=cli.cores(), keep=keep, caches=caches)
            for cache in caches.values():
                cache.close()
    return verdicts


def table(found: Mapping[str, benchmark.Benchmark], judged: Mapping[tuple[str, str], Verdicts], modes: Sequence[str]) -> str:
    """How many passed, a row for each language."""
    kind = benchmark.kind_of(found)
    columns = [(mode, *column) for mode in modes for column in columns_of(kind)]
    head = "language" if kind.name == PACK else "benchmark"
    lines = [[head, *(f"{mode}: {solutions}, {scenario}" for mode, solutions, scenario in columns)],
             ["---"] * (1 + len(columns))]
    for language, held in found.items():
        cells = [str(sum(judged[solutions, scenario][f"{problem.task_id}/{scenario}", mode].passed
                         for problem in held.problems)) for mode, solutions, scenario in columns]
        lines.append([f"{language if kind.name == PACK else kind.title} ({len(held.problems)})", *cells])
    return _markdown(lines)


def differences(found: Mapping[str, benchmark.Benchmark], judged: Mapping[tuple[str, str], Verdicts]) -> str:
    """Every problem that is not as it should be in one of the modes, with the reason; nothing if there is none."""
    lines = [["problem", "solution, scenario", "mode", "verdict", "reason"], ["---"] * 5]
    ranks = {problem.task_id: rank for rank, problem in enumerate(
        problem for held in found.values() for problem in held.problems)}
    rows = [(ranks[key.rpartition("/")[0]], solutions, scenario, mode, key, verdict)
            for (solutions, scenario), verdicts in judged.items() for (key, mode), verdict in verdicts.items()
            if verdict.passed != (solutions == "canonical")]
    if not rows:
        return "Every canonical solution passes, and no buggy one.\n"
    for _, solutions, scenario, mode, key, verdict in sorted(rows, key=lambda row: row[:4]):
        told = verdict.reason.strip().rpartition("\n")[2] if "Traceback" in verdict.reason else verdict.reason
        reason = " ".join(told.split())[:REASON_CHARACTERS].replace("|", "\\|")
        lines.append([key.rpartition("/")[0], f"{solutions}, {scenario}", mode, verdict.status, reason])
    return _markdown(lines)


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def place_of(file: str, kind: Kind) -> tuple[str, str]:
    """The text of a file before and after a benchmark's tables; ConfigError where it has no place for them."""
    path, begin, end = Path(file), f"<!-- selftest {kind.name} -->\n", "<!-- end of selftest -->"
    if not path.is_file():
        raise DataError(f"--markdown: there is no file {path}; name one that has the lines {begin.strip()} and {end}")
    before, found, rest = path.read_text(encoding="utf-8").partition(begin)
    inside, closed, after = rest.partition(end)
    if not found or not closed or "<!-- selftest" in inside:
        raise ConfigError(f"--markdown: {path} has no line {begin.strip()} with a line {end} below it; write them where the "
                          "tables belong")
    return before + begin, end + after


def write(file: str, kind: Kind, tables: str) -> None:
    """Put tables into their place in a file."""
    before, after = place_of(file, kind)
    cli.write_text_atomically(Path(file), f"{before}\n{tables}\n{after}")
