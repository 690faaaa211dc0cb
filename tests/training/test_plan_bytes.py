"""Weights, gradients and optimizer state as the plan counts them against megatron-core's own tensors, to the byte."""

from __future__ import annotations

import pytest

from megatron_ft.config import parse
from megatron_ft.families.architecture import Architecture
from megatron_ft.training import state_bytes as counted

STARCODER = {"family": "starcoder", "layers": 5, "hidden": 60, "heads": 6, "groups": 1, "head_width": 10, "ffn": 76,
             "vocabulary": 211, "positions": 97, "norm": "layernorm", "norm_epsilon": 1e-5, "activation": "gelu_tanh",
             "gated": False, "linear_bias": True, "qkv_bias": True, "tied_head": True, "position_embedding": "learned"}
LLAMA = {"family": "llama", "layers": 6, "hidden": 48, "heads": 6, "groups": 2, "head_width": 10, "ffn": 92,
         "vocabulary": 203, "positions": 112, "norm": "rmsnorm", "norm_epsilon": 1e-5, "activation": "silu", "gated": True,
         "linear_bias": False, "qkv_bias": False, "tied_head": False, "position_embedding": "rope",
         "rope": {"theta": 1e4, "type": "default"}}
ODD = {**STARCODER, "hidden": 54, "heads": 3, "head_width": 18, "ffn": 77, "groups": 3}
"""Sizes that are multiples of nothing, for one tp rank."""


def run(sizes, precision, *, optimizer="adamw", lora=None, **parallel):
    return {"run": {"dir": "r", "steps": 1}, "load": {"from": "b"}, "data": {"train": ["d"]}, "optim": {"optimizer": optimizer},
            "model": {"precision": precision, "vocabulary_multiple": 8}, "parallel": parallel, "lora": lora or {}}, sizes


RUNS = {
    1: [run(ODD, "bf16"), run(LLAMA, "bf16", lora={"rank": 3}),
        run(ODD, "fp32", distributed_optimizer=False), run({**LLAMA, "qkv_bias": True}, "fp16")],
    2: [run(ODD, "bf16"), run(ODD, "fp32"), run(LLAMA, "bf16", distributed_optimizer=False), run(LLAMA, "bf16", tp=2),
        run(STARCODER, "bf16", tp=2, sequence_parallel=True), run({**LLAMA, "tied_head": True}, "fp32", pp=2),
        run(LLAMA, "bf16", pp=2, overlap_grad_reduce=False), run(STARCODER, "fp16", pp=2, distributed_optimizer=False),
        run(LLAMA, "bf16", pp=2, distributed_optimizer=False, optimizer="sgd"),
        run(LLAMA, "bf16", tp=2, lora={"rank": 5}), run(STARCODER, "bf16", pp=2, lora={"rank": 3, "linears": ["qkv", "fc2"]}),
        run(STARCODER, "fp32", lora={"rank": 7, "linears": ["proj"]})],
    4: [run(STARCODER, "bf16", tp=2, pp=2), run(ODD, "bf16", pp=2), run(LLAMA, "fp32", tp=2),
        run(STARCODER, "bf16", pp=2, virtual_stages=2), run(LLAMA, "bf16", pp=2, virtual_stages=3, stage_layers=[1] * 6)],
}


@pytest.mark.parametrize("size", RUNS)
def test_bytes_are_those_of_megatron_cores_tensors(pool, size):
    assert_exact(pool, size, RUNS[size])


def test_the_buckets_of_the_first_stage_are_padded_one_by_one(pool, monkeypatch):
    monkeypatch.setattr(counted, "_bucket_elements", lambda dp: 5000)
    counted._state_bytes.cache_clear()
    assert_exact(pool, 2, [run(ODD, "bf16"), run(LLAMA, "bf16", pp=2), run(STARCODER, "fp32")], bucket=5000)


def assert_exact(pool, size, runs, *, bucket=None):
    by_rank = pool.run(size, "tests.training.plan_programs:state_bytes", runs=runs, bucket=bucket)
    for number, (tree, sizes) in enumerate(runs):
        config = parse(tree)
        dp = size // (config.parallel.tp * config.parallel.pp)
        for of_rank in by_rank:
            stage, dp_rank, *found = of_rank[number]
            architecture = Architecture(**sizes)
            pieces = counted.stages(architecture, config.parallel)[stage]
            expected = counted.state_bytes(config, architecture, pieces, dp=dp, dp_rank=dp_rank)
            assert (expected.weights, expected.gradients, expected.optimizer) == tuple(found), (tree, sizes, stage, dp_rank)
