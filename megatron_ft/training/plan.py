"""Every number that follows from config, model and GPU count, with its derivation; refuses what cannot be split.

Torch-free: it runs on a login node.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

from megatron_ft.config import Config, Memory, Parallel
from megatron_ft.errors import ConfigError
from megatron_ft.families.architecture import Architecture


@dataclasses.dataclass(frozen=True)
class Split:
    """How the processes and the rows of a step are split; made by `split`."""

    processes: int
    tp: int
    pp: int
    dp: int
    micro_batches: int
    """Micro-batches of one data-parallel rank per optimizer step."""
    rows_per_step: int
    rows_per_micro_batch: int
    row_tokens: int

    def lines(self) -> list[str]:
        """The derivations, one equation a line."""
        return [
            f"{self.processes} processes = {self.tp} tp x {self.pp} pp x {self.dp} dp",
            f"{self.rows_per_step} rows/step = {self.rows_per_micro_batch} row/micro-batch x {self.dp} dp "
            f"x {self.micro_batches} micro-batches",
            f"{self.rows_per_step * self.row_tokens:,} tokens/step = {self.rows_per_step} rows x {self.row_tokens} tokens"]


@dataclasses.dataclass(frozen=True)
class Plan(Split):
    """What the run will do; made by `make`, never changed."""

    rows_per_epoch: int | None
    """Rows of one pass over the training documents; of the first one where epochs differ; None where data are not known."""
    epochs_differ: bool
    """Weights give every epoch other documents, and with them a few rows more or less."""
    steps: int
    warmup_steps: int
    parameters: int

    def lines(self) -> list[str]:
        """The derivations, one equation a line."""
        rows = self.steps * self.rows_per_step
        of_epochs = ""
        if self.rows_per_epoch is not None:
            about = "about " if self.epochs_differ else ""
            of_epochs = f" = {about}{rows / self.rows_per_epoch:.2f} epochs of {self.rows_per_epoch:,} rows"
        return [*super().lines(), f"{self.steps} steps = {rows:,} rows{of_epochs}",
                f"{self.warmup_steps} steps of warm-up, {self.parameters:,} parameters"]


def check_layout(architecture: Architecture, parallel: Parallel, *, processes: int, row_tokens: int | None = None) -> int:
    """The data-parallel size; ConfigError names what does not divide and what would."""
    name, tp, pp = architecture.family, parallel.tp, parallel.pp
    if processes % (tp * pp):
        raise ConfigError(f"parallel: {processes} processes cannot be split into tp={tp} x pp={pp}: {tp * pp} ranks (or a "
                          f"multiple) are needed; start {nearest(processes, tp * pp)} processes or change parallel.tp/pp")
    for what, count in (("attention heads", architecture.heads), ("MLP's inner width", architecture.ffn)):
        if count % tp:
            raise ConfigError(f"parallel.tp: {tp} does not divide the {count} {what} of {name}; use one of {divisors(count)}")
    if architecture.groups % tp and tp % architecture.groups:
        fitting = [d for d in divisors(architecture.heads) if not (architecture.groups % d and d % architecture.groups)]
        raise ConfigError(f"parallel.tp: {tp} and the {architecture.groups} key/value heads of {name}: neither divides the "
                          f"other; use one of {fitting}")
    qkv_rows = (architecture.heads + 2 * architecture.groups) * architecture.head_width
    if qkv_rows % tp:
        raise ConfigError(f"parallel.tp: {tp} does not divide the {qkv_rows} rows of the query-key-value projection of {name}; "
                          f"use one of {[d for d in divisors(architecture.heads) if qkv_rows % d == 0]}")
    stage_layers(architecture.layers, parallel)
    if parallel.sequence_parallel and row_tokens is not None and row_tokens % tp:
        raise ConfigError(f"data.row_tokens: {row_tokens} is not a multiple of parallel.tp={tp}, which sequence parallelism "
                          f"needs; use {nearest(row_tokens, tp)}")
    return processes // (tp * pp)


def _check_recomputation(pieces: Sequence[int], memory: Memory) -> None:
    together = memory.layers
    if memory.recompute == "full" and any(layers % together for layers in pieces):
        odd = next(layers for layers in pieces if layers % together)
        raise ConfigError(f"memory.layers: {together} does not divide the {odd} layers of a pipeline piece, which are to be "
                          f"recomputed {together} at a time; use one of {divisors(math.gcd(*pieces))}")


def stage_layers(layers: int, parallel: Parallel) -> tuple[int, ...]:
    """Layers of each of the pp x virtual_stages pieces in the model's order; piece k is on pipeline stage k % pp.

    parallel.stage_layers if given, else as even as possible: the surplus goes to the middle stages first and to the last
    one at the end, since the first stage holds the embedding too and the last one computes the vocabulary's logits.

    >>> stage_layers(42, Parallel(pp=4)), stage_layers(7, Parallel(pp=2)), stage_layers(42, Parallel(pp=4, virtual_stages=2))
    ((10, 11, 11, 10), (4, 3), (5, 6, 6, 5, 5, 5, 5, 5))

    ConfigError when a piece would have no layer or the numbers given are not as many, or not as many layers, as needed.
    """
    pp, virtual, given = parallel.pp, parallel.virtual_stages, parallel.stage_layers
    pieces = pp * virtual
    if layers < pieces:
        raise ConfigError(f"parallel.pp: {layers} layers cannot be dealt out over {pp} stages x {virtual} pieces = {pieces}: "
                          f"every piece needs one; use at most pp={layers} with virtual_stages=1")
    if given:
        if len(given) != pieces:
            raise ConfigError(f"parallel.stage_layers: {len(given)} numbers {list(given)}, but parallel.pp={pp} x "
                              f"virtual_stages={virtual} makes {pieces} pieces; give {pieces} numbers or leave it empty")
        if sum(given) != layers or min(given) < 1:
            raise ConfigError(f"parallel.stage_layers: {list(given)} is {sum(given)} layers with {min(given)} in the smallest "
                              f"piece, but the model has {layers} and every piece needs one; e.g. "
                              f"{list(_even(layers, pp, virtual))}")
        return tuple(given)
    return _even(layers, pp, virtual)


@functools.lru_cache(maxsize=4096)
def _even(layers: int, pp: int, virtual: int) -> tuple[int, ...]:
    each, surplus = divmod(layers, pp * virtual)
    from_the_middle = sorted(range(pp * virtual), key=lambda piece: (piece // pp, abs(2 * (piece % pp) - pp + 1), piece))
    counts = [each] * (pp * virtual)
    for piece in from_the_middle[:surplus]:
        counts[piece] += 1
    return tuple(counts)


def padded_vocabulary(vocabulary: int, *, multiple: int, tp: int) -> int:
    """The vocabulary rounded up to a multiple of multiple * tp, so that every tp rank holds as many rows.

    >>> padded_vocabulary(49152, multiple=128, tp=4), padded_vocabulary(32001, multiple=128, tp=2)
    (49152, 32256)
    """
    unit = multiple * tp
    return -(-vocabulary // unit) * unit


def split(config: Config, architecture: Architecture, *, processes: int) -> Split:
    """How a step is split; ConfigError when the layout, the batch or the model cannot be split as asked."""
    data, parallel = config.data, config.parallel
    dp = check_layout(architecture, parallel, processes=processes, row_tokens=data.row_tokens)
    unit = dp * data.rows_per_micro_batch
    if data.rows_per_step % unit:
        raise ConfigError(f"data.rows_per_step: {data.rows_per_step} is not a multiple of {data.rows_per_micro_batch} "
                          f"row/micro-batch x {dp} dp = {unit}; use {nearest(data.rows_per_step, unit)}")
    micro_batches = data.rows_per_step // unit
    if parallel.virtual_stages > 1 and micro_batches % parallel.pp:
        raise ConfigError(f"data.rows_per_step: {data.rows_per_step} makes {micro_batches} micro-batches a step, which "
                          f"parallel.virtual_stages={parallel.virtual_stages} takes in turns of parallel.pp={parallel.pp}; use "
                          f"{nearest(data.rows_per_step, unit * parallel.pp)} rows or virtual_stages=1")
    _check_recomputation(stage_layers(architecture.layers, parallel), config.memory)
    return Split(processes=processes, tp=parallel.tp, pp=parallel.pp, dp=dp, micro_batches=micro_batches,
                 rows_per_step=data.rows_per_step, rows_per_micro_batch=data.rows_per_micro_batch, row_tokens=data.row_tokens)


def make(config: Config, architecture: Architecture, *, processes: int, rows_per_epoch: int | None,
         rows_of_first: Callable[[float], float] | None = None) -> Plan:
    """The plan; ConfigError when the layout, the batch or the model cannot be split as asked.

    Args:
        rows_per_epoch: None where data are not known; then run.steps must say how long the run is.
        rows_of_first: rows of the first so many epochs, where epochs differ; None: each has `rows_per_epoch`.
    """
    of_step, steps = split(config, architecture, processes=processes), config.run.steps
    if not steps and rows_per_epoch is None:
        raise ConfigError(f"run.epochs: {config.run.epochs} epochs of data that are not here are an unknown number of steps; "
                          "set run.steps, or say how many rows an epoch has")
    if not steps:
        rows = rows_of_first(config.run.epochs) if rows_of_first else config.run.epochs * rows_per_epoch
        steps = max(1, math.ceil(rows / config.data.rows_per_step))
    warmup = config.optim.warmup_steps
    if warmup is None:
        warmup = min(steps - 1, math.ceil(config.optim.warmup_fraction * steps))
    if warmup >= steps:
        raise ConfigError(f"optim.warmup_steps: {warmup} leaves nothing of the run's {steps} steps; use fewer than {steps}")
    return Plan(**vars(of_step), rows_per_epoch=rows_per_epoch, epochs_differ=rows_of_first is not None, steps=steps,
                warmup_steps=warmup, parameters=architecture.parameters)


def divisors(number: int) -> list[int]:
    """All divisors, ascending.

    >>> divisors(22)
    [1, 2, 11, 22]
    """
    return [candidate for candidate in range(1, number + 1) if number % candidate == 0]


def nearest(number: int, unit: int) -> str:
    """The multiples of `unit` around `number`, as advice.

    >>> nearest(10, 4), nearest(3, 4)
    ('8 or 12', '4')
    """
    below = number // unit * unit
    return f"{below} or {below + unit}" if below else str(unit)
