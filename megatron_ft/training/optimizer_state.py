"""The optimizer's state in a checkpoint: what each trained weight has beside its own numbers, cut as this rank holds it.

On disk `optimizer.state.exp_avg.KEY` has the shape of the weight KEY at any layout, with the distributed optimizer or
without. A rank writes its part of it as boxes and reads its part in place: nothing is gathered, and the memory that a
save or a load takes does not grow with the data-parallel size. megatron-core's own form of the same keys
("fully_reshardable") gathers the state of all data-parallel ranks on each of them, and shifts what lies behind a padded
bucket.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from megatron.core.optimizer.optimizer import FP32Optimizer, MegatronOptimizer
from torch import Tensor

MAIN_WEIGHT = "fp32_param"
"""The fp32 weight behind a bf16 or fp16 one."""
Shape = tuple[int, ...]
_ADAM, _SGD = ("exp_avg", "exp_avg_sq"), ("momentum_buffer",)


@dataclasses.dataclass(frozen=True)
class Piece:
    """What of a trained weight the optimizer of this rank updates."""

    weight: Tensor
    """The model's parameter, whole."""
    main: Tensor
    """The numbers that the optimizer updates: of weight.flatten(), those of `start` to `stop`."""
    start: int
    stop: int
    state: dict[str, Any]
    """The optimizer's own, by name; tensors of main's size, and torch's Adam counts its updates there."""


def parts(optimizer: MegatronOptimizer) -> list[MegatronOptimizer]:
    """The optimizers inside megatron-core's chain, without those that have nothing to train."""
    chained = getattr(optimizer, "chained_optimizers", [optimizer])
    return [part for part in chained if not getattr(part, "is_stub_optimizer", False)]


def fill(optimizer: MegatronOptimizer) -> None:
    """Make the state that the optimizer would make at its first step, so that it can be saved or loaded before one."""
    for part in parts(optimizer):
        for group in part.optimizer.param_groups:
            for parameter in group["params"]:
                state = part.optimizer.state[parameter]
                for name in _moments(part.optimizer):
                    if state.get(name) is None:
                        state[name] = torch.zeros_like(parameter, requires_grad=False)
                if _counts_per_parameter(part.optimizer) and "step" not in state:
                    state["step"] = torch.tensor(0.0)


def sharded(optimizer: MegatronOptimizer, model: Mapping[str, Any]) -> dict[str, Any]:
    """The state as dist_checkpointing takes it, to save or to load; `fill` goes before.

    Args:
        model: the sharded state of the chunks that the optimizer trains, as `checkpoint.model_state` gives it.
    """
    places = {id(each.data): each for each in nested_values(dict(model))
              if isinstance(each, ShardedTensor | ShardedTensorFactory)}
    tensors = [box for part in parts(optimizer) for piece in _pieces(part) for name, tensor in _tensors(piece).items()
               for box in _boxes(places[id(piece.weight)], piece, name, tensor,
                                 whole=not isinstance(part, DistributedOptimizer))]
    scalers = [part.grad_scaler.state_dict() for part in parts(optimizer) if getattr(part, "grad_scaler", None)]
    return {"tensors": dict(enumerate(tensors)), "names": names(optimizer), "updates": _updates(optimizer),
            "loss_scalers": [{name: value.cpu() if isinstance(value, Tensor) else value for name, value in scaler.items()}
                             for scaler in scalers]}


def set_counters(optimizer: MegatronOptimizer, loaded: Mapping[str, Any]) -> None:
    """Set what `sharded` says beside the tensors, which a load has filled in place."""
    for part in parts(optimizer):
        for group in part.optimizer.param_groups:
            for parameter in group["params"]:
                if _counts_per_parameter(part.optimizer):
                    part.optimizer.state[parameter]["step"].fill_(loaded["updates"])
            if not _counts_per_parameter(part.optimizer) and loaded["updates"]:
                group["step"] = loaded["updates"]  # transformer-engine's and apex's Adam count per group
    scaled = [part for part in parts(optimizer) if getattr(part, "grad_scaler", None)]
    for part, scaler in zip(scaled, loaded["loss_scalers"], strict=True):
        part.grad_scaler.load_state_dict(scaler)


def names(optimizer: MegatronOptimizer) -> list[str]:
    """Names of the tensors that the optimizer keeps for each trained weight, in alphabetical order."""
    return sorted({name for part in parts(optimizer) for piece in _pieces(part) for name in _tensors(piece)})


def _moments(inner: torch.optim.Optimizer) -> tuple[str, ...]:
    if "betas" in inner.defaults:
        return _ADAM
    return _SGD if inner.defaults.get("momentum") else ()


def _counts_per_parameter(inner: torch.optim.Optimizer) -> bool:
    return isinstance(inner, torch.optim.Adam | torch.optim.AdamW)


def _updates(optimizer: MegatronOptimizer) -> int:
    for part in parts(optimizer):
        for group in part.optimizer.param_groups:
            if not _counts_per_parameter(part.optimizer):
                return int(group.get("step", 0))
            for parameter in group["params"]:
                return int(part.optimizer.state[parameter]["step"])
    return 0


def _pieces(part: MegatronOptimizer) -> Iterator[Piece]:
    """The pieces of one of megatron-core's optimizers, each in its own words."""
    state = part.optimizer.state
    if isinstance(part, DistributedOptimizer):
        for weight in part.model_param_gbuf_map:
            owned = part._get_model_param_range_map(weight)["param"]
            group, order = part.model_param_group_index_map[weight]
            main = part.optimizer.param_groups[group]["params"][order]
            yield Piece(weight, main, owned.start, owned.end, state[main])
        return
    if isinstance(part, FP32Optimizer):
        pairs = [(weight, weight) for group in part.optimizer.param_groups for weight in group["params"]]
    else:
        halves = zip(part.float16_groups, part.fp32_from_float16_groups, strict=True)
        pairs = [pair for weights, mains in halves for pair in zip(weights, mains, strict=True)]
        pairs += [(weight, weight) for group in part.fp32_from_fp32_groups for weight in group]
    for weight, main in pairs:
        yield Piece(weight, main, 0, weight.numel(), state[main])


def _tensors(piece: Piece) -> dict[str, Tensor]:
    found = {name: piece.state[name] for name in (*_ADAM, *_SGD) if piece.state.get(name) is not None}
    # An fp32 weight is updated where it lies, so the model's own entry in the checkpoint says it.
    return found if piece.weight.dtype == torch.float32 else {**found, MAIN_WEIGHT: piece.main}


def _boxes(place: ShardedTensor | ShardedTensorFactory, piece: Piece, name: str, tensor: Tensor, *,
           whole: bool) -> Iterator[ShardedTensor]:
    """The boxes of the weight's global tensor that a piece covers, each with its part of `tensor`.

    Args:
        whole: every data-parallel rank has the whole weight's state, as it has the weight; else each has its own part.
    """
    flat, begin = tensor.detach().view(-1), 0
    cuts = place.build() if isinstance(place, ShardedTensorFactory) else [place]  # a gated MLP's linear_fc1 is two tensors
    for cut in cuts:
        end = begin + math.prod(cut.local_shape)
        lead = cut.prepend_axis_num
        position = max(piece.start, begin)
        for corner, sizes in boxes(cut.local_shape, position - begin, min(piece.stop, end) - begin):
            length = math.prod(sizes)
            shape = (1,) * lead + sizes
            offsets = tuple(a + b for a, b in zip(cut.global_offset, (0,) * lead + corner, strict=True))
            yield ShardedTensor(
                key=f"optimizer.state.{name}.{cut.key}", dtype=tensor.dtype, local_shape=shape, global_offset=offsets,
                data=flat[position - piece.start:position - piece.start + length].view(shape),
                global_shape=cut.global_shape, axis_fragmentations=None, allow_shape_mismatch=cut.allow_shape_mismatch,
                # megatron-core's replicas are (which tied copy, tp rank of a copy, dp rank); a part is nobody else's
                replica_id=cut.replica_id if whole else (*cut.replica_id[:-1], 0))
            position += length
        begin = end


def boxes(shape: Shape, start: int, stop: int) -> Iterator[tuple[Shape, Shape]]:
    """The boxes (corner, sizes) that the elements start..stop-1 of a row-major array of that shape make up, in order.

    >>> list(boxes((4, 10), 7, 34))
    [((0, 7), (1, 3)), ((1, 0), (2, 10)), ((3, 0), (1, 4))]
    >>> list(boxes((5,), 1, 3)), list(boxes((5,), 3, 3))
    ([((1,), (2,))], [])
    """
    if start >= stop:
        return
    if len(shape) == 1:
        yield (start,), (stop - start,)
        return
    inner = math.prod(shape[1:])
    first, last = -(-start // inner), stop // inner  # the whole rows between
    if first > last:  # begins and ends inside one row
        for corner, sizes in boxes(shape[1:], start - last * inner, stop - last * inner):
            yield (last, *corner), (1, *sizes)
        return
    for corner, sizes in boxes(shape[1:], start - (first - 1) * inner, inner) if start < first * inner else ():
        yield (first - 1, *corner), (1, *sizes)
    if last > first:
        yield (first, *(0,) * (len(shape) - 1)), (last - first, *shape[1:])
    for corner, sizes in boxes(shape[1:], 0, stop - last * inner):
        yield (last, *corner), (1, *sizes)
