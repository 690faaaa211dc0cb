"""A tensor where it lies in a file: read whole, or row by row, when it is asked for."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from pathlib import Path

import torch
from torch import Tensor

from megatron_ft.errors import CheckpointError
from megatron_ft.runtime import sums


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """Numbers of one dtype in a file; rows are its first axis (a vector's rows are its numbers)."""

    path: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int
    """Bytes from the start of the file to its first number."""
    stride: tuple[int, ...] | None = None
    """In numbers; None: row after row, without gaps."""
    crc32: int | None = None
    """Of its bytes, where the file says so."""

    @property
    def nbytes(self) -> int:
        """Bytes of its numbers."""
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self) -> Tensor:
        """All of it, in memory of its own."""
        return self.rows(0, self.shape[0]) if self.shape else self._bytes(0, self.dtype.itemsize).view(self.dtype)[0]

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows start:stop. One that is stored in another order is read as a whole first."""
        if self.stride is not None:
            return self._reordered()[start:stop]
        row_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize
        return self._bytes(start * row_bytes, (stop - start) * row_bytes).view(self.dtype).reshape(-1, *self.shape[1:])

    def write(self, start: int, rows: Tensor) -> None:
        """Put rows start... into the file, which is there."""
        assert rows.dtype == self.dtype and rows.shape[1:] == self.shape[1:] and self.stride is None
        content, place = memory(rows), self.offset + start * math.prod(self.shape[1:]) * self.dtype.itemsize
        with self.path.open("r+b", buffering=0) as stream:
            done = 0
            while done < len(content):
                done += os.pwrite(stream.fileno(), content[done:], place + done)

    def _reordered(self) -> Tensor:
        assert self.stride is not None
        span = 1 + sum((size - 1) * step for size, step in zip(self.shape, self.stride, strict=True))
        stored = self._bytes(0, span * self.dtype.itemsize).view(self.dtype)
        return stored.as_strided(self.shape, self.stride).contiguous()

    def _bytes(self, start: int, count: int) -> Tensor:
        flat = torch.empty(count, dtype=torch.uint8)
        view, got = memoryview(flat.numpy()), 0
        with self.path.open("rb", buffering=0) as stream:
            while got < count:
                read = os.preadv(stream.fileno(), [view[got:]], self.offset + start + got)  # at most 2 GiB each
                if not read:
                    raise CheckpointError(f"{self.path}: ends after {self.offset + start + got} bytes, within a tensor; the "
                                          "file is cut short, copy it again")
                got += read
        return flat


class Reading:
    """Rows of one tensor, taken once each in any order, and summed on the way."""

    def __init__(self, tensor: StoredTensor, name: str) -> None:
        self._tensor, self._name = tensor, name
        self._in_order = tensor.read() if tensor.stride is not None else None
        self._taken: list[tuple[int, int, int]] = []  # first row, rows, sum

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows start:stop."""
        piece = self._rows(start, stop)
        if piece.is_floating_point() and piece.dtype.itemsize > 1 and not is_finite(piece):
            raise CheckpointError(f"{self._tensor.path}: {self._name} holds NaN or infinity in rows {start} to {stop - 1}; "
                                  "such a model computes nothing, take another copy")
        self._taken.append((start, stop - start, sums.crc32(memory(piece))))
        return piece

    def finish(self) -> str:
        """The sum of all rows, those that nobody has taken included; CheckpointError where the file says another one."""
        row_bytes = self._tensor.nbytes // max(1, self._tensor.shape[0])
        pieces, following = [], 0
        for start, rows, crc in [*sorted(self._taken), (self._tensor.shape[0], 0, 0)]:
            assert start >= following, f"rows of {self._name} were taken twice"
            pieces += [(self._sum(following, start), (start - following) * row_bytes), (crc, rows * row_bytes)]
            following = start + rows
        found, expected = sums.joined(pieces), self._tensor.crc32
        if expected not in (None, found):
            raise CheckpointError(f"{self._tensor.path}: {self._name} has the checksum {sums.text(found)}, but the file "
                                  f"says {sums.text(expected)}; it is damaged, take another copy")
        return sums.text(found)

    def _sum(self, start: int, stop: int) -> int:
        """Of rows that nobody has taken: a vocabulary's padding."""
        crc, step = 0, rows_of(self._tensor.shape, self._tensor.dtype)
        for first in range(start, stop, step):
            crc = sums.crc32(memory(self._rows(first, min(stop, first + step))), crc)
        return crc

    def _rows(self, start: int, stop: int) -> Tensor:
        return self._tensor.rows(start, stop) if self._in_order is None else self._in_order[start:stop]


PIECE_BYTES = 4 * 2**20
"""What is read, looked at and written at once: large for disks, small enough for a processor's cache."""


def rows_of(shape: tuple[int, ...], dtype: torch.dtype, piece_bytes: int = PIECE_BYTES) -> int:
    """How many rows of a tensor make up a piece, at least one."""
    return max(1, piece_bytes // max(1, math.prod(shape[1:]) * dtype.itemsize))


def memory(tensor: Tensor) -> memoryview:
    """The bytes of a tensor's numbers, row after row."""
    return memoryview(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())


@functools.cache
def finite_limit(dtype: torch.dtype) -> float:
    """The largest number of a floating dtype."""
    return torch.finfo(dtype).max


def is_finite(tensor: Tensor) -> bool:
    """Whether no number of a floating tensor is NaN or infinite; one pass, no copy."""
    if not tensor.numel():
        return True
    low, high = (value.item() for value in torch.aminmax(tensor))
    limit = finite_limit(tensor.dtype)
    return -limit <= low and high <= limit  # NaN is passed on by aminmax and compares false
