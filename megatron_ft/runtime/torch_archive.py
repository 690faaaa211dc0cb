"""Writes what torch.save writes, with tensors that are not in memory yet: their numbers come one after the other, row by row.

The format is `torch_file`'s, by zipfile. It differs from torch's own in that numbers need not begin at multiples of 64 bytes.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import io
import math
import os
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from megatron_ft.runtime import pickles, sums
from megatron_ft.runtime.stored_tensor import memory


@dataclasses.dataclass(eq=False)
class Coming:
    """Takes a tensor's place in what is saved; its numbers are written later."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    def __reduce__(self) -> tuple[Any, ...]:
        strides = torch.empty(self.shape, device="meta").stride()
        return torch._utils._rebuild_tensor_v2, (_Storage(self), 0, self.shape, strides, False, collections.OrderedDict())


@dataclasses.dataclass(frozen=True, eq=False)
class _Storage:
    """The numbers of a Coming."""

    of: Coming


class _Pickler(pickle.Pickler):
    """Gives each storage the next number as its key; `coming` is their order."""

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__(stream, protocol=2)
        self.coming: list[Coming] = []

    def persistent_id(self, value: Any) -> Any:
        if not isinstance(value, _Storage):
            return None
        self.coming.append(value.of)
        [name] = [name for name, dtype in pickles.STORAGE_DTYPES.items()
                  if dtype == value.of.dtype and name != "UntypedStorage"]
        return "storage", getattr(torch, name), str(len(self.coming) - 1), "cpu", math.prod(value.of.shape)


@contextlib.contextmanager
def _archive(stream: Any, value: Any) -> Iterator[tuple[zipfile.ZipFile, list[Coming]]]:
    """An archive that has everything but numbers, and the tensors whose numbers are to come, in their order."""
    pickled = io.BytesIO()
    pickler = _Pickler(pickled)
    pickler.dump(value)
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, content in (("data.pkl", pickled.getvalue()), ("byteorder", b"little"), ("version", b"3\n")):
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), content)
        yield archive, pickler.coming


@contextlib.contextmanager
def _numbers(archive: zipfile.ZipFile, key: int) -> Iterator[IO[bytes]]:
    with archive.open(zipfile.ZipInfo(f"archive/data/{key}"), "w", force_zip64=True) as data:
        yield data


@contextlib.contextmanager
def save(path: Path, value: Any) -> Iterator[Iterator[tuple[Coming, IO[bytes]]]]:
    """Write a file of torch.save; gives each Coming in `value`, in their order, with the stream that takes its bytes."""
    with path.open("wb") as stream, _archive(stream, value) as (archive, coming):
        def each() -> Iterator[tuple[Coming, IO[bytes]]]:
            for key, tensor in enumerate(coming):
                with _numbers(archive, key) as data:
                    yield tensor, data

        yield each()


@contextlib.contextmanager
def _one(stream: Any, dtype: torch.dtype, shape: tuple[int, ...]) -> Iterator[IO[bytes]]:
    """An archive of one contiguous tensor; gives the stream that takes its numbers."""
    with _archive(stream, Coming(dtype, shape)) as (archive, _), _numbers(archive, 0) as data:
        yield data


def saved_bytes(dtype: torch.dtype, shape: tuple[int, ...]) -> int:
    """How long the archive of one tensor is."""
    length, nbytes = _Length(), math.prod(shape) * dtype.itemsize
    with _archive(length, Coming(dtype, shape)) as (archive, _):
        with _numbers(archive, 0):
            pass
        # As if they had been written: beyond 2 GiB the archive's directory takes more room.
        numbers = archive.infolist()[-1]
        numbers.file_size = numbers.compress_size = nbytes
        archive.start_dir += nbytes
    return length.end


class _Length:
    """A file that keeps nothing but its length."""

    def __init__(self) -> None:
        self._position, self.end = 0, 0

    def write(self, data: Any) -> int:
        self._position += len(data)
        self.end = max(self.end, self._position)
        return len(data)

    def tell(self) -> int:
        return self._position

    def seek(self, position: int, whence: int = io.SEEK_SET) -> int:
        self._position = position
        return position

    def flush(self) -> None:
        """Nothing is held back."""


class TensorWriter:
    """Writes one tensor as torch.save does, row by row, at a place of an open file."""

    def __init__(self, path: Path, start: int, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
        """
        Args:
            path: of a file that is there; other parts of it may be written at the same time.
            start: first byte; `saved_bytes` says how many there will be.
        """
        self._part = _FilePart(path.open("r+b", buffering=0), start)
        self._archive = _one(self._part, dtype, shape)
        self._data = self._archive.__enter__()
        self._first, self._sum = self._part.tell(), 0

    def write(self, rows: Tensor) -> None:
        """Append rows."""
        content = memory(rows)
        self._sum = sums.crc32(content, self._sum)
        self._data.write(content)

    def abandon(self) -> None:
        """Write nothing more; what is there is worth nothing."""
        with contextlib.suppress(Exception):  # whatever made the caller give up may do so once more, as a full disk does
            self._archive.__exit__(None, None, None)
        self._part.close()

    def finish(self) -> tuple[int, int]:
        """CRC-32 of the numbers, and of the archive."""
        end = self._part.tell()
        self._archive.__exit__(None, None, None)
        self.bytes = self._part.tell()
        around = self._part.read(0, self._first), self._part.read(end, self._part.tell())
        head, tail = ((sums.crc32(content), len(content)) for content in around)
        self._part.close()
        return self._sum, sums.joined([head, (self._sum, end - self._first), tail])


class _FilePart:
    """A part of a file as a file of its own, as far as zipfile writes one."""

    def __init__(self, stream: IO[bytes], start: int) -> None:
        self._stream, self._start, self._position = stream, start, 0

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        done = 0
        while done < len(view):
            done += os.pwrite(self._stream.fileno(), view[done:], self._start + self._position + done)
        self._position += done
        return done

    def read(self, start: int, stop: int) -> bytes:
        return os.pread(self._stream.fileno(), stop - start, self._start + start)

    def tell(self) -> int:
        return self._position

    def seek(self, position: int, whence: int = io.SEEK_SET) -> int:
        assert whence == io.SEEK_SET
        self._position = position
        return position

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        self._stream.close()
