"""pass@k against counting every choice of k samples."""

from __future__ import annotations

from itertools import combinations

import pytest

from megatron_ft.errors import EvaluationError
from megatron_ft.evaluation.passk import estimate, pass_at_k


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


def test_k_runs_over_the_usual_numbers_and_all_samples() -> None:
    assert list(pass_at_k([(20, 3), (20, 0)])) == [1, 5, 10, 20]
    assert list(pass_at_k([(12, 3)])) == [1, 5, 10, 12]
    assert list(pass_at_k([(20, 3), (4, 0)])) == [1, 4]


def test_the_mean_is_over_problems() -> None:
    assert pass_at_k([(2, 1), (4, 4)])[1] == 0.75


@pytest.mark.parametrize(("samples", "passed", "k"), [(3, 1, 4), (3, 4, 1), (3, -1, 1), (3, 1, 0)])
def test_what_does_not_exist_is_an_error(samples: int, passed: int, k: int) -> None:
    with pytest.raises(EvaluationError, match="does not exist"):
        estimate(samples, passed, k)


def test_no_problem_is_an_error() -> None:
    with pytest.raises(EvaluationError, match="no problem"):
        pass_at_k([])
