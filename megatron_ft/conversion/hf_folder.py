"""A Hugging Face folder as a source and as a sink of weights in megatron-core's layout."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from torch import Tensor

from megatron_ft import families
from megatron_ft.conversion.streams import Segment
from megatron_ft.families import rules
from megatron_ft.families.architecture import Architecture
from megatron_ft.families.rules import Block, Weight
from megatron_ft.runtime import hf_files, safetensors_stream, sums
from megatron_ft.runtime.stored_tensor import Reading, StoredTensor, memory


class HfSource:
    """The weights of a folder that holds exactly an architecture's."""

    def __init__(self, folder: str | Path, architecture: Architecture) -> None:
        """CheckpointError for a tensor that is missing, unknown or misshapen, by name, and for a head wrongly called tied."""
        table = families.get(architecture.family).RULES
        self.files = hf_files.open_weights(folder)
        rules.check_hf_tensors(table, architecture, self.files.shapes, where=str(folder))
        hf_files.check_copies(self.files, table, architecture, where=str(folder))
        self._weights = {weight.megatron: weight for weight in rules.weights(table, architecture)}

    @property
    def dtypes(self) -> dict[str, torch.dtype]:
        """Of every tensor that makes up a weight, by its name in the folder."""
        return {name: self.files.dtypes[name] for weight in self._weights.values() for name, _ in weight.hf}

    def shape(self, name: str) -> tuple[int, ...]:
        return self._weights[name].megatron_shape

    def layers(self, name: str) -> int | None:
        return None

    def dtype(self, name: str) -> torch.dtype:
        return self.files.dtypes[self._weights[name].hf[0][0]]

    def unexpected(self, names: list[str]) -> list[str]:
        return sorted(set(self._weights) - set(names))

    def reading(self, name: str) -> HfRows:
        return HfRows(self._weights[name], self.files)


class HfRows:
    """Rows of a weight, from the Hugging Face tensors that it is made of."""

    def __init__(self, weight: Weight, files: hf_files.Weights) -> None:
        self._blocks = weight.blocks
        self._parts = {name: Reading(files.tensors[name], name) for name, _ in weight.hf}

    def rows(self, start: int, stop: int) -> Tensor:
        readings = list(self._parts.values())
        pieces = [readings[piece.part].rows(piece.hf, piece.hf + piece.rows) for piece in pieces_of(self._blocks, start, stop)]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def finish(self) -> dict[str, str]:
        return {name: reading.finish() for name, reading in self._parts.items()}


def pieces_of(blocks: list[Block], start: int, stop: int) -> list[Block]:
    """The parts of blocks that lie in the megatron tensor's rows start:stop, in their order.

    >>> pieces_of([Block(0, 0, 0, 4), Block(1, 0, 4, 2), Block(0, 4, 6, 4)], 3, 8)
    [Block(part=0, hf=3, megatron=3, rows=1), Block(part=1, hf=0, megatron=4, rows=2), Block(part=0, hf=4, megatron=6, rows=2)]
    """
    found = []
    for block in blocks:
        first, end = max(start, block.megatron), min(stop, block.megatron + block.rows)
        if first < end:
            found.append(Block(block.part, block.hf + first - block.megatron, first, end - first))
    return found


class HfSink:
    """Writes safetensors files, in which the tensors lie in the order of the weights."""

    def __init__(self, folder: Path, weights: list[Weight], dtype: torch.dtype, largest_bytes: int) -> None:
        """
        Args:
            largest_bytes: of a file; a weight that is larger gets one of its own.
        """
        self.folder, self._dtype = folder, dtype
        held = hf_files.shards([dict(weight.hf) for weight in weights], dtype.itemsize, largest_bytes)
        self._files = dict(zip(hf_files.file_names(len(held)), held, strict=True))
        self.heads: dict[str, bytes] = {}
        """File name -> what stands in it before its tensors."""
        self._places: dict[str, StoredTensor] = {}
        for name, tensors in self._files.items():
            self.heads[name], places = safetensors_stream.create(folder / name, tensors, dtype)
            self._places |= places

    def writing(self, weight: Weight) -> HfWriting:
        return HfWriting(weight, self._places)

    def close(self) -> None:
        """Write which tensor is where."""
        hf_files.write_index(self.folder, self._files, self._dtype)


class HfWriting:
    """Puts a weight's rows into the Hugging Face tensors that they belong to."""

    def __init__(self, weight: Weight, places: dict[str, StoredTensor]) -> None:
        self._blocks = weight.blocks
        self._parts = [Summed(name, places[name]) for name, _ in weight.hf]

    def write(self, start: int, rows: Tensor) -> None:
        for piece in pieces_of(self._blocks, start, start + len(rows)):
            first = piece.megatron - start
            self._parts[piece.part].write(piece.hf, rows[first:first + piece.rows])

    def abandon(self) -> None:
        """Nothing is held open."""

    def finish(self) -> tuple[dict[str, str], list[Segment]]:
        return {part.name: part.crc32 for part in self._parts}, [part.segment for part in self._parts]


@dataclasses.dataclass
class Summed:
    """A tensor of a file that is written row by row, in order."""

    name: str
    place: StoredTensor
    _sum: int = 0
    _next: int = 0

    def write(self, start: int, rows: Tensor) -> None:
        assert start == self._next, (self.name, start, self._next)
        self.place.write(start, rows)
        self._sum, self._next = sums.crc32(memory(rows), self._sum), start + len(rows)

    @property
    def crc32(self) -> str:
        return sums.text(self._sum)

    @property
    def segment(self) -> Segment:
        assert self._next == self.place.shape[0], self.name
        return Segment(self.place.path.name, self.place.offset, self.place.nbytes, self.crc32)
