"""Activations as the plan counts them against what torch keeps and allocates on the CPU."""

from __future__ import annotations

import pytest

from megatron_ft.config import parse
from megatron_ft.families.architecture import Architecture
from megatron_ft.training.activations import activations, in_flight
from megatron_ft.training.state_bytes import Piece

TOKENS = 640
STARCODER = {"family": "starcoder", "layers": 4, "hidden": 256, "heads": 8, "groups": 1, "head_width": 32, "ffn": 1000,
             "vocabulary": 300, "positions": TOKENS, "norm": "layernorm", "norm_epsilon": 1e-5, "activation": "gelu_tanh",
             "gated": False, "linear_bias": True, "qkv_bias": True, "tied_head": True, "position_embedding": "learned"}
LLAMA = {"family": "llama", "layers": 4, "hidden": 256, "heads": 8, "groups": 4, "head_width": 32, "ffn": 700,
         "vocabulary": 300, "positions": TOKENS, "norm": "rmsnorm", "norm_epsilon": 1e-5, "activation": "silu", "gated": True,
         "linear_bias": False, "qkv_bias": False, "tied_head": False, "position_embedding": "rope",
         "rope": {"theta": 1e4, "type": "default"}}
SEQUENCE_PARALLEL = {"tp": 2, "sequence_parallel": True}


def run(sizes, precision="bf16", parallel=None, dropout=0.0, lora=None, **memory):
    return {"run": {"dir": "r", "steps": 1}, "load": {"from": "b"}, "memory": memory, "lora": lora or {},
            "parallel": {**(parallel or {}), "overlap_grad_reduce": False},  # gloo copies what it reduces
            "model": {"precision": precision, "vocabulary_multiple": 4, "hidden_dropout": dropout, "attention_dropout": 0.0},
            "data": {"train": ["d"], "row_tokens": TOKENS}}, sizes


RUNS = {
    1: [run(STARCODER), run(STARCODER, recompute="full"), run(STARCODER, recompute="selective", modules=["mlp"]),
        run({**STARCODER, "vocabulary": 16000}), run({**STARCODER, "vocabulary": 16000}, "fp32"), run(LLAMA),
        run(LLAMA, recompute="full", layers=2), run(LLAMA, recompute="selective", modules=["mlp", "core_attn"]),
        run({**LLAMA, "vocabulary": 16000}), run(LLAMA, lora={"rank": 24}), run(STARCODER, "fp32"),
        run({**STARCODER, "groups": 8}, "fp32")],
    2: [run(STARCODER, parallel={"tp": 2}), run(STARCODER, parallel=SEQUENCE_PARALLEL), run(LLAMA, parallel=SEQUENCE_PARALLEL),
        run({**LLAMA, "vocabulary": 16000}, parallel=SEQUENCE_PARALLEL, recompute="full"), run(LLAMA, parallel={"tp": 2}),
        run(LLAMA, parallel=SEQUENCE_PARALLEL, recompute="selective", modules=["layernorm"])],
}


@pytest.mark.parametrize("size", RUNS)
def test_activations_are_those_that_torch_keeps_and_the_peak_that_its_profiler_sees(pool, size):
    by_rank = pool.run(size, "tests.training.plan_programs:activation_bytes", runs=RUNS[size])
    for (tree, sizes), (kept, peak) in zip(RUNS[size], by_rank[0], strict=True):
        expected = activations(parse(tree), Architecture(**sizes))
        piece = Piece(sizes["layers"], first=True, last=True)
        assert expected.kept_layer == pytest.approx(kept, rel=5e-3), (tree, sizes)  # but for a norm's mean and deviation
        lowest = 0.97 if size == 1 else 0.93  # gloo gives the buffers of a collective back late
        assert lowest < (expected.of_piece(piece) + expected.temporary([piece])) / peak < 1.1, (tree, sizes)


def test_dropout_keeps_a_mask_of_a_byte_per_number():
    without, with_it = (activations(parse(run(STARCODER, dropout=rate)[0]), Architecture(**STARCODER)) for rate in (0.0, 0.1))
    assert with_it.layer - without.layer == 2 * TOKENS * 256
    assert with_it.embedding - without.embedding == TOKENS * 256


def test_attention_dropout_takes_the_flash_kernel_away():
    tree, sizes = run(STARCODER)
    tree["model"]["attention_dropout"] = 0.1
    flash, plain = activations(parse(run(STARCODER)[0]), Architecture(**sizes)), activations(parse(tree), Architecture(**sizes))
    assert plain.layer - flash.layer == TOKENS * 2 * 256 * 3  # the output once more, keys and values once per head


@pytest.mark.parametrize("pp, virtual, micro_batches", [(1, 1, 8), (4, 1, 8), (4, 1, 2), (4, 2, 8), (3, 3, 3), (8, 4, 64)])
def test_micro_batches_in_flight_are_those_of_megatron_cores_warm_up(pp, virtual, micro_batches):
    """With equal pieces: those of the warm-up and one more, as long as there are so many."""
    for stage in range(pp):
        warm_up = 2 * (pp - stage - 1) + (virtual - 1) * pp if virtual > 1 else pp - stage - 1
        expected = min(warm_up + 1, micro_batches * virtual)
        assert in_flight((7,) * virtual, stage=stage, pp=pp, micro_batches=micro_batches) == 7 * expected


def test_pieces_of_different_size_are_counted_in_the_order_of_the_schedule():
    """Two stages of two pieces, stage 0: forward a a b b a, back b, forward a, back b, ...: 3 a + 2 b, then 4 a + b."""
    assert in_flight((100, 1), stage=0, pp=2, micro_batches=4) == 4 * 100 + 1
    assert in_flight((1, 100), stage=0, pp=2, micro_batches=4) == 3 + 2 * 100
