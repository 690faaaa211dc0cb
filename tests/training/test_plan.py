"""The plan: its arithmetic, its derivations as text, and every layout that it must refuse, with advice that works."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_ft import families
from megatron_ft.config import Parallel, parse
from megatron_ft.errors import ConfigError
from megatron_ft.training.plan import make, stage_layers


def planned(preset="starcoderbase", processes=128, rows_per_epoch=1000, rows_of_first=None, **overrides):
    tree = {"run": {"dir": "r", "epochs": 2}, "load": {"from": "b"}, "data": {"train": ["p"], "rows_per_step": 128},
            "parallel": {"tp": 4, "pp": 4}}
    for name, value in overrides.items():
        section, field = name.split("__")
        tree.setdefault(section, {})[field] = value
    return make(parse(tree), families.preset(preset), processes=processes, rows_per_epoch=rows_per_epoch,
                rows_of_first=rows_of_first)


def test_the_published_starcoder_layout():
    plan = planned(processes=64)
    assert (plan.dp, plan.micro_batches, plan.steps, plan.warmup_steps) == (4, 32, 16, 1)
    assert plan.lines()[:3] == ["64 processes = 4 tp x 4 pp x 4 dp",
                                "128 rows/step = 1 row/micro-batch x 4 dp x 32 micro-batches",
                                "262,144 tokens/step = 128 rows x 2048 tokens"]


def test_epochs_round_up_to_whole_steps():
    plan = planned(rows_per_epoch=129, run__epochs=1)
    assert plan.steps == 2
    assert plan.lines()[3] == "2 steps = 256 rows = 1.98 epochs of 129 rows"


def test_epochs_that_differ_are_counted_in_their_own_rows_and_said_to_be_about():
    """Of 2.5 epochs with 1000, 1100 and 1200 rows, 2700 rows are read."""
    plan = planned(rows_of_first={2.5: 2700.0}.__getitem__, run__epochs=2.5)
    assert plan.steps == 22  # 21.1 of 128 rows
    assert plan.lines()[3] == "22 steps = 2,816 rows = about 2.82 epochs of 1,000 rows"


@pytest.mark.parametrize("overrides, words", [
    ({"processes": 60}, "60 processes cannot be split into tp=4 x pp=4.* start 48 or 64 processes"),
    ({"processes": 3}, "3 processes cannot be split.* start 16 processes"),
    ({"parallel__tp": 5, "processes": 20}, "5 does not divide the 48 attention heads of starcoder; use one of \\[1, 2, 3, 4"),
    ({"parallel__pp": 41, "processes": 164}, "40 layers cannot be dealt out over 41 stages x 1 pieces = 41"),
    ({"parallel__stage_layers": [20, 20]}, "2 numbers \\[20, 20\\], but parallel.pp=4 x virtual_stages=1 makes 4 pieces"),
    ({"parallel__stage_layers": [9, 11, 11, 10]}, "is 41 layers .* but the model has 40 .* e.g. \\[10, 10, 10, 10\\]"),
    ({"parallel__stage_layers": [0, 14, 14, 12]}, "with 0 in the smallest piece"),
    ({"parallel__virtual_stages": 2, "processes": 64, "data__rows_per_step": 120},
     "120 makes 30 micro-batches a step, which parallel.virtual_stages=2 takes in turns of parallel.pp=4; use 112 or 128"),
    ({"processes": 48}, "data.rows_per_step: 128 is not a multiple of 1 row/micro-batch x 3 dp = 3; use 126 or 129"),
    ({"rows_per_epoch": None}, "2.0 epochs of data that are not here are an unknown number of steps; set run.steps"),
    ({"optim__warmup_steps": 16}, "16 leaves nothing of the run's 16 steps"),
    ({"memory__recompute": "full", "memory__layers": 4}, "memory.layers: 4 does not divide the 10 layers .* \\[1, 2, 5, 10"),
    ({"parallel__sequence_parallel": True, "data__row_tokens": 2046}, "2046 is not a multiple of parallel.tp=4.* 2044 or 2048"),
])
def test_what_cannot_be_split_is_refused_with_advice(overrides, words):
    with pytest.raises(ConfigError, match=words):
        planned(**overrides)


def test_a_run_of_so_many_steps_needs_no_data_to_be_planned():
    plan = planned(rows_per_epoch=None, run__epochs=0, run__steps=70)
    assert plan.lines()[3:] == ["70 steps = 8,960 rows", "1 steps of warm-up, 15,517,456,384 parameters"]


def test_key_value_heads_and_tp_must_divide_one_another():
    llama = dataclasses.replace(families.preset("llama2-7b"), heads=12, groups=4)
    tree = {"run": {"dir": "r", "steps": 9}, "load": {"from": "b"}, "data": {"train": ["p"]}, "parallel": {"tp": 6}}
    with pytest.raises(ConfigError, match="6 and the 4 key/value heads of llama.* use one of \\[1, 2, 4, 12\\]"):
        make(parse(tree), dataclasses.replace(llama, ffn=12 * 900), processes=6, rows_per_epoch=9)


@given(pp=st.integers(1, 9), virtual=st.integers(1, 4), extra=st.integers(0, 40))
def test_layers_are_dealt_out_evenly_with_fewer_at_the_ends(pp, virtual, extra):
    layers = pp * virtual + extra
    pieces = stage_layers(layers, Parallel(pp=pp, virtual_stages=virtual))
    stages = [sum(pieces[stage::pp]) for stage in range(pp)]
    assert sum(pieces) == layers and max(pieces) - min(pieces) <= 1 and max(stages) - min(stages) <= 1
    assert stages[-1] == min(stages)
    assert stages[0] == min(stages) or stages.count(min(stages)) == 1


def test_the_layers_that_are_given_are_taken():
    assert stage_layers(40, Parallel(pp=2, virtual_stages=2, stage_layers=(9, 10, 12, 9))) == (9, 10, 12, 9)
