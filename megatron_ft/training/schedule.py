"""The learning rate of a step: a pure function, so that a resumed run needs no scheduler state."""

from __future__ import annotations

import math

from megatron_ft.config import Optim


def learning_rate(step: int, optim: Optim, *, steps: int, warmup_steps: int) -> float:
    """The rate of optimizer step `step` (counted from 0) in a run of `steps`.

    Warm-up rises linearly and reaches optim.lr at step `warmup_steps`; the decay reaches optim.min_lr at the last step.
    Schedule "wsd" (warm-up, stable, decay) decays in the last optim.decay_fraction of all steps only.

    >>> optim = Optim(lr=1.0, min_lr=0.2, schedule="linear")
    >>> [round(learning_rate(step, optim, steps=7, warmup_steps=2), 2) for step in range(7)]
    [0.33, 0.67, 1.0, 0.8, 0.6, 0.4, 0.2]
    >>> optim = Optim(lr=1.0, min_lr=0.2, schedule="wsd", decay_fraction=0.5)
    >>> [round(learning_rate(step, optim, steps=8, warmup_steps=1), 2) for step in range(8)]
    [0.5, 1.0, 1.0, 1.0, 0.8, 0.6, 0.4, 0.2]
    """
    if step < warmup_steps:
        return optim.lr * (step + 1) / (warmup_steps + 1)
    if optim.schedule == "constant":
        return optim.lr
    start = warmup_steps
    if optim.schedule == "wsd":
        start = max(start, steps - 1 - math.ceil(optim.decay_fraction * steps))
    done = min(1.0, max(0.0, (step - start) / max(1, steps - 1 - start)))
    remaining = 0.5 * (1.0 + math.cos(math.pi * done)) if optim.schedule == "cosine" else 1.0 - done
    return optim.min_lr + (optim.lr - optim.min_lr) * remaining
