"""Starts the processes' rendezvous and megatron-core's groups: nccl for CUDA, gloo for the CPU."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
from collections.abc import Iterator

import torch
from megatron.core import parallel_state, tensor_parallel

from megatron_ft.config import Parallel
from megatron_ft.runtime import rendezvous
from megatron_ft.runtime.device import Device, Process
from megatron_ft.runtime.rendezvous import free_port as free_port


@dataclasses.dataclass(frozen=True)
class Place:
    """Where this rank stands in the layout."""

    rank: int
    size: int
    tp_rank: int
    pp_rank: int
    dp_rank: int
    dp_size: int
    first_stage: bool
    last_stage: bool
    device: Device
    store: torch.distributed.Store | None = None
    """Keys and values that all ranks see, for what is said beside the collectives; None where `layout` alone made this."""


@contextlib.contextmanager
def start(process: Process, device: Device, parallel: Parallel, *, timeout_minutes: float) -> Iterator[Place]:
    """The run's process groups, from rendezvous to tear-down; TrainingError when a process does not come.

    The caller has checked that tp * pp divides the number of processes (`training.plan.make`).
    """
    store = rendezvous.meet(process, timeout_s=60 * timeout_minutes)
    torch.distributed.init_process_group(
        backend="nccl" if device == "cuda" else "gloo", world_size=process.size, rank=process.rank, store=store,
        timeout=datetime.timedelta(minutes=timeout_minutes))
    try:
        with layout(parallel, device, timeout_minutes=timeout_minutes) as place:
            yield dataclasses.replace(place, store=store)
    finally:
        torch.distributed.destroy_process_group()


@contextlib.contextmanager
def layout(parallel: Parallel, device: Device, *, timeout_minutes: float = 10.0) -> Iterator[Place]:
    """megatron-core's tp, pp and dp groups over the processes that have met already."""
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=parallel.tp, pipeline_model_parallel_size=parallel.pp,
        virtual_pipeline_model_parallel_size=parallel.virtual_stages if parallel.virtual_stages > 1 else None,
        create_gloo_process_groups=False, distributed_timeout_minutes=max(1, round(timeout_minutes)))
    try:
        place = Place(
            rank=torch.distributed.get_rank(), size=torch.distributed.get_world_size(),
            tp_rank=parallel_state.get_tensor_model_parallel_rank(),
            pp_rank=parallel_state.get_pipeline_model_parallel_rank(),
            dp_rank=parallel_state.get_data_parallel_rank(), dp_size=parallel_state.get_data_parallel_world_size(),
            first_stage=parallel_state.is_pipeline_first_stage(), last_stage=parallel_state.is_pipeline_last_stage(),
            device=device)
        seed(0, place)  # layers enter megatron-core's generators even when they draw nothing
        yield place
    finally:
        # megatron-core only forgets its groups; over gloo each has threads that wake up a hundred times a second.
        own = [group for group in parallel_state._global_process_group_list or [] if group is not None]
        parallel_state.destroy_model_parallel()
        for group in own:
            torch.distributed.destroy_process_group(group)


def seed(value: int, place: Place) -> None:
    """Seed dropout: different per pipeline stage and data-parallel rank, and per tp rank where tensors are cut."""
    own = value + 100 * place.pp_rank + 10007 * place.dp_rank
    torch.manual_seed(own)
    tensor_parallel.model_parallel_cuda_manual_seed(own, force_reset_rng=True)
