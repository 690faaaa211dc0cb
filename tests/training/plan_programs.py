"""What the worker processes of the plan's tests run: megatron-core's own tensors, counted."""

from __future__ import annotations

import functools
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

    from megatron_ft.training import model, optimizer

    chunks = model.build(architecture, parallel=config.parallel, model=config.model, device="cpu")
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
