"""Files of torch.save, and parts of files: read without running their pickle, tensors left where they lie.

Since torch 1.6 such a file is a zip archive, uncompressed: NAME/data.pkl is the pickle, in which a tensor is
`_rebuild_tensor_v2(storage, offset, shape, stride, ...)` and a storage ("storage", class, key, device, numbers); its bytes are
the member NAME/data/KEY, which has a CRC-32 as all members do (torch/serialization.py, `_save`). Before, it was five pickles
in a row, the third the object, the last the keys of the storages, whose bytes follow (`_legacy_save`).
"""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from pathlib import Path
from typing import IO, Any

import torch

from megatron_ft.errors import CheckpointError
from megatron_ft.runtime import pickles
from megatron_ft.runtime.stored_tensor import StoredTensor

_MAGIC = 0x1950A86A20F9469CFC6C  # torch/serialization.py, MAGIC_NUMBER
_LARGEST_PICKLE_BYTES = 2**30
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # of a zip member: signature ... length of its name, length of its extra field


class _Storage:
    """Where a storage's bytes lie; the old format says it after the tensors have been made."""

    def __init__(self, dtype: torch.dtype, numbers: int) -> None:
        self.dtype, self.numbers = dtype, numbers
        self.offset, self.crc32 = -1, None

    @property
    def nbytes(self) -> int:
        return self.numbers * self.dtype.itemsize


class _Tensor:
    """A tensor of a pickle, before the places of storages are known."""

    def __init__(self, storage: _Storage, start: int, shape: tuple[int, ...], stride: tuple[int, ...],
                 dtype: torch.dtype) -> None:
        self.storage, self.start, self.shape, self.stride, self.dtype = storage, start, tuple(shape), tuple(stride), dtype
        numbers = (start, *self.shape, *self.stride)
        if len(self.shape) != len(self.stride) or any(not isinstance(each, int) or each < 0 for each in numbers):
            raise pickle.UnpicklingError(f"a tensor of shape {shape} and stride {stride} from {start} on")
        last = start + sum((size - 1) * step for size, step in zip(self.shape, self.stride, strict=True))
        if 0 not in self.shape and last >= storage.numbers:
            raise pickle.UnpicklingError(f"a tensor of shape {shape} in a storage of {storage.numbers} numbers")

    def placed(self, path: Path) -> StoredTensor:
        offset = self.storage.offset + self.start * self.dtype.itemsize
        ordered = self.stride == torch.empty(self.shape, device="meta").stride() or 0 in self.shape
        tensor = StoredTensor(path, self.dtype, self.shape, offset, stride=None if ordered else self.stride)
        whole = ordered and self.start == 0 and tensor.nbytes == self.storage.nbytes
        return StoredTensor(path, self.dtype, self.shape, offset, crc32=self.storage.crc32) if whole else tensor


def _rebuild_tensor(storage: _Storage, start: int, shape: tuple[int, ...], stride: tuple[int, ...], *more: Any) -> _Tensor:
    if not isinstance(storage, _Storage):
        raise pickle.UnpicklingError(f"a tensor is made of a {type(storage).__name__}")
    return _Tensor(storage, start, shape, stride, storage.dtype)


def _rebuild_tensor_v3(storage: _Storage, start: int, shape: tuple[int, ...], stride: tuple[int, ...], requires_grad: bool,
                       hooks: Any, dtype: torch.dtype, *more: Any) -> _Tensor:
    return _Tensor(storage, start, shape, stride, dtype)


def _rebuild_parameter(data: _Tensor, *more: Any) -> _Tensor:
    return data


_TENSOR_WORDS = {"_rebuild_tensor": _rebuild_tensor, "_rebuild_tensor_v2": _rebuild_tensor,
                 "_rebuild_tensor_v3": _rebuild_tensor_v3, "_rebuild_parameter": _rebuild_parameter,
                 "_rebuild_parameter_with_state": _rebuild_parameter}


class _Unpickler(pickles.Unpickler):
    """Tensors become `_Tensor`s of `_Storage`s, which `storages` holds by key."""

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__(stream, encoding="utf-8")
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch._utils" and name in _TENSOR_WORDS:
            return lambda *arguments: _TENSOR_WORDS[name](*arguments)  # one of its own: a pickle may set attributes of it
        if (module, name) == ("torch._tensor", "_rebuild_from_type_v2"):
            return lambda function, kind, arguments, state: function(*arguments)
        if (module, name) in (("torch", "Tensor"), ("torch.nn.parameter", "Parameter")):
            return pickles.named(f"{module}.{name}")
        if module in ("torch", "torch.storage") and name in pickles.STORAGE_DTYPES:
            return pickles.STORAGE_DTYPES[name]
        return super().find_class(module, name)

    def persistent_load(self, pid: Any) -> _Storage:
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage" or not isinstance(pid[1], torch.dtype):
            raise pickle.UnpicklingError(f"it refers to {pid!r}, which is no storage")
        if len(pid) > 5 and pid[5] is not None:
            raise pickle.UnpicklingError("its tensors are views of other storages, as torch before 1.0 saved them")
        return self.storages.setdefault(str(pid[2]), _Storage(pid[1], int(pid[4])))


def load(path: str | Path, *, start: int = 0, length: int | None = None, what: str = "it") -> Any:
    """What was saved, with a StoredTensor in the place of each tensor.

    Args:
        start, length: of the part of the file that it is, in bytes; left out: the whole file.
        what: for messages.
    CheckpointError for a file that is damaged, cut short, or names what no checkpoint needs.
    """
    path = Path(path)
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, io.SEEK_END)
            length = size - start if length is None else length
            if start + length > size:
                raise EOFError(f"{size} bytes where {start + length} are expected")
            part = io.BufferedReader(FileSlice(stream, start, length))
            loaded = _load_zip(part, start) if _is_zip(part) else _load_old(part, start)
        return _placed(loaded, path, {})
    except FileNotFoundError:
        raise CheckpointError(f"{path}: not found; the checkpoint is incomplete, take another copy") from None
    except (OSError, CheckpointError):
        raise
    except Exception as error:  # a damaged archive or pickle raises nearly anything
        raise CheckpointError(f"{path}: {what} cannot be read ({type(error).__name__}: {str(error)[:200]}); the file is "
                              "damaged or not torch.save's: take another copy") from error


def _is_zip(stream: IO[bytes]) -> bool:
    found = stream.read(4) == b"PK\x03\x04"
    stream.seek(0)
    return found


def _load_zip(stream: IO[bytes], start: int) -> Any:
    with zipfile.ZipFile(stream) as archive:
        members = {name.partition("/")[2]: info for name, info in archive.NameToInfo.items()}
        if members["data.pkl"].file_size > _LARGEST_PICKLE_BYTES:
            raise ValueError(f"a pickle of {members['data.pkl'].file_size} bytes")
        order = members.get("byteorder")
        if order is not None and (order.file_size != len(b"little") or archive.read(order) != b"little"):
            raise ValueError("numbers in another order than little-endian")
        unpickler = _Unpickler(io.BytesIO(archive.read(members["data.pkl"])))
        loaded = unpickler.load()
    for key, storage in unpickler.storages.items():
        info = members[f"data/{key}"]
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != storage.nbytes:
            raise ValueError(f"{info.filename} has {info.file_size} bytes, the pickle says {storage.nbytes}")
        stream.seek(info.header_offset)
        signature, name, extra = _LOCAL_HEADER.unpack(stream.read(_LOCAL_HEADER.size))
        if signature != b"PK\x03\x04":
            raise ValueError(f"{info.filename} is not where the archive's directory says")
        storage.offset, storage.crc32 = start + info.header_offset + _LOCAL_HEADER.size + name + extra, info.CRC
    return loaded


def _load_old(stream: IO[bytes], start: int) -> Any:
    if _Unpickler(stream).load() != _MAGIC:
        raise ValueError("its first bytes are not those of torch.save")
    _Unpickler(stream).load()
    _Unpickler(stream).load()
    unpickler = _Unpickler(stream)
    loaded = unpickler.load()
    for key in _Unpickler(stream).load():
        storage = unpickler.storages[key]
        (numbers,) = struct.unpack("<q", stream.read(8))
        if numbers != storage.numbers:
            raise ValueError(f"storage {key} has {numbers} numbers, the pickle says {storage.numbers}")
        storage.offset = start + stream.tell()
        end = stream.seek(storage.nbytes, io.SEEK_CUR)
        if end > stream.seek(0, io.SEEK_END):
            raise EOFError(f"its end within storage {key}")
        stream.seek(end)
    return loaded


def _placed(value: Any, path: Path, done: dict[int, Any]) -> Any:
    """The same containers, each `_Tensor` a StoredTensor.

    Args:
        done: by identity, what has been placed: a container may be in many others.
    """
    if id(value) not in done:
        if isinstance(value, _Tensor):
            done[id(value)] = value.placed(path)
        elif isinstance(value, dict):
            done[id(value)] = type(value)((key, _placed(item, path, done)) for key, item in value.items())
        elif type(value) in (list, tuple):
            done[id(value)] = type(value)(_placed(item, path, done) for item in value)
        else:
            return value
    return done[id(value)]


class FileSlice(io.RawIOBase):
    """Part of an open file as if it were a file."""

    def __init__(self, stream: IO[bytes], start: int, length: int) -> None:
        super().__init__()
        self._stream, self._start, self._length, self._position = stream, start, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._length}[whence]
        if base + offset < 0:
            raise ValueError(f"a place {base + offset} before the start")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        wanted = min(len(view), max(0, self._length - self._position))
        self._stream.seek(self._start + self._position)
        count = self._stream.readinto(view[:wanted])
        self._position += count
        return count
