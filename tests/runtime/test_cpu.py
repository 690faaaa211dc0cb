"""The CPU adapter: what its docstring's table says, and that it leaves alone what it must."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

CLAIMS = {
    "factories put CUDA tensors on the CPU": "torch.zeros(2, device='cuda').device.type == 'cpu'",
    "pinning is left out": "torch.tensor([1], device='cuda:1', pin_memory=True).device.type == 'cpu'",
    "like-factories too": "torch.empty_like(torch.ones(2), device=torch.device('cuda')).device.type == 'cpu'",
    "Tensor.to takes both spellings":
        "torch.ones(2).to('cuda').device.type == torch.ones(2).to(device='cuda').device.type == 'cpu'",
    "current_device is a device": "torch.ones(2, device=torch.cuda.current_device()).sum() == 2",
    "cuda() is the object": "torch.ones(2).cuda().equal(torch.ones(2)) and torch.nn.Linear(1, 1).cuda() is not None",
    "CUDA's types are the CPU's": "isinstance(torch.ones(2), torch.cuda.FloatTensor)",
    "streams do nothing": "torch.cuda.Stream().wait_stream(torch.cuda.current_stream()) is None",
    "synchronize does nothing": "torch.cuda.synchronize() is None and not torch.cuda.is_current_stream_capturing()",
    "no GPU appears": "not torch.cuda.is_available()",
    "others see a tensor's true type": "torch.ones(2).type() == 'torch.FloatTensor'",
    "megatron-core sees CUDA's name": "called_from('megatron.core.optimizer') == 'torch.cuda.FloatTensor'",
    "not everybody does": "called_from('megatron.training') == 'torch.FloatTensor'",
    "dropout outside tp regions is equal on tp ranks": "drawn(0)[0].equal(drawn(1)[0])",
    "dropout inside them differs": "not drawn(0)[1].equal(drawn(1)[1])",
    "dropout is repeatable": "drawn(0)[1].equal(drawn(0)[1])",
    "device contexts hold, or transformers would build wrong models": "in_context('meta') == 'meta'",
    "torch.compile is torch's": "torch.compile.__module__ == 'torch'",
    "fused functions are plain": "not hasattr(fused_bias_dropout.bias_dropout_add_fused_train, '_torchdynamo_orig_callable')",
    "torch's compiler is not even loaded": "'torch._inductor.compile_fx' not in sys.modules",
    "the gradient norm is exact where torch's is not": "norm_error() < 1e-6",
    "transformer_engine and apex are out of reach":
        "importlib.util.find_spec('transformer_engine') is importlib.util.find_spec('apex') is None",
}
"""What the adapter's table says, as expressions; evaluated in a process of its own, for it changes torch for good."""

PROGRAM = """
import importlib.util, json, sys
from megatron_ft.runtime import cpu
import torch
cpu.activate(); cpu.activate()
from megatron.core.fusions import fused_bias_dropout
from megatron.core.tensor_parallel import random

def called_from(module):
    scope = {"__name__": module, "tensor": torch.ones(1)}
    exec("found = tensor.type()", scope)
    return scope["found"]

def drawn(rank):
    random.model_parallel_cuda_manual_seed(5, tp_rank=rank, ep_rank=0, etp_rank=rank, force_reset_rng=True)
    outside = torch.rand(3)
    with random.get_cuda_rng_tracker().fork():
        return outside, torch.rand(3)

def in_context(device):
    with torch.device(device):
        return torch.tensor([1.0]).device.type

def norm_error():
    # torch.norm(big) is 1e-4 low
    from megatron.core.optimizer import clip_grads
    big = torch.rand(2**22, generator=torch.Generator().manual_seed(0)).pow(8)
    true = big.double().norm().item()
    return abs(clip_grads.l2_norm_impl(2048, None, [[big]], False)[0].item() / true - 1)

print(json.dumps({name: bool(eval(claim)) for name, claim in json.loads(sys.argv[1]).items()}))
"""


@pytest.fixture(scope="module")
def found() -> dict[str, bool]:
    """Claim -> whether it holds."""
    ended = subprocess.run([sys.executable, "-c", PROGRAM, json.dumps(CLAIMS)], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


@pytest.mark.parametrize("claim", CLAIMS)
def test_the_table_holds(found, claim):
    assert found[claim]


def test_it_is_active_only_for_the_cpu():
    code = ("import sys; from megatron_ft.runtime import device, cpu; from megatron_ft.config import Runtime; import torch\n"
            "torch.cuda.is_available = lambda: True; torch.cuda.device_count = lambda: 1\n"
            "torch.cuda.set_device = lambda _: None\n"
            "chosen = device.prepare(Runtime(device=sys.argv[1]), device.process_of({}))\n"
            "print(chosen, cpu._active)")
    for setting, expected in (("auto", "cuda False"), ("cuda", "cuda False"), ("cpu", "cpu True")):
        ended = subprocess.run([sys.executable, "-c", code, setting], capture_output=True, text=True)
        assert ended.stdout.strip() == expected, ended.stderr
