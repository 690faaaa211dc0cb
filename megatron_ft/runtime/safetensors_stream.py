"""Says where the tensors of a safetensors file lie, and makes a file for tensors that are written in any order.

The format (huggingface/safetensors, README "Format"): 8 bytes header length (u64, little endian), the header as JSON
{name: {"dtype", "shape", "data_offsets": [begin, end]}} padded with spaces, then the tensors' bytes without gaps.
"""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

import torch

from megatron_ft.errors import CheckpointError
from megatron_ft.runtime.dtypes import SAFETENSORS, SAFETENSORS_NAMES
from megatron_ft.runtime.stored_tensor import StoredTensor

_LENGTH = struct.Struct("<Q")
_LARGEST_HEADER_BYTES = 100_000_000  # the format's own limit
_ALIGNMENT_BYTES = 8


def read_header(path: str | Path) -> dict[str, StoredTensor]:
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
        entries = {name: StoredTensor(path, SAFETENSORS[item["dtype"]], tuple(item["shape"]), start + item["data_offsets"][0])
                   for name, item in header.items()}
        spans = [(item["data_offsets"][1] - item["data_offsets"][0], entries[name]) for name, item in header.items()]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise _damaged(path, f"an unreadable header ({type(error).__name__}: {error})") from error
    end = max((entry.offset + entry.nbytes for entry in entries.values()), default=start)
    if size != end or any(span != entry.nbytes for span, entry in spans):
        raise _damaged(path, f"{size} bytes where its header says {end}")
    return entries


def create(path: str | Path, tensors: dict[str, tuple[int, ...]], dtype: torch.dtype) -> tuple[bytes, dict[str, StoredTensor]]:
    """Make a file of its full size with its header, whose tensors are then to be written where they belong.

    A file that is there already keeps what lies behind the header.
    Returns:
        the header's bytes, and each tensor's place; they lie one after the other, in the order given.
    """
    path, offset, header = Path(path), 0, {"__metadata__": {"format": "pt"}}
    for name, shape in tensors.items():
        end = offset + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": SAFETENSORS_NAMES[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT_BYTES)
    start = _LENGTH.pack(len(text)) + text
    with path.open("r+b" if path.exists() else "wb") as stream:
        stream.write(start)
        stream.truncate(len(start) + offset)
    return start, {name: StoredTensor(path, dtype, tuple(shape), len(start) + header[name]["data_offsets"][0])
                   for name, shape in tensors.items()}


def _damaged(path: Path, found: str) -> CheckpointError:
    return CheckpointError(f"{path}: has {found}; the file is cut short or no safetensors file, copy it again")
