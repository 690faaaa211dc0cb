"""Writes an indexed dataset (see `indexed`), in one go or going on where an earlier process was stopped."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import numpy as np

from megatron_ft.data.indexed import CODES, HEADER, MAGIC, VERSION, dtype_for, with_suffix

AT_ONCE = 1 << 20
"""Entries of the index that are in memory at a time."""


@dataclasses.dataclass(frozen=True)
class Extent:
    """How much has been written."""

    tokens: int = 0
    segments: int = 0
    documents: int = 0


class Writer:
    """Appends documents to PREFIX.bin, and what the index needs to three files beside it, until `finish`.

    Memory does not grow with the dataset. What was `sync`ed survives the process: a writer that is given the extent of
    that moment goes on from there, and cuts off whatever was written later.
    """

    def __init__(self, prefix: str | Path, *, vocabulary: int, after: Extent = Extent()) -> None:  # noqa: B008 - frozen
        self.prefix = Path(prefix)
        self.dtype = dtype_for(vocabulary)
        self.extent = after
        self._files = {suffix: _open_at(with_suffix(self.prefix, suffix), count * dtype.itemsize)
                       for suffix, dtype, count in self._columns()}

    def add(self, ids: np.ndarray, lengths: np.ndarray, modes: np.ndarray, *, segments: np.ndarray | None = None) -> None:
        """Append one document, or many at once.

        Args:
            ids: all tokens, segment after segment.
            lengths: tokens of each segment.
            modes: INPUT or OUTPUT for each segment.
            segments: how many segments each of the documents has; None means all are one document's.
        """
        assert lengths.sum() == len(ids) and len(lengths) == len(modes), "segments must cover the ids"
        counts = np.asarray([len(lengths)] if segments is None else segments)
        for (suffix, dtype, _), column in zip(self._columns(), (ids, lengths, modes, counts), strict=True):
            self._files[suffix].write(np.ascontiguousarray(column, dtype=dtype).tobytes())
        self.extent = Extent(self.extent.tokens + len(ids), self.extent.segments + len(lengths),
                             self.extent.documents + len(counts))

    def sync(self) -> Extent:
        """Bring what was added to the disk; the extent to go on from."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        return self.extent

    def finish(self) -> None:
        """Write .idx and remove what it was made of."""
        self.sync()
        self._close()
        write_index(with_suffix(self.prefix, ".idx"), self.dtype, self.extent, self._read)
        for suffix in (LENGTHS, MODES, SEGMENTS):
            with_suffix(self.prefix, suffix).unlink()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _columns(self) -> tuple[tuple[str, np.dtype, int], ...]:
        """Of each file its suffix, the type of its entries, and how many belong to the extent."""
        return ((".bin", self.dtype, self.extent.tokens), (LENGTHS, COLUMNS[LENGTHS], self.extent.segments),
                (MODES, COLUMNS[MODES], self.extent.segments), (SEGMENTS, COLUMNS[SEGMENTS], self.extent.documents))

    def _read(self, suffix: str) -> Iterator[np.ndarray]:
        with open(with_suffix(self.prefix, suffix), "rb") as stream:
            while data := stream.read(AT_ONCE * COLUMNS[suffix].itemsize):
                yield np.frombuffer(data, dtype=COLUMNS[suffix])

    def _close(self) -> None:
        for file in self._files.values():
            file.close()


LENGTHS, MODES, SEGMENTS = ".lengths", ".modes", ".segments"
COLUMNS = {LENGTHS: np.dtype(np.int32), MODES: np.dtype(np.int8), SEGMENTS: np.dtype(np.int32)}


def write_index(path: Path, dtype: np.dtype, extent: Extent, read: Callable[[str], Iterator[np.ndarray]]) -> None:
    """Write an .idx, a block of entries at a time.

    Args:
        dtype: the ids'.
        read: gives the entries of one of COLUMNS in blocks (none of them empty), from the first one on at every call.
    """
    with open(path, "wb") as stream:
        stream.write(HEADER.pack(MAGIC, VERSION, CODES[dtype], extent.segments, extent.documents + 1))
        for lengths in read(LENGTHS):
            stream.write(lengths.tobytes())
        for begins in _running(read(LENGTHS)):
            stream.write((begins * dtype.itemsize).tobytes())
        last = 0
        for counts, begins in zip(read(SEGMENTS), _running(read(SEGMENTS)), strict=True):
            stream.write(begins.tobytes())
            last = int(begins[-1] + counts[-1])
        stream.write(np.int64(last).tobytes())
        for modes in read(MODES):
            stream.write(modes.tobytes())
        stream.flush()
        os.fsync(stream.fileno())


def _open_at(path: Path, size: int) -> IO[bytes]:
    """The file, cut to `size` bytes and open for what comes after them."""
    file = open(path, "r+b" if size else "wb")  # noqa: SIM115 - closed by the writer
    file.truncate(size)
    file.seek(size)
    return file


def _running(blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Of each entry the sum of those before it, int64.

    >>> [block.tolist() for block in _running(iter([np.array([3, 1]), np.array([2])]))]
    [[0, 3], [4]]
    """
    total = 0
    for block in blocks:
        ends = np.cumsum(block, dtype=np.int64) + total
        yield ends - block
        total = int(ends[-1])
