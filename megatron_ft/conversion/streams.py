"""Moves a model's weights from a source to a sink, a piece of a tensor at a time, several tensors at once.

Source and sink both speak of megatron-core's whole tensors (`rules.Weight`), whatever they are made of. Memory is a few
pieces for each worker and does not grow with the model. Every byte is summed when it is read and when it is written.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import math
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from megatron_ft import cli, log
from megatron_ft.conversion.partial import Journal
from megatron_ft.errors import CheckpointError, ConfigError
from megatron_ft.families import rules
from megatron_ft.families.rules import Weight
from megatron_ft.runtime import checkpoint_files, dtypes, sums
from megatron_ft.runtime.checkpoint_files import Record
from megatron_ft.runtime.stored_tensor import is_finite, rows_of

MOST_WORKERS = 8
"""More do not help one disk; each holds some pieces in memory."""
Shape = tuple[int, ...]
T = TypeVar("T")


class Rows(Protocol):
    """The rows of one weight, to be taken in ascending order."""

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows start:stop."""

    def finish(self) -> dict[str, str]:
        """CRC-32 of each stored tensor that the rows came from; CheckpointError for one that is damaged."""


class Source(Protocol):
    """A model's weights in megatron-core's layout, by their names in a GPTModel with the local layer spec."""

    def shape(self, name: str) -> Shape:
        """With vocabulary padding, where it is stored; CheckpointError for a weight that is missing."""

    def layers(self, name: str) -> int | None:
        """For how many layers the weight is stored under one key; None where each layer has its own."""

    def dtype(self, name: str) -> torch.dtype:
        """That it is stored in."""

    def unexpected(self, names: list[str]) -> list[str]:
        """Stored weights that are none of these."""

    def reading(self, name: str) -> Rows:
        """Begin to read a weight."""


@dataclasses.dataclass(frozen=True)
class Segment:
    """Bytes of a file that belong to one tensor."""

    file: str
    offset: int
    bytes: int
    crc32: str


class Writing(Protocol):
    """A weight that is being written."""

    def write(self, start: int, rows: Tensor) -> None:
        """Rows start..., in ascending order."""

    def abandon(self) -> None:
        """Let go of what is half-written."""

    def finish(self) -> tuple[dict[str, str], list[Segment]]:
        """CRC-32 of the numbers of each tensor written, and where it lies in the files."""


class Sink(Protocol):
    """A folder that weights are written into."""

    folder: Path

    def writing(self, weight: Weight) -> Writing:
        """Begin to write a weight."""


@dataclasses.dataclass
class Sums:
    """CRC-32 of the tensors of a conversion, by name."""

    read: dict[str, str] = dataclasses.field(default_factory=dict)
    written: dict[str, str] = dataclasses.field(default_factory=dict)
    segments: list[Segment] = dataclasses.field(default_factory=list)

    def add(self, entry: dict[str, Any]) -> None:
        """Take in what the journal says of one weight."""
        self.read.update(entry["read"])
        self.written.update(entry["written"])
        self.segments += [Segment(*segment) for segment in entry["segments"]]

    def records(self, heads: dict[str, bytes]) -> dict[str, Record]:
        """Size and sum of every file that the segments, and bytes before them, make up without gaps."""
        files: dict[str, list[Segment]] = {name: [] for name in heads}
        for segment in sorted(self.segments, key=lambda segment: segment.offset):
            files[segment.file].append(segment)
        found = {}
        for name, segments in files.items():
            pieces, end = [(sums.crc32(heads[name]), len(heads[name]))], len(heads[name])
            for segment in segments:
                assert segment.offset == end, (name, segment)
                pieces.append((int(segment.crc32, 16), segment.bytes))
                end += segment.bytes
            found[name] = Record(end, sums.text(sums.joined(pieces)))
        return found


def wrong_sums(found: Mapping[str, str], expected: Mapping[str, str]) -> list[str]:
    """Tensors whose bytes are not those that were written, a sentence each; of what is not in `expected` nothing is known."""
    return [f"{name} has the checksum {crc}, but {expected[name]} when it was written" for name, crc in found.items()
            if expected.get(name, crc) != crc]


def _require_sums(found: Mapping[str, str], expected: Mapping[str, str]) -> None:
    for wrong in wrong_sums(found, expected):
        raise CheckpointError(f"{wrong}; it is damaged, take another copy of the folder")


def whole(source: Source, name: str, expected: dict[str, str] | None = None) -> Tensor:
    """All rows of a weight; CheckpointError where they have another sum than expected."""
    reading = source.reading(name)
    rows = reading.rows(0, source.shape(name)[0])
    _require_sums(reading.finish(), expected or {})
    return rows


def check_workers(workers: int | None) -> None:
    """ConfigError for a number of workers that is none."""
    if workers is not None and workers < 1:
        raise ConfigError(f"--workers: {workers}, expected at least 1")


def total_bytes(weights: Iterable[Weight], dtype: torch.dtype) -> int:
    """Of the numbers of weights."""
    return sum(math.prod(weight.megatron_shape) for weight in weights) * dtype.itemsize


def move(weights: list[Weight], source: Source, sink: Sink, *, dtype: torch.dtype, journal: Journal, label: str,
         expected: dict[str, str], workers: int | None = None) -> Sums:
    """Move every weight; those of the journal are only looked at: what the disk holds must have the sum that it says.

    Args:
        dtype: of what is written.
        expected: CRC-32 of tensors that are read, where it is known what they were when they were written.
        workers: how many weights at a time; None: one for each core, eight at most.
    """
    def move_one(weight: Weight, pieces: Pieces) -> dict[str, Any]:
        return _move_one(weight, source, sink, dtype, journal, pieces)

    found = Sums()
    # Closed at once when a sum is wrong: nobody may write any more when the folder is removed.
    with contextlib.closing(each(weights, move_one, dtype=lambda _: dtype, label=label, workers=workers)) as entries:
        for entry in entries:
            _require_sums(entry["read"], expected)
            found.add(entry)
    return found


class Pieces:
    """The pieces in which one weight is gone through, for the bar and for an early end."""

    def __init__(self, weight: Weight, dtype: torch.dtype, advance: Callable[[int], None], stop: threading.Event) -> None:
        self._shape, self._dtype, self._advance, self._stop = weight.megatron_shape, dtype, advance, stop

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """First row and the one after the last of each; a piece is counted when the next is asked for."""
        step = rows_of(self._shape, self._dtype)
        for start in range(0, self._shape[0], step):
            if self._stop.is_set():
                raise InterruptedError("another tensor has failed")
            end = min(start + step, self._shape[0])
            yield start, end
            self._advance((end - start) * math.prod(self._shape[1:]) * self._dtype.itemsize)

    def skip(self) -> None:
        """Count all of it."""
        self._advance(math.prod(self._shape) * self._dtype.itemsize)


def each(weights: list[Weight], work: Callable[[Weight, Pieces], T], *, dtype: Callable[[Weight], torch.dtype], label: str,
         workers: int | None) -> Generator[T, None, None]:
    """What `work` gives of each weight, in their order, several of them at a time under one bar; an error ends all.

    Args:
        dtype: of a weight, for the sizes of its pieces.
        workers: how many weights at a time; None: one for each core, eight at most.
    """
    stop, lock = threading.Event(), threading.Lock()
    total = sum(total_bytes([weight], dtype(weight)) for weight in weights)
    with (log.progress(total=total, unit="B", label=label, scale=True) as bar,
          concurrent.futures.ThreadPoolExecutor(workers or min(MOST_WORKERS, cli.cores())) as pool):

        def advance(nbytes: int) -> None:
            with lock:
                bar.update(nbytes)

        jobs = [pool.submit(work, weight, Pieces(weight, dtype(weight), advance, stop)) for weight in weights]
        try:
            for job in jobs:
                yield job.result()
        except BaseException:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _move_one(weight: Weight, source: Source, sink: Sink, dtype: torch.dtype, journal: Journal,
              pieces: Pieces) -> dict[str, Any]:
    before = journal.done.get(weight.megatron)
    if before is not None and _is_there(sink.folder, before["segments"]):
        pieces.skip()
        return before
    reading, writing = source.reading(weight.megatron), sink.writing(weight)
    try:
        for start, end in pieces:
            writing.write(start, cast(reading.rows(start, end), dtype, weight.megatron))
        read = reading.finish()
        written, segments = writing.finish()
    except BaseException:
        writing.abandon()
        raise
    entry = {"read": read, "written": written, "segments": [dataclasses.astuple(segment) for segment in segments]}
    journal.add(weight.megatron, entry)
    return entry


def cast(rows: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    """Rows in another dtype; CheckpointError for a number that is beyond it."""
    if rows.dtype == dtype:
        return rows
    converted = rows.to(dtype)
    if not is_finite(converted):
        raise CheckpointError(f"{name} holds {rows.abs().max().item():g}, which {dtypes.NAMES[dtype]} cannot hold (largest: "
                              f"{torch.finfo(dtype).max:g}); choose --dtype bfloat16 or float32")
    return converted


def _is_there(folder: Path, segments: list[list[Any]]) -> bool:
    for segment in (Segment(*each) for each in segments):
        crc, done = 0, 0
        with contextlib.suppress(OSError), (folder / segment.file).open("rb", buffering=0) as stream:
            stream.seek(segment.offset)
            while done < segment.bytes:
                content = stream.read(min(checkpoint_files.CHUNK_BYTES, segment.bytes - done))
                if not content:
                    break
                crc, done = sums.crc32(content, crc), done + len(content)
        if done != segment.bytes or sums.text(crc) != segment.crc32:
            return False
    return True


def check_stored(source: Source, weights: list[Weight], *, where: str) -> None:
    """Refuse a source whose weights are not exactly the architecture's."""
    layers = weights[0].architecture.layers
    for weight in weights:
        rules.check_megatron_shape(weight, source.shape(weight.megatron), where=where)
        stacked = source.layers(weight.megatron)
        if stacked not in (None, layers):
            raise CheckpointError(f"{where}: {weight.megatron} is stored for {stacked} layers, but the manifest says "
                                  f"{layers}; the files belong to different checkpoints")
    unexpected = source.unexpected([weight.megatron for weight in weights])
    if unexpected:
        raise CheckpointError(f"{where}: holds {', '.join(unexpected[:4])}, unknown to family "
                              f"{weights[0].architecture.family}; exporting would lose it, so nothing is exported")


def target_dtype(requested: str, source: Source, weights: list[Weight], *, where: str) -> torch.dtype:
    """The dtype to write, as `dtypes.target_dtype` says."""
    return dtypes.target_dtype(requested, {weight.megatron: source.dtype(weight.megatron) for weight in weights}, where=where)
