"""megatron-core's `torch_dist` checkpoints as a source and as a sink, without megatron-core, a process group or the model.

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
import pickle
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
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
from megatron_ft.conversion.streams import Segment, Shape
from megatron_ft.errors import CheckpointError
from megatron_ft.families.rules import Weight
from megatron_ft.runtime import sums, torch_archive, torch_file
from megatron_ft.runtime.stored_names import stored_key
from megatron_ft.runtime.stored_tensor import Reading, StoredTensor

COMMON_FILE, FORMAT_FILE = "common.pt", "metadata.json"
_FORMAT = {"sharded_backend": "torch_dist", "sharded_backend_version": 1,
           "common_backend": "torch", "common_backend_version": 1}
_LARGEST_FILE_BYTES = 4 * 2**30
_LINEARS = ("self_attention.linear_qkv", "self_attention.linear_proj", "mlp.linear_fc1", "mlp.linear_fc2")
_MODEL_PREFIXES = ("embedding.", "decoder.", "output_layer.", "mtp.")


def extra_state_keys(layers: int) -> Iterator[str]:
    """Keys of the empty `_extra_state` objects that a GPTModel asks for at load.

    The local layers ask for the linears' only. The final norm's is transformer-engine's (2.0 and later); a key that a
    model does not ask for does no harm.
    """
    for linear in _LINEARS:
        for layer in range(layers):
            yield f"decoder.layers.{linear}._extra_state/shard_{layer}_{layers}"
    yield "decoder.final_layernorm._extra_state/shard_0_1"


class TorchDistSink:
    """Writes a checkpoint, each weight as one chunk; `close` writes the metadata, without which it never looks complete."""

    def __init__(self, folder: Path, shapes: dict[str, Shape], dtype: torch.dtype, *, layers: int,
                 common: dict[str, Any] | None = None) -> None:
        """
        Args:
            shapes: of every weight to be written, by its name in a GPTModel with the local layer spec.
        """
        self.folder, self._layers, self._dtype, self._common = folder, layers, dtype, common or {}
        self._chunks = {name: _chunk_shape(name, shape) for name, shape in shapes.items()}
        self._places: dict[str, _StorageInfo] = {}
        sizes: list[int] = []
        lengths: dict[Shape, int] = {}  # of an archive: the shape decides it
        for name, shape in self._chunks.items():
            length = lengths[shape] if shape in lengths else lengths.setdefault(shape, torch_archive.saved_bytes(dtype, shape))
            if not sizes or sizes[-1] + length > _LARGEST_FILE_BYTES:
                sizes.append(0)
            self._places[name] = _StorageInfo(_file_name(len(sizes) - 1), sizes[-1], length)
            sizes[-1] += length
        for number, size in enumerate(sizes):
            path = folder / _file_name(number)
            with path.open("r+b" if path.exists() else "wb") as stream:
                stream.truncate(size)

    @property
    def heads(self) -> dict[str, bytes]:
        """File name -> what stands in it before its first weight: nothing."""
        return dict.fromkeys((place.relative_path for place in self._places.values()), b"")

    def writing(self, weight: Weight) -> _ChunkWriting:
        return self.chunk(weight.megatron)

    def chunk(self, name: str) -> _ChunkWriting:
        """Begin to write the weight of that name."""
        return _ChunkWriting(self.folder, name, self._places[name], self._dtype, self._chunks[name])

    def close(self) -> Segment:
        """Write what is no weight; gives the place of the objects behind the last one."""
        entries: dict[str, TensorStorageMetadata | BytesStorageMetadata] = {}
        places: dict[MetadataIndex, _StorageInfo] = {}
        for name, chunk in self._chunks.items():
            key, layer = stored_key(name)
            stacked = () if layer is None else (self._layers,)
            entry = entries.setdefault(key, TensorStorageMetadata(
                TensorProperties(dtype=self._dtype), torch.Size([*stacked, *chunk[len(stacked):]]), []))
            offsets = torch.Size([*([] if layer is None else [layer]), *([0] * (len(chunk) - len(stacked)))])
            entry.chunks.append(ChunkStorageMetadata(offsets, torch.Size(chunk)))
            places[MetadataIndex(key, offsets)] = self._places[name]
        last = list(self._places.values())[-1]
        path, start = self.folder / last.relative_path, last.offset + last.length
        with path.open("r+b") as stream:
            stream.seek(start)
            for key in extra_state_keys(self._layers):
                entries[key] = BytesStorageMetadata()
                places[MetadataIndex(key)] = _append_object(stream, last.relative_path)
            stream.truncate()
            stream.seek(start)
            objects = stream.read()
        torch.save(self._common, self.folder / COMMON_FILE)
        metadata = Metadata(state_dict_metadata=entries, storage_data=places, version=CURRENT_DCP_VERSION)
        (self.folder / METADATA_FILE).write_bytes(pickle.dumps(metadata))
        (self.folder / FORMAT_FILE).write_text(json.dumps(_FORMAT), encoding="utf-8")
        return Segment(last.relative_path, start, len(objects), sums.text(sums.crc32(objects)))


def _file_name(number: int) -> str:
    return f"__0_{number}.distcp"


def _chunk_shape(name: str, shape: Shape) -> Shape:
    """A layer's chunk has the layer's axis in front."""
    return shape if stored_key(name)[1] is None else (1, *shape)


def _append_object(stream: IO[bytes], file: str) -> _StorageInfo:
    saved = io.BytesIO()
    torch.save([None], saved)  # one object, and it is empty
    start = stream.tell()
    stream.write(saved.getvalue())
    return _StorageInfo(file, start, len(saved.getvalue()))


class _ChunkWriting:
    """A weight's rows on their way into its chunk."""

    def __init__(self, folder: Path, name: str, place: _StorageInfo, dtype: torch.dtype, shape: Shape) -> None:
        self._name, self._place = name, place
        self._writer = torch_archive.TensorWriter(folder / place.relative_path, place.offset, dtype, shape)

    def write(self, start: int, rows: Tensor) -> None:
        self._writer.write(rows)

    def abandon(self) -> None:
        self._writer.abandon()

    def finish(self) -> tuple[dict[str, str], list[Segment]]:
        numbers, archive = self._writer.finish()
        place = self._place
        assert self._writer.bytes == place.length, (self._name, self._writer.bytes, place.length)
        return ({self._name: sums.text(numbers)},
                [Segment(place.relative_path, place.offset, place.length, sums.text(archive))])


class TorchDistSource:
    """The model tensors of a checkpoint saved at any TP, PP and DP; optimizer state is left alone."""

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)
        metadata = read_metadata(folder)
        self._places = metadata.storage_data
        self._tensors = {key: entry for key, entry in metadata.state_dict_metadata.items()
                         if isinstance(entry, TensorStorageMetadata) and key.startswith(_MODEL_PREFIXES)}

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
        key, layer = self._locate(name)
        size = tuple(self._tensors[key].size)
        return size if layer is None else size[1:]

    def layers(self, name: str) -> int | None:
        key, layer = self._locate(name)
        return None if layer is None else self._tensors[key].size[0]

    def dtype(self, name: str) -> torch.dtype:
        return self._tensors[self._locate(name)[0]].properties.dtype

    def unexpected(self, names: list[str]) -> list[str]:
        return sorted(set(self._tensors) - {self._locate(name)[0] for name in names})

    @property
    def keys(self) -> dict[str, tuple[Shape, torch.dtype]]:
        """Every model tensor that is stored: key -> global shape and dtype."""
        return {key: (tuple(entry.size), entry.properties.dtype) for key, entry in self._tensors.items()}

    def reading(self, name: str) -> _ChunkRows:
        key, layer = self._locate(name)
        entry = self._tensors[key]
        boxes = []
        for chunk in entry.chunks:
            if layer is None or chunk.offsets[0] <= layer < chunk.offsets[0] + chunk.sizes[0]:
                boxes.append(_Box(self._stored(key, entry, chunk), chunk, layer, f"{name} ({key} at {list(chunk.offsets)})"))
        shape = self.shape(name)
        stored = sum(math.prod(box.shape) for box in boxes)
        if any(not box.is_within(shape) for box in boxes) or any(one.meets(other) for one, other in combinations(boxes, 2)):
            raise CheckpointError(f"{self._folder}: {name} is stored in chunks that overlap or stick out of {list(shape)}; the "
                                  "checkpoint is damaged, take another one")
        if stored != math.prod(shape):
            raise CheckpointError(f"{self._folder}: {name} has {stored} of {math.prod(shape)} numbers stored; "
                                  "the checkpoint is incomplete, take another one")
        return _ChunkRows(name, shape, entry.properties.dtype, boxes)

    def _stored(self, key: str, entry: TensorStorageMetadata, chunk: ChunkStorageMetadata) -> StoredTensor:
        place = self._places.get(MetadataIndex(key, chunk.offsets))
        if place is None:
            raise CheckpointError(f"{self._folder}: {key} at {list(chunk.offsets)} is announced but stored nowhere; "
                                  "the checkpoint is damaged, take another one")
        if Path(place.relative_path).name != place.relative_path or place.relative_path == "..":
            raise CheckpointError(f"{self._folder}: .metadata says that {key} is in {place.relative_path}, outside the folder; "
                                  "it is damaged or hostile, take another checkpoint")
        path = self._folder / place.relative_path
        stored = torch_file.load(path, start=place.offset, length=place.length, what=key)
        if not isinstance(stored, StoredTensor) or stored.shape != tuple(chunk.sizes) or stored.dtype != entry.properties.dtype:
            raise CheckpointError(f"{path}: {key} has another shape or dtype than .metadata says ({list(chunk.sizes)}, "
                                  f"{entry.properties.dtype}); the files belong to different checkpoints")
        return stored


class _Box:
    """One chunk's part of a weight: a box of its rows and columns, read row by row."""

    def __init__(self, stored: StoredTensor, chunk: ChunkStorageMetadata, layer: int | None, name: str) -> None:
        offsets, self.shape = tuple(chunk.offsets), tuple(chunk.sizes)
        if layer is not None:
            if stored.stride is None:
                stored = _layer_of(stored, layer - offsets[0])
            else:
                raise CheckpointError(f"{stored.path}: {name} is stored in an unusual order; save the checkpoint anew")
            offsets, self.shape = offsets[1:], self.shape[1:]
        self.first, self.end = offsets[0], offsets[0] + self.shape[0]
        self.corner = offsets[1:]
        self._reading = Reading(stored, name)

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows start:stop of the weight, as far as they are this box's."""
        return self._reading.rows(start - self.first, stop - self.first)

    def is_within(self, shape: Shape) -> bool:
        """Whether it is a part of a weight of that shape."""
        return all(corner >= 0 and corner + size <= whole for corner, size, whole in zip(
            (self.first, *self.corner), self.shape, shape, strict=True))

    def meets(self, other: _Box) -> bool:
        """Whether both hold the same number."""
        return all(max(one, two) < min(one + size, two + width) for one, size, two, width in zip(
            (self.first, *self.corner), self.shape, (other.first, *other.corner), other.shape, strict=True))

    def has_all_of(self, start: int, stop: int, shape: Shape) -> bool:
        """Whether these rows of a weight of that shape are its own alone."""
        return self.shape[1:] == shape[1:] and self.first <= start and stop <= self.end

    def finish(self) -> str:
        return self._reading.finish()


def _layer_of(stored: StoredTensor, index: int) -> StoredTensor:
    """One layer of a tensor with an axis of layers in front; the sum is that of a chunk of one layer only."""
    size = math.prod(stored.shape[1:]) * stored.dtype.itemsize
    return StoredTensor(stored.path, stored.dtype, stored.shape[1:], stored.offset + index * size,
                        crc32=stored.crc32 if stored.shape[0] == 1 else None)


class _ChunkRows:
    """Rows of a weight, put together from the chunks of all ranks that saved it."""

    def __init__(self, name: str, shape: Shape, dtype: torch.dtype, boxes: list[_Box]) -> None:
        self._name, self._shape, self._dtype, self._boxes = name, shape, dtype, boxes

    def rows(self, start: int, stop: int) -> Tensor:
        touched = [box for box in self._boxes if box.first < stop and start < box.end]
        if len(touched) == 1 and touched[0].has_all_of(start, stop, self._shape):
            return touched[0].rows(start, stop)
        joined = torch.empty(stop - start, *self._shape[1:], dtype=self._dtype)
        for box in touched:
            first, end = max(start, box.first), min(stop, box.end)
            columns = tuple(slice(corner, corner + size) for corner, size in zip(box.corner, box.shape[1:], strict=True))
            joined[(slice(first - start, end - start), *columns)] = box.rows(first, end)
        return joined

    def finish(self) -> dict[str, str]:
        found = [box.finish() for box in self._boxes]
        return {self._name: found[0]} if len(found) == 1 else {f"{self._name}[{n}]": each for n, each in enumerate(found)}
