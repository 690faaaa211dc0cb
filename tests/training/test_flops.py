"""The formula for FLOPs against torch's own counter on the Hugging Face model."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from megatron_ft import families
from megatron_ft.config import Lora
from megatron_ft.training import flops
from megatron_ft.training.step import _before as before
from tests.small_models import hf_config
from tests.training.programs import micro_batches

LENGTH = 31


def counted(model: torch.nn.Module, *, backward: bool) -> int:
    """By torch, of one document; eager attention multiplies all pairs, those that the mask then hides too."""
    with FlopCounterMode(display=False) as counter:
        output = model(torch.arange(LENGTH)[None] + 3)
        if backward:
            output.logits.sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("family, variant", [("starcoder", "mqa"), ("llama", "gqa"), ("llama", "mqa_tied_llama3")])
def test_forward_and_backward_are_what_torch_counts(family, variant):
    config = hf_config(family, variant)
    architecture = families.from_hf_config(config.to_dict(), where="test")
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").train()
    ours = flops.forward(architecture, tokens=LENGTH, pairs=LENGTH ** 2)
    assert counted(model, backward=False) == ours
    assert counted(model, backward=True) == flops.step(architecture, tokens=LENGTH, pairs=LENGTH ** 2)


def test_pairs_are_those_that_causal_attention_looks_at():
    assert flops.pairs_of(LENGTH) == int(torch.ones(LENGTH, LENGTH).tril().sum())


@pytest.mark.parametrize("window", [1, 7, LENGTH - 1, LENGTH, LENGTH + 1])
def test_pairs_in_a_window_are_counted_alike_in_documents_and_in_batches(window):
    expected = int(torch.ones(LENGTH, LENGTH).tril().triu(1 - window).sum())
    assert flops.pairs_of(LENGTH, window) == expected
    [batch] = micro_batches([[([5] * (LENGTH + 1), [True] * (LENGTH + 1))]], 40, "token", 1, 0, 1)
    assert LENGTH + before(batch, (window - 1, 0)) == expected


def test_adapters_leave_out_the_gradients_of_the_base_weights():
    """Counted by torch too: y = W x + B A x with W frozen."""
    architecture = families.from_hf_config(hf_config("llama", "gqa").to_dict(), where="test")
    lora = Lora(rank=3, linears=("fc2",))
    inputs, outputs = flops.linears(architecture)["fc2"]
    x = torch.randn(LENGTH, inputs, requires_grad=True)
    frozen, down, up = (torch.randn(*shape, requires_grad=True) for shape in ((outputs, inputs), (3, inputs), (outputs, 3)))
    frozen.requires_grad_(False)
    with FlopCounterMode(display=False) as counter:
        (x @ frozen.T + (x @ down.T) @ up.T).sum().backward()
    adapter = flops.adapter_weights(architecture, lora) // architecture.layers
    assert counter.get_total_flops() == 2 * LENGTH * (2 * inputs * outputs + 3 * adapter)
    whole, with_lora = (flops.step(architecture, tokens=LENGTH, pairs=0, lora=given) for given in (None, lora))
    assert whole - with_lora == 2 * LENGTH * flops.matrix_weights(architecture) - 6 * LENGTH * architecture.layers * adapter
