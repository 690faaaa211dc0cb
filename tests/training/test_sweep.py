"""Every layout that four processes allow, with every way to recompute, gives one curve: loss and gradient norm of each step.

MEGATRON_FT_SWEEP=all runs every combination; the usual run every layout, of one family with every optimizer and overlap, and
each way to recompute in the most cut ones.
"""

from __future__ import annotations

import itertools
import os

import pytest

from tests.training.runs import config

VARIANTS = {"starcoder": "mqa", "llama": "mqa_tied_llama3"}  # both tied, padded, and with fewer groups than tp
RECOMPUTATIONS = {
    "none": {"recompute": "none"},
    "attention": {"recompute": "selective"},
    "norms and MLPs": {"recompute": "selective", "modules": ["layernorm", "mlp"]},
    "layers": {"recompute": "full"},
    "pairs of layers": {"recompute": "full", "layers": 2},
}
EVERY = os.environ.get("MEGATRON_FT_SWEEP") == "all"
STEPS = 3
OF_EIGHT = [{"tp": 4}, {"tp": 4, "sequence_parallel": True}, {"pp": 4, "virtual_stages": 2}]
"""Layouts of four processes that six heads and four layers cannot be cut into."""


def layouts(size: int, *, gradient_choices: bool, most_cut: bool) -> list[dict]:
    """All of tp x pp x dp with `size` ranks, sequence parallelism and pieces of the pipeline.

    Those of a model with six heads and four layers; OF_EIGHT are the others.

    Args:
        gradient_choices: each with every optimizer and overlap, which have to do with finished gradients, not with layers.
        most_cut: only those with sequence parallelism, or a layer a stage.
    """
    found = []
    for tp, pp in itertools.product([1, 2], [1, 2, 4]):
        if size % (tp * pp):
            continue
        pieces = {1: [{}], 2: [{}, {"virtual_stages": 2}, {"stage_layers": [1, 3]}], 4: [{}]}[pp]
        for sequence_parallel, distributed, overlap, piece in itertools.product(
                [False, True] if tp > 1 else [False], [True, False] if gradient_choices else [True],
                [True, False] if gradient_choices and size > tp * pp else [True], pieces):
            found.append({"tp": tp, "pp": pp, "sequence_parallel": sequence_parallel, "distributed_optimizer": distributed,
                          "overlap_grad_reduce": overlap, **piece})
    return [layout for layout in found if not most_cut or layout["sequence_parallel"] or layout["pp"] == 4]


def divides(together: int, layout: dict, layers: int) -> bool:
    """Whether pieces of so many layers over a layout's stages hold whole groups of `together` layers."""
    pieces = layout.get("stage_layers") or [layers // (layout.get("pp", 1) * layout.get("virtual_stages", 1))]
    return all(layers % together == 0 for layers in pieces)


@pytest.fixture(scope="module")
def check(pool, bases, dataset, tmp_path_factory):
    """(family, variant, size, layouts, recomputation): each has the curve of one rank with the plain optimizer."""
    made = {}

    def curves(family, variant, size, runs):
        settings = config(bases(family, variant)[1], dataset, tmp_path_factory.mktemp(family), run__steps=STEPS)
        return pool.run(size, "tests.training.programs:curves", config=settings, layouts=runs)

    def compare(family, variant, size, wanted, recomputation):
        if (family, variant) not in made:
            [[made[family, variant]]] = curves(family, variant, 1, [{"parallel": {"distributed_optimizer": False}}])
        found = curves(family, variant, size, [{"parallel": layout, "memory": recomputation} for layout in wanted])
        for of_rank in found:
            for layout, curve in zip(wanted, of_rank, strict=True):
                for (loss, norm), (expected_loss, expected_norm) in zip(curve, made[family, variant], strict=True):
                    assert loss == pytest.approx(expected_loss, rel=1e-5), layout
                    assert norm == pytest.approx(expected_norm, rel=2e-5), layout

    return compare


@pytest.mark.slow
@pytest.mark.parametrize("size, recomputation", [
    pytest.param(size, recomputation, id=f"{name}, {size} ranks") for size in (1, 2, 4)
    for name, recomputation in RECOMPUTATIONS.items() if EVERY or size == 4 or name == "none"])
@pytest.mark.parametrize("family", VARIANTS)
def test_no_layout_and_no_recomputation_changes_the_curve(check, family, size, recomputation):
    plain = recomputation["recompute"] == "none"
    wanted = layouts(size, gradient_choices=EVERY or (plain and family == "starcoder"), most_cut=not (plain or EVERY))
    wanted = [layout for layout in wanted if divides(recomputation.get("layers", 1), layout, 4)]
    check(family, VARIANTS[family], size, wanted, recomputation)


@pytest.mark.slow
@pytest.mark.parametrize("name", RECOMPUTATIONS if EVERY else ["none", "norms and MLPs"])
@pytest.mark.parametrize("family", VARIANTS)
def test_nor_do_layouts_that_take_eight_layers_and_heads(check, family, name):
    recomputation = RECOMPUTATIONS[name]
    wanted = [{**layout, "distributed_optimizer": distributed} for layout in OF_EIGHT
              for distributed in ([True, False] if EVERY else [True]) if divides(recomputation.get("layers", 1), layout, 8)]
    check(family, "eight", 4, wanted, recomputation)
