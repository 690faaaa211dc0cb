"""What the worker processes of the plan's tests run: megatron-core's own tensors, counted."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any
from unittest import mock

from megatron_ft.config import Config, Parallel, parse
from megatron_ft.families.architecture import Architecture
from megatron_ft.runtime.device import Process


def state_bytes(process: Process, *, runs: list[tuple[dict[str, Any], dict[str, Any]]],
                bucket: int | None = None) -> list[tuple[int, int, int, int, int]]:
    """Of each (config, architecture): (pipeline stage, data-parallel rank, bytes of weights, of gradients, of optimizer state)
    on this rank, after one optimizer step.

    Args:
        bucket: elements after which megatron-core begins another bucket, in place of its 40 million.
    """
    from megatron.core import parallel_state

    from megatron_ft.runtime import groups

    found = []
    with groups.start(process, "cpu", Parallel(), timeout_minutes=2):
        for tree, sizes in runs:
            config = parse(tree)
            parallel_state.destroy_model_parallel()
            with groups.layout(config.parallel, "cpu") as place:
                found.append((place.pp_rank, place.dp_rank, *_count(config, Architecture(**sizes), bucket)))
    return found


def _count(config: Config, architecture: Architecture, bucket: int | None) -> tuple[int, int, int]:
    import torch

    from megatron_ft.training import optimizer

    chunks = _chunks(config, architecture)
    settings = functools.partial(optimizer.DistributedDataParallelConfig, bucket_size=bucket)
    with mock.patch.object(optimizer, "DistributedDataParallelConfig", settings):
        chunks = optimizer.wrap(chunks, config)
    adam = optimizer.build(chunks, config)
    adam.step()
    parameters = [parameter for chunk in chunks for parameter in chunk.parameters()]
    weights = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in parameters}
    gradients = sum(buffer.grad_data.nbytes for chunk in chunks for buffer in chunk.buffers)
    state = {}
    for part in getattr(adam, "chained_optimizers", [adam]):
        for group in part.optimizer.param_groups:
            for main in group["params"]:
                kept = [main, *part.optimizer.state[main].values()]
                state.update({one.untyped_storage().data_ptr(): one.untyped_storage().nbytes()
                              for one in kept if isinstance(one, torch.Tensor) and one.dim()})
    return sum(weights.values()), gradients, sum(size for at, size in state.items() if at not in weights)


def _chunks(config: Config, architecture: Architecture) -> list[Any]:
    from megatron_ft.training import lora, model

    chunks = model.build(architecture, parallel=config.parallel, model=config.model, memory=config.memory, device="cpu")
    for chunk in chunks if config.lora.rank else []:
        lora.apply(chunk, config.lora, seed=0)
    return chunks


def activation_bytes(process: Process, *, runs: list[tuple[dict[str, Any], dict[str, Any]]]) -> list[tuple[float, int]]:
    """Of each (config, architecture): bytes that a layer keeps for its backward pass, and the peak of both passes.

    Kept are a layer's storages, each once, by torch's hooks; the peak is above weights and gradients, by torch's profiler. In
    half precision attention keeps what the flash kernel keeps, which the CPU does not have, and RMSNorm what CUDA's fused one
    keeps.
    """
    from megatron.core import parallel_state

    from megatron_ft.runtime import groups
    from megatron_ft.training import attention, norm

    found = []
    with groups.start(process, "cpu", Parallel(), timeout_minutes=2):
        for tree, sizes in runs:
            config = parse(tree)
            parallel_state.destroy_model_parallel()
            half = config.model.precision != "fp32"
            with (groups.layout(config.parallel, "cpu"),
                  mock.patch.object(attention, "attend", _like_flash() if half else attention.attend),
                  mock.patch.object(norm.RMSNorm, "forward", _like_fused_norm() if half else norm.RMSNorm.forward)):
                fewer = _kept_bytes(config, Architecture(**{**sizes, "layers": sizes["layers"] - 2}))
                kept = (_kept_bytes(config, Architecture(**sizes)) - fewer) / 2
                found.append((kept, _peak_bytes(config, Architecture(**sizes))))
    return found


def _step(config: Config, architecture: Architecture) -> Callable[[], Any]:
    """A forward pass over one micro-batch, which is one document; it gives the loss."""
    import torch

    from megatron_ft.training import model, optimizer

    [chunk] = optimizer.wrap(_chunks(config, architecture), config)
    chunk.train()
    tokens = torch.arange(config.data.row_tokens)[None] % architecture.vocabulary

    def forward() -> Any:
        chunk.zero_grad_buffer()
        documents = model.packed(torch.tensor([0, tokens.shape[1]], dtype=torch.int32), tokens.shape[1])
        return chunk(input_ids=tokens, position_ids=torch.arange(tokens.shape[1])[None], attention_mask=None, labels=tokens,
                     packed_seq_params=documents).float().sum()

    forward.weights = {one.untyped_storage().data_ptr() for one in chunk.parameters()}
    return forward


def _kept_bytes(config: Config, architecture: Architecture) -> int:
    import torch

    forward, kept = _step(config, architecture), []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = forward()
    storages = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in kept}  # 0 where it was discarded
    assert loss.requires_grad
    return sum(size for at, size in storages.items() if at not in forward.weights)


def _peak_bytes(config: Config, architecture: Architecture) -> int:
    """The lesser of two: gloo's threads give the buffers of a collective back when they come to it."""
    import torch

    forward, peaks = _step(config, architecture), []
    forward().backward()
    for _ in range(2):
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
            forward().backward()
        events = [one for one in profiler.profiler.kineto_results.events() if one.name() == "[memory]"]
        peaks.append(max(itertools.accumulate(one.nbytes() for one in sorted(events, key=lambda one: one.start_ns()))))
    return min(peaks)


def _like_flash() -> Callable[..., Any]:
    import torch

    class Flash(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
            output = torch.zeros(query.shape, dtype=query.dtype)
            ctx.save_for_backward(query, key, value, output, torch.zeros(query.shape[1], query.shape[0]))
            return output

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return tuple(torch.zeros(one.shape, dtype=one.dtype) for one in ctx.saved_tensors[:3])

    return lambda query, key, value, cu_seqlens, *, scale, dropout, window: Flash.apply(query, key, value).flatten(1)


def _like_fused_norm() -> Callable[..., Any]:
    import torch

    class Norm(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(values, weight, torch.zeros(values.shape[:-1]))
            return values.clone()

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return gradient.clone(), torch.zeros_like(ctx.saved_tensors[1])

    return lambda norm, values: Norm.apply(values, norm.weight)
