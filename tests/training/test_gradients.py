"""Gradients and loss against transformers: every parameter, masked loss, packed rows, split over layouts and batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from megatron_ft.conversion import megatron_to_hf
from tests.small_models import VARIANTS

ROW_TOKENS = 48
SIZES = [[(9, 6), (1, 7), (12, 10)], [(3, 2)], [(20, 22)], [(2, 30), (5, 1), (4, 4)]]
"""Of each row its documents as (prompt tokens, answer tokens): rows hold very different numbers of answer tokens."""
SPLITS = {
    "tp2 x pp2 x sp": (4, {"tp": 2, "pp": 2, "sequence_parallel": True}, 1),
    "dp2": (2, {}, 1),
    "dp4": (4, {}, 1),
    "micro-batches of two rows, tp2 x dp2": (4, {"tp": 2}, 2),
    "one micro-batch of four rows": (1, {}, 4),
}
EVERY_SPLIT = {"starcoder": "mqa", "llama": "mqa_tied_llama3"}  # the others: the first, which cuts them most
CASES = [pytest.param(family, variant, *split, id=f"{family}-{variant}, {name}") for family, variant in VARIANTS
         for name, split in SPLITS.items() if EVERY_SPLIT.get(family) == variant or
         (family not in EVERY_SPLIT and name == next(iter(SPLITS)))]


@pytest.fixture(scope="module")
def rows():
    random = np.random.RandomState(11)
    return [[(random.randint(0, 200, prompt + answer).tolist(), [False] * prompt + [True] * answer)
             for prompt, answer in row] for row in SIZES]


def expected(hf: Path, rows, weighting: str) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients by transformers, one document at a time; the mean is taken over all of them at once."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(hf, attn_implementation="eager").eval()
    total, count = 0.0, 0
    for ids, supervised in (document for row in rows for document in row):
        losses = torch.nn.functional.cross_entropy(model(torch.tensor([ids])).logits[0, :-1], torch.tensor(ids[1:]),
                                                   reduction="none")[torch.tensor(supervised[1:])]
        total = total + (losses.mean() if weighting == "target" else losses.sum())
        count += 1 if weighting == "target" else len(losses)
    loss = total / count
    loss.backward()
    return loss.item(), {name: parameter.grad for name, parameter in model.named_parameters()}


def ours(pool, bases, tmp_path, family, variant, rows, *, size=1, parallel=None, per_micro_batch=1, weighting="token"):
    hf, checkpoint = bases(family, variant)
    losses = pool.run(size, "tests.training.programs:gradients", checkpoint=str(checkpoint), parallel=parallel or {},
                      rows=rows, row_tokens=ROW_TOKENS, weighting=weighting, rows_per_micro_batch=per_micro_batch,
                      output=str(tmp_path / "gradients"))
    assert len(set(losses)) == 1, "every rank reports the global loss"
    megatron_to_hf.convert(tmp_path / "gradients", tmp_path / "hf")
    return hf, losses[0], load_file(tmp_path / "hf" / "model.safetensors")


def assert_equal(loss, gradients, reference_loss, reference) -> None:
    assert loss == pytest.approx(reference_loss, rel=1e-5)
    assert set(gradients) == set(reference)
    for name, gradient in gradients.items():
        relative = (gradient - reference[name]).norm() / reference[name].norm()
        assert relative < 1e-4, f"{name}: relative error {relative:.2e}"


@pytest.mark.parametrize("family, variant", VARIANTS)
def test_gradients_of_a_masked_packed_batch_equal_transformers(pool, bases, tmp_path, rows, family, variant):
    hf, loss, gradients = ours(pool, bases, tmp_path, family, variant, rows)
    assert_equal(loss, gradients, *expected(hf, rows, "token"))


@pytest.mark.parametrize("family, variant, size, parallel, per_micro_batch", CASES)
def test_loss_and_gradients_do_not_depend_on_the_split(pool, bases, tmp_path, rows, family, variant, size, parallel,
                                                       per_micro_batch):
    hf, loss, gradients = ours(pool, bases, tmp_path, family, variant, rows, size=size, parallel=parallel,
                               per_micro_batch=per_micro_batch)
    assert_equal(loss, gradients, *expected(hf, rows, "token"))


@pytest.mark.parametrize("size", [1, 2])
def test_target_weighting_gives_every_answer_the_same_weight(pool, bases, tmp_path, rows, size):
    hf, loss, gradients = ours(pool, bases, tmp_path, "llama", "gqa", rows, size=size, weighting="target")
    reference_loss, reference = expected(hf, rows, "target")
    assert_equal(loss, gradients, reference_loss, reference)
    assert loss != pytest.approx(expected(hf, rows, "token")[0], rel=1e-3), "the rows must tell the weightings apart"
