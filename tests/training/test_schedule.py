"""The learning rate against megatron-core's own scheduler, an independent statement of the same curve."""

from __future__ import annotations

import pytest
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler

from megatron_ft.config import Optim
from megatron_ft.training.schedule import learning_rate


class _Groups:
    param_groups = [{"lr": 0.0, "weight_decay": 0.0}]


@pytest.mark.parametrize("style", ["cosine", "linear", "constant"])
def test_decay_is_megatrons(style):
    steps, warmup = 23, 4
    optim = Optim(lr=3e-4, min_lr=2e-5, schedule=style)
    # megatron-core's warm-up starts at 0 and reaches the peak at step `warmup`, ours takes one part more of it at step 0
    theirs = OptimizerParamScheduler(_Groups(), init_lr=0.0, max_lr=3e-4, min_lr=2e-5, lr_warmup_steps=warmup,
                                     lr_decay_steps=steps - 1, lr_decay_style=style, start_wd=0.0, end_wd=0.0,
                                     wd_incr_steps=0, wd_incr_style="constant")
    for step in range(warmup, steps):
        theirs.num_steps = step
        assert learning_rate(step, optim, steps=steps, warmup_steps=warmup) == pytest.approx(
            theirs.get_lr({"max_lr": 3e-4, "min_lr": 2e-5}), rel=1e-9)


def test_warmup_stable_decay_is_megatrons():
    """Of 40 steps the last quarter decays: 10 steps, which end at the last one's rate."""
    steps, warmup = 40, 4
    optim = Optim(lr=3e-4, min_lr=2e-5, schedule="wsd", decay_fraction=0.25)
    theirs = OptimizerParamScheduler(_Groups(), init_lr=0.0, max_lr=3e-4, min_lr=2e-5, lr_warmup_steps=warmup,
                                     lr_decay_steps=steps - 1, lr_decay_style="WSD", start_wd=0.0, end_wd=0.0,
                                     wd_incr_steps=0, wd_incr_style="constant", wsd_decay_steps=10,
                                     lr_wsd_decay_style="linear")
    for step in range(warmup, steps):
        theirs.num_steps = step
        assert learning_rate(step, optim, steps=steps, warmup_steps=warmup) == pytest.approx(
            theirs.get_lr({"max_lr": 3e-4, "min_lr": 2e-5}), rel=1e-9)


def test_warm_up_rises_evenly_and_never_starts_at_zero():
    optim = Optim(lr=1.0, min_lr=0.0)
    rates = [learning_rate(step, optim, steps=10, warmup_steps=4) for step in range(5)]
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_ends_of_short_runs():
    optim = Optim(lr=1.0, min_lr=0.1)
    assert learning_rate(0, optim, steps=1, warmup_steps=0) == 1.0
    assert learning_rate(9, optim, steps=10, warmup_steps=0) == pytest.approx(0.1)
