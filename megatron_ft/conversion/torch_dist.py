"""Writes and reads megatron-core's `torch_dist` checkpoints without megatron-core, a process group or the model.

What is in such a folder (megatron-core 0.16, torch.distributed.checkpoint "1.0.0"):

    __R_N.distcp     chunks one after another, each one torch.save of a tensor (or of bytes: `_extra_state`)
    .metadata        a pickle: key -> global shape and chunks (offsets, sizes); (key, offsets) -> file, position, length
    common.pt        torch.save of a dict: whatever is the same on all ranks
    metadata.json    the format's name; written last

The keys are those of runtime/stored_names.py. A gated MLP's linear_fc1 is [gate; up] as a whole.
"""

from __future__ import annotations

import io
import json
import math
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.filesystem import CURRENT_DCP_VERSION, _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from megatron_ft.conversion.dcp_metadata import METADATA_FILE, read_metadata
from megatron_ft.errors import CheckpointError
from megatron_ft.runtime.stored_names import stored_key

Shape = tuple[int, ...]

COMMON_FILE, FORMAT_FILE = "common.pt", "metadata.json"
_FORMAT = {"sharded_backend": "torch_dist", "sharded_backend_version": 1,
           "common_backend": "torch", "common_backend_version": 1}
_LARGEST_FILE_BYTES = 4 * 2**30
_LINEARS = ("self_attention.linear_qkv", "self_attention.linear_proj", "mlp.linear_fc1", "mlp.linear_fc2")
_MODEL_PREFIXES = ("embedding.", "decoder.", "output_layer.")


def extra_state_keys(layers: int) -> Iterator[str]:
    """Keys of the empty `_extra_state` objects that a GPTModel asks for at load.

    The local layers ask for the linears' only. The final norm's is transformer-engine's (2.0 and later); a key that a
    model does not ask for does no harm.
    """
    for linear in _LINEARS:
        for layer in range(layers):
            yield f"decoder.layers.{linear}._extra_state/shard_{layer}_{layers}"
    yield "decoder.final_layernorm._extra_state/shard_0_1"


class TorchDistWriter:
    """Writes a checkpoint parameter by parameter, in any order.

    with TorchDistWriter(folder, layers=40) as writer:
        writer.write("decoder.layers.0.mlp.linear_fc1.weight", tensor)
        ...
    When the block ends well the folder gets its metadata and is complete; otherwise it never looks complete.
    """

    def __init__(self, folder: str | Path, *, layers: int, common: dict[str, Any] | None = None):
        self._folder = Path(folder)
        self._layers = layers
        self._common = common or {}
        self._tensors: dict[str, TensorStorageMetadata | BytesStorageMetadata] = {}
        self._places: dict[MetadataIndex, _StorageInfo] = {}
        self._files = 0
        self._stream: IO[bytes] | None = None

    def write(self, name: str, tensor: Tensor) -> None:
        """Store a whole parameter under its GPTModel name (local layer spec)."""
        key, layer = stored_key(name)
        stacked = () if layer is None else (self._layers,)
        offsets = torch.Size([*([] if layer is None else [layer]), *([0] * tensor.dim())])
        chunk = tensor.detach().contiguous() if layer is None else tensor.detach().contiguous().unsqueeze(0)
        if chunk.untyped_storage().nbytes() != chunk.nbytes:
            chunk = chunk.clone()  # torch.save writes the whole storage behind a view
        entry = self._tensors.setdefault(key, TensorStorageMetadata(
            TensorProperties(dtype=tensor.dtype), torch.Size([*stacked, *tensor.shape]), []))
        assert entry.properties.dtype == tensor.dtype and entry.size[len(stacked):] == tensor.shape, name
        entry.chunks.append(ChunkStorageMetadata(offsets, chunk.shape))
        self._places[MetadataIndex(key, offsets)] = self._append(chunk)

    def _append(self, value: Any) -> _StorageInfo:
        if self._stream is None or self._stream.tell() >= _LARGEST_FILE_BYTES:
            self._close_file()
            self._stream = (self._folder / f"__0_{self._files}.distcp").open("wb")
            self._files += 1
        start = self._stream.tell()
        torch.save(value, self._stream)
        return _StorageInfo(Path(self._stream.name).name, start, self._stream.tell() - start)

    def _close_file(self) -> None:
        if self._stream is not None:
            self._stream.flush()
            os.fsync(self._stream.fileno())
            self._stream.close()
            self._stream = None

    def _finish(self) -> None:
        for key in extra_state_keys(self._layers):
            self._tensors[key] = BytesStorageMetadata()
            self._places[MetadataIndex(key)] = self._append([None])  # one object, and it is empty
        self._close_file()
        torch.save(self._common, self._folder / COMMON_FILE)
        metadata = Metadata(state_dict_metadata=self._tensors, storage_data=self._places, version=CURRENT_DCP_VERSION)
        (self._folder / METADATA_FILE).write_bytes(pickle.dumps(metadata))
        (self._folder / FORMAT_FILE).write_text(json.dumps(_FORMAT), encoding="utf-8")

    def __enter__(self) -> TorchDistWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        if kind is None:
            self._finish()
        else:
            self._close_file()


class TorchDistReader:
    """The model tensors of a checkpoint saved at any TP, PP and DP; optimizer state is left alone."""

    def __init__(self, folder: str | Path):
        self._folder = Path(folder)
        metadata = read_metadata(folder)
        self._places = metadata.storage_data
        self._tensors = {key: entry for key, entry in metadata.state_dict_metadata.items()
                         if isinstance(entry, TensorStorageMetadata) and key.startswith(_MODEL_PREFIXES)}
        self._read_keys: set[str] = set()

    def _locate(self, name: str) -> tuple[str, int | None]:
        """The key that holds a parameter; checkpoints saved as non-homogeneous keep one key per layer."""
        key, layer = stored_key(name)
        if key in self._tensors:
            return key, layer
        if layer is not None:
            own = key.replace("decoder.layers.", f"decoder.layers.{layer}.", 1)
            if own in self._tensors:
                return own, None
        raise CheckpointError(f"{self._folder}: {name} is missing (key {key}); the checkpoint belongs to another model "
                              "or is incomplete")

    def shape(self, name: str) -> Shape:
        """Global shape of a parameter."""
        key, layer = self._locate(name)
        size = tuple(self._tensors[key].size)
        return size if layer is None else size[1:]

    def layers(self, name: str) -> int | None:
        """Length of the layer axis that a parameter is stored on; None for one with a key of its own."""
        key, layer = self._locate(name)
        return None if layer is None else self._tensors[key].size[0]

    def dtype(self, name: str) -> torch.dtype:
        """The dtype that a parameter is stored in."""
        return self._tensors[self._locate(name)[0]].properties.dtype

    def unexpected(self, names: list[str]) -> list[str]:
        """Keys of model tensors that belong to none of these parameters."""
        return sorted(set(self._tensors) - {self._locate(name)[0] for name in names})

    def read(self, name: str) -> Tensor:
        """A whole parameter, put together from the chunks of all ranks that saved it."""
        key, layer = self._locate(name)
        entry = self._tensors[key]
        leading = [] if layer is None else [layer]
        whole = torch.empty(entry.size[len(leading):], dtype=entry.properties.dtype)
        filled = 0
        for chunk in entry.chunks:
            if layer is not None and not chunk.offsets[0] <= layer < chunk.offsets[0] + chunk.sizes[0]:
                continue
            part = self._load(key, chunk)
            if layer is not None:
                part = part[layer - chunk.offsets[0]]
            corner = chunk.offsets[len(leading):]
            whole[tuple(slice(start, start + length) for start, length in
                        zip(corner, part.shape, strict=True))] = part
            filled += part.numel()
        if filled != math.prod(whole.shape):
            raise CheckpointError(f"{self._folder}: {name} has {filled} of {math.prod(whole.shape)} numbers stored; "
                                  "the checkpoint is incomplete, take another one")
        return whole

    def _load(self, key: str, chunk: ChunkStorageMetadata) -> Tensor:
        place = self._places.get(MetadataIndex(key, chunk.offsets))
        if place is None:
            raise CheckpointError(f"{self._folder}: {key} at {list(chunk.offsets)} is announced but stored nowhere; "
                                  "the checkpoint is damaged, take another one")
        path = self._folder / place.relative_path
        try:
            with path.open("rb") as stream:
                piece = FileSlice(stream, place.offset, place.length)
                tensor = torch.load(piece, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises a dozen kinds for damaged files
            raise CheckpointError(f"{path}: {key} cannot be read ({type(error).__name__}: {str(error)[:200]}); "
                                  "the file is damaged, take another checkpoint") from error
        if not isinstance(tensor, Tensor) or tensor.shape != chunk.sizes:
            raise CheckpointError(f"{path}: {key} has another shape than .metadata says ({list(chunk.sizes)}); "
                                  "the files belong to different checkpoints")
        return tensor


class FileSlice(io.RawIOBase):
    """Part of an open file as if it were a file, so that torch.load reads one chunk without a copy of its bytes."""

    def __init__(self, stream: IO[bytes], start: int, length: int):
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
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        wanted = min(len(view), max(0, self._length - self._position))
        self._stream.seek(self._start + self._position)
        count = self._stream.readinto(view[:wanted])
        self._position += count
        return count
