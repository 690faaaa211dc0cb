"""pass@k against counting every choice of k samples."""

from __future__ import annotations

import math
from itertools import combinations

import pytest

from megatron_ft.errors import EvaluationError
from megatron_ft.evaluation.passk import estimate, pass_at_k, shown


@pytest.mark.parametrize("samples", [1, 2, 5, 7])
def test_the_estimate_counts_every_choice(samples: int) -> None:
    for passed in range(samples + 1):
        right = [True] * passed + [False] * (samples - passed)
        for k in range(1, samples + 1):
            choices = [any(choice) for choice in combinations(right, k)]
            assert estimate(samples, passed, k) == sum(choices) / len(choices)


def test_pass_at_1_is_the_share_that_passed() -> None:
    assert estimate(200, 37, 1) == 37 / 200


def test_large_numbers_neither_overflow_nor_cancel() -> None:
    assert 0 < estimate(100_000, 1, 100) == pytest.approx(0.001, rel=1e-12)


def test_k_runs_up_to_the_fewest_samples_of_a_problem() -> None:
    assert list(pass_at_k([(20, 3), (20, 0)])) == list(range(1, 21))
    assert list(pass_at_k([(20, 3), (4, 0)])) == [1, 2, 3, 4]


def test_tables_show_the_usual_k_and_all_samples() -> None:
    assert shown(200) == [1, 5, 10, 20, 50, 100, 200]


@pytest.mark.parametrize(("samples", "passed", "k", "value"), [
    (10, 3, 5, 1 - 21 / 252),       # C(7, 5) / C(10, 5)
    (200, 1, 100, 0.5), (200, 0, 100, 0.0), (200, 101, 100, 1.0), (100, 50, 2, 1 - 1225 / 4950),
])
def test_values_worked_out_by_hand(samples: int, passed: int, k: int, value: float) -> None:
    assert estimate(samples, passed, k) == value


@pytest.mark.parametrize(("samples", "passed", "k"), [(20, 7, 5), (200, 3, 100), (200, 150, 10), (7, 7, 3)])
def test_it_is_human_eval_s_estimator(samples: int, passed: int, k: int) -> None:
    """The product form that Chen et al. print in figure 3, and the code of human-eval computes."""
    product = math.prod(1 - k / i for i in range(samples - passed + 1, samples + 1)) if samples - passed >= k else 0.0
    assert estimate(samples, passed, k) == pytest.approx(1 - product, rel=1e-12)


def test_the_mean_is_over_problems() -> None:
    assert pass_at_k([(2, 1), (4, 4)])[1] == 0.75


@pytest.mark.parametrize(("samples", "passed", "k"), [(3, 1, 4), (3, 4, 1), (3, -1, 1), (3, 1, 0)])
def test_what_does_not_exist_is_an_error(samples: int, passed: int, k: int) -> None:
    with pytest.raises(EvaluationError, match="does not exist"):
        estimate(samples, passed, k)


def test_no_problem_is_an_error() -> None:
    with pytest.raises(EvaluationError, match="no problem"):
        pass_at_k([])
