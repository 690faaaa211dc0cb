"""Bytes of weights, gradients and optimizer state on each GPU: exactly what megatron-core 0.16.1 allocates. Torch-free.

A pipeline stage holds `virtual_stages` pieces of the model (megatron-core's chunks). The trained parameters of a piece share
one gradient buffer; with the distributed optimizer their weights share one too, both padded, and each data-parallel rank keeps
the fp32 weights and moments of its slice of every bucket (megatron/core/distributed/param_and_grad_buffer.py).
"""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np

from megatron_ft.config import Config, Lora, Model, Parallel
from megatron_ft.families.architecture import Architecture
from megatron_ft.training import flops
from megatron_ft.training.plan import padded_vocabulary, stage_layers

BYTES = {"bf16": 2, "fp16": 2, "fp32": 4}
FLOAT = 4
CUT_BY_OUTPUTS = ("qkv", "fc1")
"""Linears that tensor parallelism cuts along their outputs; the others along their inputs."""


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One parameter of a piece, as a tensor-parallel rank holds it."""

    name: str
    elements: int
    trained: bool = True
    shared: bool = False
    """Tied embedding under pipeline parallelism: on the first and on the last stage, in a bucket of its own."""


@dataclasses.dataclass(frozen=True)
class Piece:
    """A run of layers on one pipeline stage, with the embedding before or the head after it."""

    layers: int
    first: bool
    last: bool


@dataclasses.dataclass(frozen=True)
class StateBytes:
    """Of one GPU; of the data-parallel rank that has most, where they differ."""

    weights: int
    gradients: int
    optimizer: int
    trained_elements: int
    """Parameters of this GPU that are trained, without padding."""
    buffer_elements: int
    """The same with the padding of the gradient buffers."""
    frozen_elements: int
    optimizer_elements: int
    """Parameters whose optimizer state this GPU keeps."""


def stages(architecture: Architecture, parallel: Parallel) -> tuple[tuple[Piece, ...], ...]:
    """What each pipeline stage holds, in the model's order."""
    return _stages(stage_layers(architecture.layers, parallel), parallel.pp)


@functools.lru_cache(maxsize=4096)
def _stages(layers: tuple[int, ...], pp: int) -> tuple[tuple[Piece, ...], ...]:
    pieces = [Piece(count, first=number == 0, last=number == len(layers) - 1) for number, count in enumerate(layers)]
    return tuple(tuple(pieces[stage::pp]) for stage in range(pp))


def state_bytes(config: Config, architecture: Architecture, pieces: tuple[Piece, ...], *, dp: int,
                dp_rank: int | None = None) -> StateBytes:
    """Weights, gradients and optimizer state of a GPU that holds these pieces of the model, one of `stages`.

    Args:
        dp_rank: which data-parallel rank; None: the one with the most optimizer state.
    """
    parallel = config.parallel
    return _state_bytes(architecture, config.model, config.lora, optimizer_bytes_per_weight(config), parallel.tp, parallel.pp,
                        parallel.distributed_optimizer, parallel.overlap_grad_reduce, pieces, dp, dp_rank)


@functools.lru_cache(maxsize=4096)
def _state_bytes(architecture: Architecture, model: Model, lora: Lora, per_weight: int, tp: int, pp: int, distributed: bool,
                 overlapped: bool, pieces: tuple[Piece, ...], dp: int, dp_rank: int | None) -> StateBytes:
    weights = gradients = trained = padded = frozen = 0
    owned = np.zeros(dp, dtype=np.int64)
    for piece in pieces:
        # Only the model's first piece is cut into buckets, and only when they are sent during the backward pass.
        bucket = _bucket_elements(dp) if overlapped and piece.first else None
        buffer, unchanged = _buffer(architecture, model, tp, pp, lora, piece, dp, bucket, distributed)
        stored = buffer.elements if distributed else buffer.parameters
        weights += BYTES[model.precision] * (stored + unchanged)
        gradients += FLOAT * buffer.elements
        trained, padded, frozen = trained + buffer.parameters, padded + buffer.elements, frozen + unchanged
        owned += buffer.owned if distributed else buffer.parameters
    kept = int(owned.max() if dp_rank is None else owned[dp_rank])
    return StateBytes(weights, gradients, kept * per_weight, trained, padded, frozen, kept)


def _bucket_elements(dp: int) -> int:
    return max(40_000_000, 1_000_000 * dp)


def optimizer_bytes_per_weight(config: Config) -> int:
    """fp32 moments, and the fp32 weight where the model's own is shorter.

    >>> from megatron_ft.config import parse
    >>> base = {"run": {"dir": "r", "steps": 1}, "load": {"from": "b"}, "data": {"train": ["d"]}}
    >>> optimizer_bytes_per_weight(parse(base)), optimizer_bytes_per_weight(parse({**base, "model": {"precision": "fp32"}}))
    (12, 8)
    """
    moments = 2 if config.optim.optimizer != "sgd" else int(config.optim.momentum > 0)
    return FLOAT * (moments + (config.model.precision != "fp32"))


def parameters_of_piece(architecture: Architecture, *, model: Model, tp: int, pp: int, lora: Lora,
                        piece: Piece) -> list[Parameter]:
    """Every parameter of a piece on one tensor-parallel rank, in megatron-core's order."""
    a, base = architecture, lora.rank == 0
    vocabulary = padded_vocabulary(a.vocabulary, multiple=model.vocabulary_multiple, tp=tp) // tp
    found = []
    if piece.first:
        found.append(Parameter("embedding.word_embeddings", vocabulary * a.hidden, base, a.tied_head and pp > 1))
        if a.position_embedding == "learned":
            found.append(Parameter("embedding.position_embeddings", a.positions * a.hidden, base))
    for number in range(piece.layers):
        found += [dataclasses.replace(one, name=f"layers.{number}.{one.name}") for one in _layer(a, tp, lora)]
    if piece.last:
        found += _norm("final_layernorm", a, base)
        if not a.tied_head or pp > 1:
            found.append(Parameter("output_layer", vocabulary * a.hidden, base, a.tied_head))
    return found


def _layer(a: Architecture, tp: int, lora: Lora) -> list[Parameter]:
    trained = lora.rank == 0
    return [*_norm("input_layernorm", a, trained),
            *_linear("proj", a, tp, trained, a.linear_bias), *_linear("qkv", a, tp, trained, a.linear_bias or a.qkv_bias),
            *_adapters(("qkv", "proj"), a, tp, lora),
            *_norm("pre_mlp_layernorm", a, trained),
            *_linear("fc1", a, tp, trained, a.linear_bias), *_linear("fc2", a, tp, trained, a.linear_bias),
            *_adapters(("fc1", "fc2"), a, tp, lora)]


def _norm(name: str, a: Architecture, trained: bool) -> list[Parameter]:
    parts = ("weight", "bias") if a.norm == "layernorm" else ("weight",)
    return [Parameter(f"{name}.{part}", a.hidden, trained) for part in parts]


def _linear(name: str, a: Architecture, tp: int, trained: bool, bias: bool) -> list[Parameter]:
    """qkv and fc1 are cut along their outputs, with their bias; proj and fc2 along their inputs, their bias is whole."""
    inputs, outputs = flops.linears(a)[name]
    found = [Parameter(f"{name}.weight", inputs * outputs // tp, trained)]
    if bias:
        found.append(Parameter(f"{name}.bias", outputs // tp if name in CUT_BY_OUTPUTS else outputs, trained))
    return found


def _adapters(names: tuple[str, ...], a: Architecture, tp: int, lora: Lora) -> list[Parameter]:
    """LoRA's A is cut where the linear's inputs are, its B where the outputs are (training/lora.py)."""
    found = []
    for name in names:
        if lora.rank and name in lora.linears:
            inputs, outputs = flops.linears(a)[name]
            by_outputs = name in CUT_BY_OUTPUTS
            found += [Parameter(f"{name}_adapter.lora_A", lora.rank * (inputs if by_outputs else inputs // tp)),
                      Parameter(f"{name}_adapter.lora_B", lora.rank * (outputs // tp if by_outputs else outputs))]
    return found


@dataclasses.dataclass(frozen=True)
class _Buffer:
    parameters: int
    elements: int
    owned: np.ndarray
    """int64 [dp]: elements of parameters in each data-parallel rank's slices."""


@functools.lru_cache(maxsize=4096)
def _buffer(architecture: Architecture, model: Model, tp: int, pp: int, lora: Lora, piece: Piece, dp: int, bucket: int | None,
            distributed: bool) -> tuple[_Buffer, int]:
    """The buffer of a piece's trained parameters, and the elements of its frozen ones."""
    parameters = parameters_of_piece(architecture, model=model, tp=tp, pp=pp, lora=lora, piece=piece)
    frozen = sum(one.elements for one in parameters if not one.trained)
    return _laid_out([one for one in parameters if one.trained], dp=dp, bucket=bucket, distributed=distributed), frozen


def _laid_out(parameters: list[Parameter], *, dp: int, bucket: int | None, distributed: bool) -> _Buffer:
    """megatron-core's _ParamAndGradBuffer: parameters from the last to the first, padding only for the distributed optimizer.

    A parameter begins at a multiple of 64 elements, a bucket ends at one of 128 and of dp.
    """
    total = sum(one.elements for one in parameters)
    if not distributed:
        return _Buffer(total, total, np.full(dp, total, dtype=np.int64))
    unit = math.lcm(dp, 128)
    starts, ends, bucket_ends, bucket_start, at = [], [], [], 0, 0
    for one in reversed(parameters):
        at = -(-at // 64) * 64
        if one.shared and at > bucket_start:
            at = -(-at // unit) * unit
            bucket_ends.append(at)
            bucket_start = at
        starts.append(at)
        at += one.elements
        ends.append(at)
        if one.shared or (bucket is not None and at - bucket_start >= bucket):
            at = -(-at // unit) * unit
            bucket_ends.append(at)
            bucket_start = at
    if at > bucket_start:
        at = -(-at // unit) * unit
        bucket_ends.append(at)
    return _Buffer(total, at, _owned(np.array(starts), np.array(ends), np.array([0, *bucket_ends]), dp))


def _owned(starts: np.ndarray, ends: np.ndarray, buckets: np.ndarray, dp: int) -> np.ndarray:
    """Elements of parameters in the slices of each of dp ranks, one equal slice of each bucket; int64 [dp]."""
    lengths = np.diff(buckets) // dp
    cuts = buckets[:-1, None] + lengths[:, None] * np.arange(dp + 1)  # [buckets, dp + 1]
    whole = np.concatenate([[0], np.cumsum(ends - starts)])
    number = np.searchsorted(starts, cuts, side="right")  # parameters that begin at or before the cut
    beyond = np.where(number > 0, np.maximum(ends[np.maximum(number, 1) - 1] - cuts, 0), 0)
    before = whole[number] - beyond
    return np.diff(before, axis=1).sum(axis=0)
