"""megatron-core's optimizer for a run, and what its state needs to be saved and loaded with torch's Adam."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
from megatron.core.optimizer.clip_grads import clip_grad_by_total_norm_fp32
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from megatron.core.optimizer.optimizer import MegatronOptimizer

from megatron_ft.config import Config, Parallel
from megatron_ft.training.model import DTYPES


def wrap(chunks: Sequence[torch.nn.Module], config: Config) -> list[DistributedDataParallel]:
    """The model with megatron-core's gradient buffers: fp32 gradients, reduced over the data-parallel ranks."""
    parallel = config.parallel
    settings = DistributedDataParallelConfig(
        grad_reduce_in_fp32=True, use_distributed_optimizer=parallel.distributed_optimizer,
        overlap_grad_reduce=parallel.overlap_grad_reduce, overlap_param_gather=_gathers_while_computing(parallel))
    # Chunks after the first are reduced while others compute; cutting them into buckets too would gain nothing.
    return [DistributedDataParallel(config=chunk.config, ddp_config=settings, module=chunk, disable_bucketing=number > 0)
            for number, chunk in enumerate(chunks)]


def _gathers_while_computing(parallel: Parallel) -> bool:
    # megatron-core gathers parameters only with the distributed optimizer, and only where gradients overlap too.
    return parallel.overlap_param_gather and parallel.overlap_grad_reduce and parallel.distributed_optimizer


@contextlib.contextmanager
def whole_weights(chunks: Sequence[DistributedDataParallel]) -> Iterator[None]:
    """Within it every rank holds the weights of the last update; to be entered before they are read outside training.

    While parameters are gathered during the forward pass, a rank has old values of the others' parts until it computes
    with them. All ranks must enter it together.
    """
    gathering = [chunk for chunk in chunks if chunk.remove_forward_pre_hook_handles]
    for chunk in gathering:
        chunk.disable_forward_pre_hook(param_sync=True)
    try:
        yield
    finally:
        for chunk in gathering:
            chunk.enable_forward_pre_hook()


def build(chunks: Sequence[DistributedDataParallel], config: Config) -> MegatronOptimizer:
    """The optimizer over fp32 weights."""
    optim = config.optim
    settings = OptimizerConfig(
        optimizer="sgd" if optim.optimizer == "sgd" else "adam", decoupled_weight_decay=optim.optimizer != "adam",
        lr=optim.lr, min_lr=optim.min_lr, weight_decay=optim.weight_decay, sgd_momentum=optim.momentum,
        adam_beta1=optim.beta1, adam_beta2=optim.beta2, adam_eps=optim.epsilon, clip_grad=optim.clip_norm,
        bf16=config.model.precision == "bf16", fp16=config.model.precision == "fp16",
        initial_loss_scale=optim.initial_loss_scale, loss_scale_window=optim.loss_scale_window,
        params_dtype=DTYPES[config.model.precision], overlap_param_gather=_gathers_while_computing(config.parallel),
        use_distributed_optimizer=config.parallel.distributed_optimizer)
    return get_megatron_optimizer(settings, list(chunks), use_gloo_process_groups=False)


@torch.no_grad()
def update(optimizer: MegatronOptimizer, *, finite: bool) -> tuple[bool, float]:
    """One update with the gradients as they are; (done, global gradient norm). Not done where they are not finite.

    megatron-core's own step() checks that only where it scales the loss (fp16).

    Args:
        finite: whether the loss was; the same on all ranks.
    """
    overflow = optimizer.prepare_grads()
    norm = float("nan") if overflow else float(optimizer.get_grad_norm())
    if not (finite and math.isfinite(norm)):
        return False, norm
    for part in _parts(optimizer):
        if part.config.clip_grad > 0 and part.get_parameters():
            clip_grad_by_total_norm_fp32(part.get_parameters(), part.config.clip_grad, norm)
    return bool(optimizer.step_with_ready_grads()), norm


def set_learning_rate(optimizer: MegatronOptimizer, rate: float, weight_decay: float) -> None:
    """Set the step's rate and decay in every group, times the group's own factors."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_mult", 1.0)
        group["weight_decay"] = weight_decay * group.get("wd_mult", 1.0)


def load_state(optimizer: MegatronOptimizer, state: dict[str, Any]) -> None:
    """Load what `optimizer.sharded_state_dict(..., is_loading=True)` was filled with."""
    optimizer.load_state_dict(state)
    for adam in _torch_adams(optimizer):
        for of_parameter in adam.state.values():
            # megatron-core hands one step tensor to all parameters, and torch adds 1 to it in place for each of them.
            of_parameter["step"] = of_parameter["step"].clone()


def prepare_state(optimizer: MegatronOptimizer) -> None:
    """Give torch's Adam the state that it makes at its first step, so that it can be saved or loaded before one.

    TE's and apex's Adam keep the step count in the parameter groups, which is what megatron-core expects; torch's
    keeps it per parameter. Without this a fresh DistributedOptimizer finds no `step` to read.
    """
    for adam in _torch_adams(optimizer):
        for group in adam.param_groups:
            for parameter in group["params"]:
                state = adam.state[parameter]
                if not state:
                    state["step"] = torch.tensor(0.0)
                    state["exp_avg"] = torch.zeros_like(parameter)
                    state["exp_avg_sq"] = torch.zeros_like(parameter)
    for part in _parts(optimizer):
        if isinstance(part, DistributedOptimizer):
            _keep_bucket_padding(part)
            if isinstance(part.optimizer, torch.optim.Adam):
                _keep_step(part)


def _parts(optimizer: MegatronOptimizer) -> list[MegatronOptimizer]:
    return getattr(optimizer, "chained_optimizers", [optimizer])


def _torch_adams(optimizer: MegatronOptimizer) -> list[torch.optim.Adam]:
    return [part.optimizer for part in _parts(optimizer) if isinstance(part.optimizer, torch.optim.Adam)]


def _keep_bucket_padding(part: DistributedOptimizer) -> None:
    """Let a checkpoint's flat tensors have the padding between buckets that the parameters' positions in them count.

    megatron-core 0.16.1 cuts each parameter's state out of a flat tensor without that padding at positions that include
    it. With more than one bucket (a tied head under pipeline parallelism has its own) the state of every parameter
    after the first bucket was saved shifted, and its end as zeros.
    """
    for buffer in part.buffers:
        buffer.numel_unpadded = buffer.numel
        for bucket in buffer.buckets:
            bucket.numel_unpadded = bucket.grad_data.numel()


def _keep_step(part: DistributedOptimizer) -> None:
    """Let the per-parameter load skip `step`, which load_state_dict has set from the parameter groups already."""
    load = type(part)._set_main_param_and_optimizer_states

    def load_without_step(model_parameter: torch.nn.Parameter, tensors: dict[str, torch.Tensor]) -> None:
        group_index, group_order = part.model_param_group_index_map[model_parameter]
        main = part.optimizer.param_groups[group_index]["params"][group_order]
        load(part, model_parameter, {"step": part.optimizer.state[main]["step"], **tensors})

    part._set_main_param_and_optimizer_states = load_without_step
