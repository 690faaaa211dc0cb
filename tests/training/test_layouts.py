"""Whole runs in a few layouts: one curve, of validation too; bf16 and dropout run in them. `test_sweep` has all layouts."""

from __future__ import annotations

import pytest

from tests.training.runs import config, curve, run

LAYOUTS = {
    "tp2 x pp2, sequence parallel": (4, {"tp": 2, "pp": 2, "sequence_parallel": True}, {}),
    "dp2, two rows a micro-batch": (2, {}, {"data__rows_per_micro_batch": 2}),
    "tp2 x dp2, four rows a micro-batch": (4, {"tp": 2}, {"data__rows_per_micro_batch": 4}),
    "pp2 x dp2, plain optimizer": (4, {"pp": 2, "distributed_optimizer": False}, {}),
}
VARIANTS = {"starcoder": "mqa", "llama": "mqa_tied_llama3"}  # both tied, padded, and with fewer groups than tp


@pytest.fixture(scope="module")
def one_rank(pool, bases, dataset, tmp_path_factory):
    """family -> metrics of the run on one rank, with the plain optimizer."""
    made = {}

    def lines(family):
        if family not in made:
            settings = config(bases(family, VARIANTS[family])[1], dataset, tmp_path_factory.mktemp(family))
            made[family] = run(pool, 1, {**settings, "parallel": {"distributed_optimizer": False}})
        return made[family]

    return lines


@pytest.mark.parametrize("size, parallel, overrides", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("family", VARIANTS)
def test_the_layout_does_not_matter(pool, bases, dataset, one_rank, tmp_path, family, size, parallel, overrides):
    settings = config(bases(family, VARIANTS[family])[1], dataset, tmp_path, **overrides)
    lines, expected = run(pool, size, {**settings, "parallel": parallel}), one_rank(family)
    assert curve(lines) == pytest.approx(curve(expected), rel=1e-5)
    assert curve(lines, "grad_norm") == pytest.approx(curve(expected, "grad_norm"), rel=2e-5)
    assert curve(lines, "valid_loss") == pytest.approx(curve(expected, "valid_loss"), rel=1e-5)
    for field in ("supervised_share", "padding_share", "lr", "rows"):
        assert curve(lines, field) == curve(expected, field)


def test_validation_loss_falls(one_rank):
    for family in VARIANTS:
        first, *_, last = curve(one_rank(family), "valid_loss")
        assert last < first - 0.05


@pytest.mark.parametrize("family", VARIANTS)
def test_bf16_stays_near_fp32_and_does_not_depend_on_the_layout(pool, bases, dataset, one_rank, tmp_path, family):
    base = bases(family, VARIANTS[family])[1]
    one = curve(run(pool, 1, config(base, dataset, tmp_path / "one", model__precision="bf16")))
    four = curve(run(pool, 4, {**config(base, dataset, tmp_path / "four", model__precision="bf16"),
                               "parallel": {"tp": 2, "pp": 2, "sequence_parallel": True}}))
    assert one == pytest.approx(curve(one_rank(family)), rel=5e-3)
    assert four == pytest.approx(one, rel=5e-3)


def test_dropout_changes_the_curve_and_validation_is_without_it(pool, bases, dataset, one_rank, tmp_path):
    lines = run(pool, 4, {**config(bases("starcoder", "mqa")[1], dataset, tmp_path, model__hidden_dropout=0.3,
                                   model__attention_dropout=0.3), "parallel": {"tp": 2, "pp": 2}})
    expected = one_rank("starcoder")
    assert abs(curve(lines)[0] - curve(expected)[0]) > 1e-3
    assert curve(lines, "valid_loss")[0] == pytest.approx(curve(expected, "valid_loss")[0], rel=1e-5)
