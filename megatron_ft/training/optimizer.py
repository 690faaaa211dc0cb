"""megatron-core's optimizer for a run."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence

import torch
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
from megatron.core.optimizer.clip_grads import clip_grad_by_total_norm_fp32
from megatron.core.optimizer.optimizer import MegatronOptimizer
from megatron.core.optimizer.optimizer_config import ParamKey

from megatron_ft.config import Config, Parallel
from megatron_ft.training import optimizer_state
from megatron_ft.training.model import DTYPES

DECAY_GROUPS = {"biases": ("*.bias", "*_bias"), "norms": ("*layernorm.*", "*.layer_norm_*"),
                "embeddings": ("*.word_embeddings.*", "*.position_embeddings.*")}
"""optim.no_decay -> patterns of parameter names, of the local layer spec and of transformer-engine's."""


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
    return get_megatron_optimizer(settings, list(chunks), use_gloo_process_groups=False,
                                  config_overrides=_without_decay(optim.no_decay))


def _without_decay(groups: Sequence[str]) -> dict[ParamKey, dict[str, float]]:
    """megatron-core's override for the weights in some groups of optim.no_decay."""
    names = tuple(pattern for group in groups for pattern in DECAY_GROUPS[group])
    return {ParamKey(name=names): {"wd_mult": 0.0}} if names else {}


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
    for part in optimizer_state.parts(optimizer):
        if part.config.clip_grad > 0 and part.get_parameters():
            clip_grad_by_total_norm_fp32(part.get_parameters(), part.config.clip_grad, norm)
    return bool(optimizer.step_with_ready_grads()), norm


def set_learning_rate(optimizer: MegatronOptimizer, rate: float, weight_decay: float) -> None:
    """Set the step's rate and decay in every group, times the group's own factors."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_mult", 1.0)
        group["weight_decay"] = weight_decay * group.get("wd_mult", 1.0)
