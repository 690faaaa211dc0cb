"""Our curve against a plain transformers and torch loop's: the same small model, packed data and AdamW, over 50 steps."""

from __future__ import annotations

import pytest

from benchmarks import plain_trainer
from megatron_ft.config import parse
from megatron_ft.data.indexed import open_dataset
from megatron_ft.runtime.device import Process
from megatron_ft.training import setup
from megatron_ft.training.schedule import learning_rate
from tests.training.runs import config, curve, run

STEPS = 50


@pytest.mark.slow
@pytest.mark.parametrize("family, variant, packing", [("starcoder", "mqa", "padded"), ("llama", "gqa", "packed")])
def test_fifty_steps_are_those_of_a_plain_loop(pool, bases, dataset, tmp_path, family, variant, packing):
    """One of the two takes documents as a padded batch, which has nothing of packing; the other packed rows with a mask."""
    hf, base = bases(family, variant)
    settings = config(base, dataset, tmp_path, run__steps=STEPS, optim__warmup_steps=5, checkpoint__every_steps=0,
                      validation__every_steps=0)
    ours = run(pool, 2, {**settings, "parallel": {"pp": 2}})

    checked = setup.prepare(parse(settings), Process(0, 1, 0, 1, "127.0.0.1", 0))
    optim, steps = checked.config.optim, []
    for _, batches in zip(range(STEPS), checked.loader, strict=False):
        rows = [[open_dataset(prefix).document(number) for prefix, number in row] for batch in batches for row in batch.rows]
        if packing == "packed":
            steps.append([plain_trainer.packed(row, checked.config.data.row_tokens) for row in rows])
        else:
            steps.append([plain_trainer.padded(row) for row in rows])
    rates = [learning_rate(number, optim, steps=STEPS, warmup_steps=5) for number in range(STEPS)]
    losses, norms, _ = plain_trainer.train(hf, steps, rates=rates, weight_decay=optim.weight_decay, clip_norm=optim.clip_norm,
                                           betas=(optim.beta1, optim.beta2), epsilon=optim.epsilon)
    assert curve(ours) == pytest.approx(losses, rel=1e-4)
    assert curve(ours, "grad_norm") == pytest.approx(norms, rel=1e-3)
    assert losses[-1] < losses[0] - 0.2, "both have learned something"


def test_a_plain_packed_row_is_the_loaders_row(bases, dataset, tmp_path):
    """The mask and positions of the plain loop say the same as cu_seqlens, so the comparison is of equal things."""
    checked = setup.prepare(parse(config(bases("llama", "gqa")[1], dataset, tmp_path)), Process(0, 1, 0, 1, "127.0.0.1", 0))
    batch = next(checked.loader)[0]
    [row] = batch.rows
    plain = plain_trainer.packed([open_dataset(prefix).document(number) for prefix, number in row], 96)
    supervised = batch.loss_mask[0] > 0
    assert plain.positions.equal(batch.position_ids)
    assert plain.labels[0][supervised].equal(batch.labels[0][supervised])
    assert (plain.labels[0][~supervised] == plain_trainer.IGNORED).all()
    borders = batch.cu_seqlens.tolist()
    for begin, end in zip(borders, borders[1:], strict=False):
        assert plain.mask[0, 0, begin:end, begin:end].tril().sum() == (end - begin) * (end - begin + 1) // 2
        assert not plain.mask[0, 0, end:, begin:end].any()
