"""What changed between two runs of one benchmark, problem by problem, and whether it may be chance."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from megatron_ft.errors import ConfigError
from megatron_ft.evaluation import statistics, tables
from megatron_ft.evaluation.run_folder import FinishedRun, differing
from megatron_ft.evaluation.statistics import Difference

NOT_SETTINGS = ("bug_types", "benchmark", "scenarios")
Counts = Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class Change:
    """The share of a problem's samples that passed, in one run and in the other."""

    task_id: str
    before: tuple[int, int]
    """(samples, passed)."""
    after: tuple[int, int]

    @property
    def value(self) -> float:
        """By how much the share rose."""
        return self.after[1] / self.after[0] - self.before[1] / self.before[0]

    def __str__(self) -> str:
        """Its name; with the counts where there is more than one sample."""
        if self.before[0] == self.after[0] == 1:
            return self.task_id
        return f"{self.task_id} ({self.before[1]}/{self.before[0]} to {self.after[1]}/{self.after[0]})"


@dataclass(frozen=True)
class Comparison:
    """Two runs on the common problems of one language and scenario."""

    language: str
    scenario: str
    problems: int
    before: float
    """pass@1 on the common problems."""
    after: float
    difference: Difference
    gained: list[Change]
    lost: list[Change]


def command(argv: Sequence[str]) -> None:
    """`compare RUN_A RUN_B [--json]`."""
    parser = argparse.ArgumentParser(prog="python -m megatron_ft.evaluate compare", description=(
        "Say what changed from one finished run to another, on the problems that both have: pass@1, its difference with a 95%% "
        "interval (bootstrap over problems), and the p value of a paired permutation test."))
    parser.add_argument("before", metavar="RUN_A", help="the --output of a run")
    parser.add_argument("after", metavar="RUN_B", help="that of another, on the same benchmark")
    parser.add_argument("--json", action="store_true", help="print JSON instead of Markdown")
    arguments = parser.parse_args(argv)
    before, after = FinishedRun.read(arguments.before), FinishedRun.read(arguments.after)
    found = compare(before, after)
    sys.stdout.write(as_json(before, after, found) if arguments.json else markdown(before, after, found))


def compare(before: FinishedRun, after: FinishedRun) -> list[Comparison]:
    """Every language and scenario that both have; ConfigError where nothing can be compared."""
    _require_the_same_benchmark(before, after)
    of_before, of_after = (statistics.by_task(run.results.values()) for run in (before, after))
    found = []
    for language, scenario in of_before:
        if (language, scenario) not in of_after:
            continue
        counts = [statistics.counts(each[language, scenario]) for each in (of_before, of_after)]
        common = [task_id for task_id in counts[0] if task_id in counts[1]]
        if common:
            found.append(_comparison(language, scenario, common, *counts))
    if not found:
        raise ConfigError(f"{before.path} has {_named(of_before)}, {after.path} has {_named(of_after)}: no problem is in both, "
                          "so there is nothing to compare")
    return found


def _comparison(language: str, scenario: str, common: Sequence[str], before: Counts, after: Counts) -> Comparison:
    shares = [[each[task_id][1] / each[task_id][0] for task_id in common] for each in (before, after)]
    changes = [Change(task_id, before[task_id], after[task_id]) for task_id in common]
    means = [sum(each) / len(each) for each in shares]
    return Comparison(language, scenario, len(common), *means, statistics.difference(*shares),
                      [each for each in changes if each.value > 0], [each for each in changes if each.value < 0])


def _require_the_same_benchmark(before: FinishedRun, after: FinishedRun) -> None:
    files = [run.identity["benchmark"] for run in (before, after)]
    for language in files[0].keys() & files[1].keys():
        if files[0][language] != files[1][language]:
            raise ConfigError(f"{after.path}: its {language} benchmark is not that of {before.path} (sha256 "
                              f"{files[1][language]} and {files[0][language]}); evaluate both on one file")


def differing_settings(before: FinishedRun, after: FinishedRun) -> str:
    """What was set differently, with both values."""
    known = [{**{name: value for name, value in run.identity.items() if name not in NOT_SETTINGS},
              "toolchains": run.summary["toolchains"]} for run in (before, after)]
    return differing(*known, "in A", "in B")


def markdown(before: FinishedRun, after: FinishedRun, found: Sequence[Comparison]) -> str:
    """For people."""
    settings = differing_settings(before, after)
    rows = [[tables.row_title(before.summary, each.scenario), each.language, str(each.problems), f"{100 * each.before:.1f}",
             f"{100 * each.after:.1f}", _points(each.difference.value), _signed(each.difference.interval),
             f"{each.difference.p:.3g}",
             str(len(each.gained)), str(len(each.lost))] for each in found]
    head = ["scenario", "language", "problems", "pass@1 of A", "of B", "B - A", "95% interval", "p", "gained", "lost"]
    parts = [f"A is {tables.text(str(before.path))}, B is {tables.text(str(after.path))}.",
             f"Settings that differ: {tables.text(settings)}." if settings else "Their settings are the same.", "",
             tables.table(head, rows)]
    if len(found) > 1:
        parts.append(f"Each p is of one test; of {len(found)} tests without any effect, one of them is below 0.05 in "
                     f"{100 * (1 - 0.95 ** len(found)):.0f}% of comparisons.\n")
    for each in found:
        for title, changes in (("gained", each.gained), ("lost", each.lost)):
            if changes:
                names = ", ".join(tables.text(str(one)) for one in changes)
                parts.append(f"{tables.row_title(before.summary, each.scenario)}, {each.language}, {title}: {names}\n")
    return "\n".join(parts)


def as_json(before: FinishedRun, after: FinishedRun, found: Sequence[Comparison]) -> str:
    """For programs."""
    return json.dumps({"before": str(before.path), "after": str(after.path),
                       "differing_settings": differing_settings(before, after),
                       "comparisons": [asdict(each) for each in found]}, indent=2) + "\n"


def _signed(ends: tuple[float, float] | None) -> str:
    return f"{_points(ends[0])} to {_points(ends[1])}" if ends else ""


def _points(share: float) -> str:
    """Percentage points.

    >>> _points(0.015), _points(-0.0001)
    ('+1.5', '+0.0')
    """
    return f"{round(100 * share, 1) + 0.0:+.1f}"


def _named(groups: Mapping[tuple[str, str], object]) -> str:
    return ", ".join(f"{scenario} in {language}" for language, scenario in groups) or "no verdicts"
