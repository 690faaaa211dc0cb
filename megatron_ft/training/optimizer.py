"""megatron-core's optimizer for a run, and what its state needs to be saved and loaded with torch's Adam."""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from megatron.core.optimizer.optimizer import MegatronOptimizer

from megatron_ft.config import Config
from megatron_ft.training.model import DTYPES


def wrap(stage: torch.nn.Module, config: Config) -> DistributedDataParallel:
    """The model with megatron-core's gradient buffers: fp32 gradients, reduced over the data-parallel ranks."""
    settings = DistributedDataParallelConfig(grad_reduce_in_fp32=True, overlap_grad_reduce=False,
                                             use_distributed_optimizer=config.parallel.distributed_optimizer)
    return DistributedDataParallel(config=stage.config, ddp_config=settings, module=stage)


def build(model: DistributedDataParallel, config: Config) -> MegatronOptimizer:
    """AdamW over fp32 weights; no decay on biases and norms (megatron-core's standard groups)."""
    optim = config.optim
    settings = OptimizerConfig(
        optimizer="adam", lr=optim.lr, min_lr=optim.min_lr, weight_decay=optim.weight_decay,
        adam_beta1=optim.beta1, adam_beta2=optim.beta2, adam_eps=optim.epsilon, clip_grad=optim.clip_norm,
        bf16=config.model.precision == "bf16", params_dtype=DTYPES[config.model.precision],
        use_distributed_optimizer=config.parallel.distributed_optimizer)
    return get_megatron_optimizer(settings, [model], use_gloo_process_groups=False)


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
