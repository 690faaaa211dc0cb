"""Reads and writes safetensors files one tensor at a time, so that memory is one tensor's and not one shard's.

The format (huggingface/safetensors, README "Format"): 8 bytes header length (u64, little endian), the header as JSON
{name: {"dtype", "shape", "data_offsets": [begin, end]}} padded with spaces, then the tensors' bytes without gaps.
"""

from __future__ import annotations

import dataclasses
import json
import math
import struct
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from megatron_ft.errors import CheckpointError
from megatron_ft.runtime.dtypes import SAFETENSORS, SAFETENSORS_NAMES

_LENGTH = struct.Struct("<Q")
_LARGEST_HEADER_BYTES = 100_000_000  # the format's own limit
_ALIGNMENT_BYTES = 8


@dataclasses.dataclass(frozen=True)
class Entry:
    """Where a tensor lies in a file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int
    """From the start of the file."""

    @property
    def nbytes(self) -> int:
        """Bytes of its numbers."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(path: str | Path) -> dict[str, Entry]:
    """Every tensor of a file by name; CheckpointError when the file is cut short or is no safetensors file."""
    path = Path(path)
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = _LENGTH.unpack(stream.read(_LENGTH.size))[0] if size >= _LENGTH.size else 0
        if not 2 <= length <= min(_LARGEST_HEADER_BYTES, size - _LENGTH.size):
            raise _damaged(path, f"a header of {length} bytes in a file of {size}")
        text = stream.read(length)
    start = _LENGTH.size + length
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        entries = {name: Entry(SAFETENSORS[item["dtype"]], tuple(item["shape"]), start + item["data_offsets"][0])
                   for name, item in header.items()}
        spans = [(item["data_offsets"][1] - item["data_offsets"][0], entries[name]) for name, item in header.items()]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise _damaged(path, f"an unreadable header ({type(error).__name__}: {error})") from error
    end = max((entry.offset + entry.nbytes for entry in entries.values()), default=start)
    if size != end or any(span != entry.nbytes for span, entry in spans):
        raise _damaged(path, f"{size} bytes where its header says {end}")
    return entries


def read_tensor(path: str | Path, entry: Entry) -> Tensor:
    """One tensor's numbers, in memory of its own."""
    flat = torch.empty(entry.nbytes, dtype=torch.uint8)
    with Path(path).open("rb", buffering=0) as stream:
        stream.seek(entry.offset)
        view, got = memoryview(flat.numpy()), 0
        while got < entry.nbytes:
            count = stream.readinto(view[got:])  # one call returns at most 2 GiB
            if not count:
                raise _damaged(Path(path), f"its end after {got} of a tensor's {entry.nbytes} bytes")
            got += count
    return flat.view(entry.dtype).reshape(entry.shape)


class SafetensorsWriter:
    """Writes a file whose tensors are known by name, shape and dtype beforehand and are then given in that order."""

    def __init__(self, path: str | Path, tensors: dict[str, tuple[int, ...]], dtype: torch.dtype):
        self.path = Path(path)
        self._dtype = dtype
        self._expected = list(tensors.items())
        self._stream = self.path.open("wb")
        self._stream.write(self._header())

    def _header(self) -> bytes:
        offset, header = 0, {"__metadata__": {"format": "pt"}}
        for name, shape in self._expected:
            end = offset + math.prod(shape) * self._dtype.itemsize
            header[name] = {"dtype": SAFETENSORS_NAMES[self._dtype], "shape": list(shape),
                            "data_offsets": [offset, end]}
            offset = end
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % _ALIGNMENT_BYTES)
        return _LENGTH.pack(len(text)) + text

    def write(self, name: str, tensor: Tensor) -> None:
        """Append the next tensor; it must be the one announced for this place."""
        expected, shape = self._expected.pop(0)
        assert (name, tuple(tensor.shape), tensor.dtype) == (expected, shape, self._dtype), (name, expected)
        self._stream.write(memoryview(tensor.contiguous().reshape(-1).view(torch.uint8).numpy()))

    def __enter__(self) -> SafetensorsWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        self._stream.close()
        assert kind or not self._expected, self._expected


def _damaged(path: Path, found: str) -> CheckpointError:
    return CheckpointError(f"{path}: has {found}; the file is cut short or no safetensors file, copy it again")
