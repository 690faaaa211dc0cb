"""The figures of a run: pass@k with confidence intervals, by language, scenario and type of bug."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from megatron_ft.evaluation.passk import curves
from megatron_ft.evaluation.problem import BASE
from megatron_ft.evaluation.verdict import STATUSES

CONFIDENCE = 0.95
RESAMPLES = 9999
SEED = 0
"""One seed for all intervals: the same results give the same figures."""
BATCH_NUMBERS = 1 << 22  # numbers of resamples that are in memory at a time: 32 MiB
UNKNOWN_BUG = "unknown"

Interval = tuple[float, float]


def intervals(rows: Sequence[Sequence[float]]) -> list[Interval | None]:
    """The interval of each row's mean: percentiles of means over problems drawn with replacement.

    All rows are resampled alike, so that a curve's interval is as smooth as the curve. One problem alone has no interval.

    Args:
        rows: [figures, problems].
    """
    if len(rows[0]) < 2:
        return [None] * len(rows)
    import numpy as np
    from scipy import stats

    values = np.asarray(rows, dtype=np.float64)
    found = stats.bootstrap((values,), np.mean, axis=-1, vectorized=True, n_resamples=RESAMPLES, method="percentile",
                            confidence_level=CONFIDENCE, batch=max(1, BATCH_NUMBERS // values.size),
                            rng=np.random.default_rng(SEED)).confidence_interval
    return [(float(low), float(high)) for low, high in zip(found.low, found.high, strict=True)]


@dataclass(frozen=True)
class Difference:
    """How two runs differ on the same problems."""

    value: float
    """Mean of the second less mean of the first."""
    interval: Interval | None
    p: float
    """Chance of a difference at least as large if it made no difference which run a problem's answers are of."""


def difference(first: Sequence[float], second: Sequence[float]) -> Difference:
    """The difference of two means over the same problems, with its interval and a paired permutation test (two-sided).

    The test flips signs of the problems' differences. Those of zero cannot change the sum and are left out, so that it is
    exact up to 13 problems that differ.
    """
    changes = [after - before for before, after in zip(first, second, strict=True)]
    value = math.fsum(changes) / len(changes)
    return Difference(value, intervals([changes])[0], _p([change for change in changes if change]))


def _p(changes: Sequence[float]) -> float:
    if len(changes) < 2:
        return 1.0  # one sign alone is as likely as the other
    import numpy as np
    from scipy import stats

    return float(stats.permutation_test((np.asarray(changes),), np.mean, permutation_type="samples", vectorized=True,
                                        n_resamples=RESAMPLES, batch=1024, rng=np.random.default_rng(SEED)).pvalue)


def counts(rows: Iterable[Mapping]) -> dict[str, tuple[int, int]]:
    """task_id -> (samples, passed) of some results, in their order."""
    samples, passed = Counter(), Counter()
    for row in rows:
        samples[row["task_id"]] += 1
        passed[row["task_id"]] += row["status"] == "passed"
    return {task_id: (number, passed[task_id]) for task_id, number in samples.items()}


def by_task(results: Iterable[Mapping]) -> dict[tuple[str, str], list[Mapping]]:
    """(language, scenario) -> its results, all in their order; what has base tests is also a result by these alone."""
    found: dict[tuple[str, str], list[Mapping]] = defaultdict(list)
    for row in results:
        if row.get("base"):
            found[row["language"], BASE].append({**row, "scenario": BASE, "status": row["base"]})
        found[row["language"], row["scenario"]].append(row)
    return dict(found)


def scores(results: Iterable[Mapping], bug_types: Mapping[str, Mapping[str, str]]) -> list[dict]:
    """For each language and scenario, and in them for each type of bug, what `score` gives.

    Args:
        bug_types: language -> task_id -> type of the bug that the benchmark put in.
    """
    found = []
    for (language, scenario), rows in by_task(results).items():
        types: dict[str, list[Mapping]] = defaultdict(list)
        for row in rows:
            types[bug_types.get(language, {}).get(row["task_id"]) or UNKNOWN_BUG].append(row)
        known = bug_types.get(language, {}).values()
        if known and not any(known):
            types.clear()  # a benchmark without bugs
        found.append({"language": language, "scenario": scenario, **score(rows),
                      "bug_types": {name: score(types[name]) for name in sorted(types)}})
    return found


def score(rows: Sequence[Mapping]) -> dict:
    """Problems, samples, pass@k for every k with its interval, and verdicts of some results."""
    found = counts(rows)
    verdicts = Counter(row["status"] for row in rows)
    return {"problems": len(found), "samples": len(rows), **_figures(curves(list(found.values()))),
            "verdicts": {status: verdicts[status] for status in STATUSES}}


def averages(results: Iterable[Mapping]) -> dict[str, dict]:
    """For each scenario in several languages: the mean of the languages' pass@k.

    A problem has the same number in every language, so the interval is over numbers. Where the languages have not the
    same ones there is no such figure, and the scenario is left out.
    """
    of_scenario: dict[str, dict[str, dict[str, tuple[int, int]]]] = defaultdict(dict)
    for (language, scenario), rows in by_task(results).items():
        of_scenario[scenario][language] = {task_id.rpartition("/")[2]: each for task_id, each in counts(rows).items()}
    found = {}
    for scenario, languages in of_scenario.items():
        numbers = list(next(iter(languages.values())))
        if len(languages) < 2 or any(set(each) != set(numbers) for each in languages.values()):
            continue
        all_curves = [curves([each[number] for number in numbers]) for each in languages.values()]
        means = [[math.fsum(values) / len(values) for values in zip(*rows, strict=True)]
                 for rows in zip(*all_curves)]  # noqa: B905 - a language with fewer samples ends the curve
        found[scenario] = {"languages": list(languages), "problems": len(numbers), **_figures(means)}
    return found


def _figures(rows: Sequence[Sequence[float]]) -> dict:
    """pass@k and its interval for each row, k from 1; as JSON has them."""
    means = {str(k): math.fsum(values) / len(values) for k, values in enumerate(rows, start=1)}
    return {"pass@k": means, "interval": {k: each and list(each) for k, each in zip(means, intervals(rows), strict=True)}}
