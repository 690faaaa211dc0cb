"""LoRA: frozen linears with trained adapters of low rank on top, y = W x + (alpha / rank) B A x.

T tokens of a row (under sequence parallelism, where noted, this tp rank's part), b = 1, I inputs and O outputs of a linear
(this tp rank's part where the linear is cut), R rank

| linear | A [R, I] | B [O, R] | between A and B, in the small width R |
|---|---|---|---|
| column-parallel: qkv, fc1 | whole on every tp rank | cut as the base's rows | the row is gathered, or gradients are summed |
| row-parallel: proj, fc2 | cut as the base's columns | whole on every tp rank | partial sums are added (and dealt out) |

What is whole on every tp rank has the same gradient on each, or, under sequence parallelism, a part of it from this rank's
tokens: those parameters carry `sequence_parallel`, by which megatron-core adds them up.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from megatron.core.dist_checkpointing.mapping import ShardedStateDict
from megatron.core.tensor_parallel import (
    ColumnParallelLinear,
    RowParallelLinear,
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
    reduce_from_tensor_model_parallel_region,
    reduce_scatter_to_sequence_parallel_region,
)
from megatron.core.tensor_parallel.layers import set_tensor_model_parallel_attributes
from megatron.core.tensor_parallel.random import get_cuda_rng_tracker
from megatron.core.transformer.mlp import apply_swiglu_sharded_factory
from megatron.core.transformer.utils import make_sharded_tensors_for_checkpoint
from torch import Tensor

from megatron_ft.config import Lora
from megatron_ft.families.architecture import Architecture
from megatron_ft.runtime import lora_layout
from megatron_ft.runtime.lora_layout import A, B
from megatron_ft.training import flops
from megatron_ft.training.model import unwrap


class Adapter(torch.nn.Module):
    """What LoRA adds to one linear of the local layer spec; its parameters have the linear's dtype and device."""

    def __init__(self, base: ColumnParallelLinear | RowParallelLinear, lora: Lora, *, seed: Sequence[int],
                 gated: bool = False) -> None:
        """
        Args:
            seed: decides the first A, whatever the layout.
            gated: the linear's rows are [gate; up] on each tp rank.
        """
        super().__init__()
        self.column_parallel = isinstance(base, ColumnParallelLinear)
        self.sequence_parallel = base.sequence_parallel
        self.tp_group = base.tp_group
        self.gated = gated
        self.scale = lora.alpha / lora.rank
        self.dropout = lora.dropout
        outputs, inputs = base.weight.shape
        whole = first_a(lora.rank, base.input_size, seed=seed)
        first = self.tp_group.rank() * inputs if not self.column_parallel else 0
        self.lora_A = torch.nn.Parameter(whole[:, first:first + inputs].contiguous().to(base.weight))
        self.lora_B = torch.nn.Parameter(base.weight.new_zeros(outputs, lora.rank))
        cut, copied = (self.lora_B, self.lora_A) if self.column_parallel else (self.lora_A, self.lora_B)
        # Gradient norms count a parameter on every tp rank only where this says that it is cut.
        set_tensor_model_parallel_attributes(cut, True, 0 if self.column_parallel else 1, base.weight.partition_stride)
        copied.sequence_parallel = self.sequence_parallel

    def forward(self, input_TbI: Tensor, output_TbO: Tensor) -> Tensor:
        """The linear's output with the adapter's added: [T, b, O]."""
        hidden_TbR = self._between(torch.nn.functional.linear(self._dropped(input_TbI), self.lora_A))
        added = torch.addmm(output_TbO.flatten(0, 1), hidden_TbR.flatten(0, 1), self.lora_B.t(), alpha=self.scale)
        return added.view_as(output_TbO)

    def _between(self, hidden_TbR: Tensor) -> Tensor:
        if self.column_parallel:
            if self.sequence_parallel:
                return gather_from_sequence_parallel_region(hidden_TbR, group=self.tp_group)
            return copy_to_tensor_model_parallel_region(hidden_TbR, group=self.tp_group)
        if self.sequence_parallel:
            return reduce_scatter_to_sequence_parallel_region(hidden_TbR, group=self.tp_group)
        return reduce_from_tensor_model_parallel_region(hidden_TbR, group=self.tp_group)

    def _dropped(self, input_TbI: Tensor) -> Tensor:
        if not (self.training and self.dropout):
            return input_TbI
        # The tp ranks' inputs of a row-parallel linear are different features, so the masks must differ; those of a
        # column-parallel one are copies and so must be the masks. Under sequence parallelism the block forked already.
        forked = not self.column_parallel and not self.sequence_parallel
        with get_cuda_rng_tracker().fork() if forked else contextlib.nullcontext():
            return torch.nn.functional.dropout(input_TbI, self.dropout)

    def sharded_state_dict(self, prefix: str, sharded_offsets: tuple[Any, ...], metadata: dict[str, Any]) -> ShardedStateDict:
        """What megatron-core asks every module for at a save or load: how the parameters are cut."""
        cut = {B: 0} if self.column_parallel else {A: 1}
        sharded = make_sharded_tensors_for_checkpoint(self.state_dict(keep_vars=True), prefix, cut, sharded_offsets,
                                                      tp_group=self.tp_group, dp_cp_group=metadata["dp_cp_group"])
        if self.gated:
            sharded[prefix + B] = apply_swiglu_sharded_factory(sharded[prefix + B], sharded_offsets)
        return sharded


def first_a(rank: int, inputs: int, *, seed: Sequence[int]) -> Tensor:
    """float32 [rank, inputs] on the CPU: uniform within 1 / sqrt(inputs), as peft draws it."""
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]))
    return torch.nn.init.kaiming_uniform_(torch.empty(rank, inputs, dtype=torch.float32), a=math.sqrt(5), generator=generator)


def apply(chunk: torch.nn.Module, lora: Lora, *, seed: int) -> None:
    """Freeze a chunk of the model and put adapters on its linears; before it is wrapped for data parallelism.

    At first they change nothing (B is zero). Their A follows from seed, layer and linear, so that every layout starts alike.
    """
    stage = unwrap(chunk)
    stage.requires_grad_(False)
    for layer in stage.decoder.layers:
        for number, linear in enumerate(lora_layout.LINEARS.values()):
            if linear in lora_layout.adapted(lora):
                owner, name = layer.get_submodule(linear.split(".")[0]), linear.split(".")[1]
                base = getattr(owner, name)
                adapter = Adapter(base, lora, seed=(seed, layer.layer_number, number),
                                  gated=name == "linear_fc1" and stage.config.gated_linear_unit)
                owner.add_module(lora_layout.adapter_module(name), adapter)
                base.register_forward_hook(_on_top(adapter))
    if stage.pre_process and stage.config.recompute_granularity is not None:
        # What is recomputed in the backward pass has one only if its input asks for gradients, and frozen embeddings do not.
        stage.embedding.register_forward_hook(lambda module, inputs, output: output.requires_grad_())


def _on_top(adapter: Adapter) -> Callable[..., tuple[Tensor, Tensor | None]]:
    # A linear gives (output, the bias that its caller is to add).
    return lambda linear, inputs, result: (adapter(inputs[0], result[0]), result[1])


def describe(lora: Lora, architecture: Architecture) -> str:
    """One line for the log."""
    trained = flops.adapter_weights(architecture, lora)
    return (f"LoRA: rank {lora.rank}, scale {lora.alpha:g} / {lora.rank}, on {', '.join(lora_layout.names(lora))}: {trained:,} "
            f"weights are trained, the base's {architecture.parameters:,} stay as they are")


def frozen(chunk: torch.nn.Module) -> set[str]:
    """Names of the base's weights in a chunk with adapters; empty for a model that is trained as a whole."""
    names = {name for name, _ in unwrap(chunk).named_parameters()}
    return {name for name in names if not lora_layout.is_adapter(name)} if any(map(lora_layout.is_adapter, names)) else set()


def saved(chunk: torch.nn.Module, sharded: ShardedStateDict) -> ShardedStateDict:
    """The part of a chunk's state that a checkpoint of it holds: of one with adapters, the adapters alone."""
    if not frozen(chunk):
        return sharded
    return {key: value for key, value in sharded.items() if lora_layout.is_adapter(key)}
