"""pass@k: the chance that at least one of k samples is right, estimated without bias from n samples."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

from megatron_ft.errors import EvaluationError

KS = (1, 5, 10, 20, 50, 100)


@functools.lru_cache(maxsize=1 << 16)  # problems share their few counts, and exact binomials of hundreds are slow
def estimate(samples: int, passed: int, k: int) -> float:
    """1 - C(n-c, k) / C(n, k) for n samples of which c passed (Chen et al. 2021, equation 1).

    The binomials are exact integers, so nothing overflows or cancels.

    >>> estimate(4, 1, 2)
    0.5
    """
    if not 1 <= k <= samples or not 0 <= passed <= samples:
        raise EvaluationError(f"pass@{k} of {passed} passed among {samples} samples does not exist")
    every = math.comb(samples, k)
    return (every - math.comb(samples - passed, k)) / every


def curves(counts: Sequence[tuple[int, int]]) -> list[list[float]]:
    """For every k that all problems have samples for, from 1: the estimate of each problem.

    Args:
        counts: (samples, passed) of each problem.

    >>> curves([(2, 1), (2, 0)])
    [[0.5, 0.0], [1.0, 0.0]]
    """
    if not counts:
        raise EvaluationError("pass@k of no problem does not exist")
    fewest = min(samples for samples, _ in counts)
    return [[estimate(samples, passed, k) for samples, passed in counts] for k in range(1, fewest + 1)]


def pass_at_k(counts: Sequence[tuple[int, int]]) -> dict[int, float]:
    """The mean over problems for every k that all of them have samples for.

    >>> pass_at_k([(2, 2), (2, 0)])
    {1: 0.5, 2: 0.5}
    """
    return {k: math.fsum(values) / len(values) for k, values in enumerate(curves(counts), start=1)}


def shown(most: int) -> list[int]:
    """The k that tables have columns for: the usual ones, and all samples.

    >>> shown(20), shown(12), shown(1)
    ([1, 5, 10, 20], [1, 5, 10, 12], [1])
    """
    return sorted({most, *(k for k in KS if k < most)})
