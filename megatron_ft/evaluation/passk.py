"""pass@k: the chance that at least one of k samples is right, estimated without bias from n samples."""

from __future__ import annotations

import math
from collections.abc import Sequence

from megatron_ft.errors import EvaluationError

KS = (1, 5, 10, 20, 50, 100)


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


def pass_at_k(counts: Sequence[tuple[int, int]]) -> dict[int, float]:
    """The mean over problems for every usual k that all of them have samples for, and for all samples.

    Args:
        counts: (samples, passed) of each problem.

    >>> pass_at_k([(5, 5), (5, 0)])
    {1: 0.5, 5: 0.5}
    """
    if not counts:
        raise EvaluationError("pass@k of no problem does not exist")
    fewest = min(samples for samples, _ in counts)
    return {k: math.fsum(estimate(samples, passed, k) for samples, passed in counts) / len(counts)
            for k in sorted({*KS, fewest}) if k <= fewest}
