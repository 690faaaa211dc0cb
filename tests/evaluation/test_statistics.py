"""Figures against other ways to compute them: normal intervals, all sign flips, the values of a small run by hand."""

from __future__ import annotations

import itertools
import random
import statistics as standard

import pytest

from megatron_ft.evaluation import statistics


def results(language: str, scenario: str, passed: dict[str, str]) -> list[dict]:
    """Verdicts written as "101": passed, failed, passed."""
    return [{"language": language, "scenario": scenario, "task_id": task_id, "sample": sample,
             "status": "passed" if mark == "1" else "failed"}
            for task_id, marks in passed.items() for sample, mark in enumerate(marks)]


def test_the_interval_of_many_problems_is_the_normal_one() -> None:
    draw = random.Random(5)
    values = [float(draw.random() < 0.3) for _ in range(400)]
    ((low, high),) = statistics.intervals([values])
    mean, error = standard.fmean(values), standard.pstdev(values) / len(values) ** 0.5
    assert (low, high) == pytest.approx((mean - 1.96 * error, mean + 1.96 * error), abs=0.004)


def test_the_same_results_give_the_same_interval() -> None:
    rows = [[0.1, 0.5, 0.9, 0.3, 0.7], [0.4, 0.8, 1.0, 0.6, 0.9]]
    assert statistics.intervals(rows) == statistics.intervals(rows)
    assert statistics.intervals(rows)[0] == statistics.intervals(rows[:1])[0]  # a row's does not depend on the others


def test_the_curve_of_all_k_has_intervals_that_rise_with_it() -> None:
    counts = {f"Own/{number}": "1" * (number % 7) + "0" * (12 - number % 7) for number in range(30)}
    (found,) = statistics.scores(results("python", "fixdocs", counts), {})
    assert list(found["pass@k"]) == list(found["interval"]) == [str(k) for k in range(1, 13)]
    for values in (list(found["pass@k"].values()), *zip(*found["interval"].values(), strict=True)):
        assert list(values) == sorted(values)
    assert all(low <= found["pass@k"][k] <= high for k, (low, high) in found["interval"].items())


def test_all_right_and_one_problem_have_no_spread() -> None:
    assert statistics.intervals([[1.0, 1.0, 1.0]]) == [(1.0, 1.0)]
    assert statistics.intervals([[0.5]]) == [None]


def test_scores_are_by_language_scenario_and_type_of_bug() -> None:
    rows = [*results("python", "fixtests", {"Python/0": "10", "Python/1": "11", "Python/2": "00"}),
            *results("js", "fixtests", {"JavaScript/0": "01"})]
    python, js = statistics.scores(rows, {"python": {"Python/0": "value misuse", "Python/1": "missing logic",
                                                     "Python/2": "value misuse"}})
    assert (python["language"], python["scenario"], python["problems"], python["samples"]) == ("python", "fixtests", 3, 6)
    assert python["pass@k"] == {"1": 0.5, "2": pytest.approx(2 / 3)}
    assert python["verdicts"] == {"passed": 3, "failed": 3, "timeout": 0, "compile error": 0, "refused": 0}
    assert list(python["bug_types"]) == ["missing logic", "value misuse"]
    assert python["bug_types"]["value misuse"]["pass@k"] == {"1": 0.25, "2": 0.5}
    assert python["bug_types"]["missing logic"]["interval"] == {"1": None, "2": None}
    assert list(js["bug_types"]) == [statistics.UNKNOWN_BUG]


def test_the_mean_of_languages_is_over_problems_of_one_number() -> None:
    rows = [*results("python", "fixdocs", {"Python/0": "1", "Python/1": "0"}),
            *results("js", "fixdocs", {"JavaScript/1": "0", "JavaScript/0": "1"})]
    mean = statistics.averages(rows)["fixdocs"]
    assert (mean["pass@k"], mean["problems"], mean["languages"]) == ({"1": 0.5}, 2, ["python", "js"])
    assert mean["interval"]["1"] == [0.0, 1.0]  # both languages solve the same problem: as uncertain as one
    assert statistics.averages(rows[:3]) == statistics.averages(rows[:2]) == {}


def test_the_p_value_counts_all_flips_of_signs() -> None:
    before = [0.0, 0.25, 1.0, 0.5, 0.0, 0.75, 0.5, 1.0]
    after = [1.0, 0.75, 0.5, 0.75, 0.5, 1.0, 0.5, 1.0]
    changes = [second - first for first, second in zip(before, after, strict=True)]
    flipped = [sum(sign * change for sign, change in zip(signs, changes, strict=True))
               for signs in itertools.product((1, -1), repeat=len(changes))]
    as_large = sum(abs(value) >= abs(sum(changes)) for value in flipped) / len(flipped)
    found = statistics.difference(before, after)
    assert found.value == pytest.approx(sum(changes) / 8)
    assert found.p == pytest.approx(as_large)
    assert found.interval[0] < found.value < found.interval[1]


def test_no_change_and_one_change_are_no_evidence() -> None:
    assert statistics.difference([0.0, 1.0, 1.0], [0.0, 1.0, 1.0]) == statistics.Difference(0.0, (0.0, 0.0), 1.0)
    assert statistics.difference([0.0, 1.0, 1.0], [1.0, 1.0, 1.0]).p == 1.0
    assert statistics.difference([0.0] * 200, [1.0] * 200).p < 0.001
