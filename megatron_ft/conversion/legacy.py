"""Megatron's per-rank checkpoint folders, `mp_rank_TT/` or `mp_rank_TT_PPP/`, as a source of weights.

Each rank's file is one torch.save of {"args": Namespace, "checkpoint_version", "iteration", "model": names -> tensors (nested),
...optimizer and random state, which are left alone}; with pieces of pipeline stages "model0", "model1", ... Layers are counted
from 0 in every piece. Which names and rows there are is `legacy_layout`'s.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from megatron_ft.conversion.legacy_layout import TIED_COPY, Dialect, Part, canonical, is_copied, parts
from megatron_ft.conversion.streams import Shape
from megatron_ft.errors import CheckpointError
from megatron_ft.families.architecture import Architecture
from megatron_ft.runtime import torch_file
from megatron_ft.runtime.stored_tensor import Reading, StoredTensor

_RANK = re.compile(r"mp_rank_(\d{2,})(?:_(\d{3,}))?(?:_(\d{3,}))?")
_FILES = ("model_optim_rng.pt", "model_rng.pt")
_LAYER = re.compile(r"decoder\.layers\.(\d+)\.(.+)")


@dataclasses.dataclass(frozen=True)
class LegacyFolder:
    """What the files of all ranks hold, no number of it read."""

    folder: Path
    args: argparse.Namespace
    dialect: Dialect
    tp: int
    pp: int
    iteration: int
    """0 for `release`."""
    layers: int
    ranks: list[dict[str, StoredTensor]]
    """By tp rank: canonical name, layers counted over the whole model -> tensor."""


def rank_folders(folder: Path) -> list[Path]:
    """The mp_rank_* folders of an iteration's folder; empty where it is no legacy checkpoint."""
    return sorted(path for path in folder.glob("mp_rank_*") if path.is_dir())


def open_folder(folder: Path) -> LegacyFolder:
    """Open every rank's file; CheckpointError for ranks that are missing or do not fit together."""
    found: dict[tuple[int, int], Path] = {}
    for path in rank_folders(folder):
        match = _RANK.fullmatch(path.name)
        if match is None or match[3] is not None:
            raise CheckpointError(f"{path}: is no mp_rank_TT or mp_rank_TT_PPP folder (expert parallelism is not supported); "
                                  "remove what does not belong here")
        found[int(match[1]), int(match[2] or 0)] = path
    tp, pp = (1 + max(rank[axis] for rank in found) for axis in (0, 1))
    missing = [f"tp rank {t}, stage {p}" for t in range(tp) for p in range(pp) if (t, p) not in found]
    if missing:
        raise CheckpointError(f"{folder}: no folder for {', '.join(missing[:4])} of {tp} x {pp}; copy the missing ones")
    states = {rank: _state(path) for rank, path in found.items()}
    first = states[0, 0]
    args = first.get("args")
    if isinstance(args, dict):
        args = argparse.Namespace(**args)
    if not isinstance(args, argparse.Namespace):
        raise CheckpointError(f"{found[0, 0]}: holds no `args`, which say what model it is; only folders with them are read")
    pieces = {rank: _pieces(state, found[rank]) for rank, state in states.items()}
    for rank, state in states.items():
        for what, mine, others in (("iteration", first.get("iteration"), state.get("iteration")),
                                   ("number of model parts", len(pieces[0, 0]), len(pieces[rank])),
                                   ("args.num_layers", getattr(args, "num_layers", None), _argument(state, "num_layers")),
                                   ("args.hidden_size", getattr(args, "hidden_size", None), _argument(state, "hidden_size"))):
            if mine != others:
                raise CheckpointError(f"{found[rank]}: {what} is {others!r}, but {mine!r} in {found[0, 0].name}; the ranks' "
                                      "files belong to different checkpoints")
    dialect = _dialect(pieces[0, 0], args)
    version = first.get("checkpoint_version", 3.0)
    if dialect != "core" and not version >= 2.0:
        raise CheckpointError(f"{found[0, 0]}: checkpoint_version is {version}, and before 2.0 query_key_value had other "
                              "orders; load and save it once with the Megatron-LM that wrote it")
    ranks, layers = [], 0
    for t in range(tp):
        names, layers = _numbered([pieces[t, p] for p in range(pp)])
        ranks.append(names)
    iteration = first.get("iteration", 0)
    return LegacyFolder(folder, args, dialect, tp, pp, iteration if isinstance(iteration, int) else 0, layers, ranks)


def _argument(state: dict[str, Any], name: str) -> Any:
    args = state.get("args")
    return args.get(name) if isinstance(args, dict) else getattr(args, name, None)


def _state(folder: Path) -> dict[str, Any]:
    path = next((folder / name for name in _FILES if (folder / name).is_file()), None)
    if path is None:
        raise CheckpointError(f"{folder}: holds neither {' nor '.join(_FILES)}; copy it again")
    state = torch_file.load(path)
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: holds a {type(state).__name__}, expected a checkpoint's dictionary")
    return state


def _pieces(state: dict[str, Any], where: Path) -> list[dict[str, StoredTensor]]:
    """Names -> tensors of each piece of a stage, names as stored."""
    keys = sorted((key for key in state if re.fullmatch(r"model\d*", key)), key=lambda key: int(key[5:] or 0))
    if not keys:
        raise CheckpointError(f"{where}: holds no model, only {', '.join(map(str, list(state)[:6]))}")
    return [dict(_flat(state[key], "")) for key in keys]


def _flat(value: Any, prefix: str) -> Iterator[tuple[str, StoredTensor]]:
    if isinstance(value, StoredTensor):
        yield prefix.removesuffix("."), value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(item, f"{prefix}{key}.")


def _dialect(pieces: list[dict[str, StoredTensor]], args: argparse.Namespace) -> Dialect:
    names = pieces[0]
    if any(name.removeprefix("module.").startswith("decoder.layers.") for name in names):
        return "core"
    if any(".query.weight" in name for name in names):
        return "bigcode"
    if hasattr(args, "attention_head_type"):  # BigCode's multi-head attention is NVIDIA's
        return "nvidia"
    epfllm = hasattr(args, "num_attention_heads_kv") or getattr(args, "glu_activation", None) is not None
    return "megatron-llm" if epfllm else "nvidia"


def _numbered(stages: list[list[dict[str, StoredTensor]]]) -> tuple[dict[str, StoredTensor], int]:
    """Canonical names with layers counted over the whole model, and their number.

    Piece v of stage p comes before piece v of stage p + 1, and that before piece v + 1 of stage 0.
    """
    found: dict[str, StoredTensor] = {}
    first = 0
    for piece in range(len(stages[0])):
        for stage in stages:
            counted = 0
            for stored, tensor in stage[piece].items():
                name = canonical(stored)
                if name is None:
                    continue
                match = _LAYER.fullmatch(name)
                if match:
                    counted = max(counted, int(match[1]) + 1)
                    name = f"decoder.layers.{first + int(match[1])}.{match[2]}"
                found[name] = tensor
            first += counted
    return found, first


class LegacySource:
    """The weights of a legacy folder in megatron-core's layout."""

    def __init__(self, opened: LegacyFolder, architecture: Architecture) -> None:
        self._folder, self._dialect, self._tp = opened.folder, opened.dialect, opened.tp
        self._ranks, self._architecture = [dict(rank) for rank in opened.ranks], architecture
        if architecture.tied_head:
            self._drop_copies()

    def _drop_copies(self) -> None:
        """The last stage of a tied model has the word embeddings once more; CheckpointError where they differ."""
        for rank, names in enumerate(self._ranks):
            original = names.get("embedding.word_embeddings.weight")
            for copy in (TIED_COPY, "output_layer.weight"):
                other = names.pop(copy, None)
                if other is None or original is None:
                    continue
                if not torch.equal(other.read(), original.read()):
                    raise CheckpointError(f"{self._folder}: the head ({copy}) of tp rank {rank} differs from the word "
                                          "embeddings, but its args tie them; take another checkpoint")

    def _parts(self, name: str) -> list[Part]:
        shape = self.shape(name)
        columns = shape[1] if len(shape) > 1 else None
        return parts(name, shape[0], columns, self._architecture, dialect=self._dialect, tp=self._tp)

    def _stored(self, tp: int, name: str) -> StoredTensor:
        if name not in self._ranks[tp]:
            raise CheckpointError(f"{self._folder}: {name} is missing on tp rank {tp}; the checkpoint belongs to another model "
                                  "or is incomplete")
        return self._ranks[tp][name]

    def shape(self, name: str) -> Shape:
        kind = name.rpartition(".")[0].split(".")[-1]
        if kind == "linear_qkv" and name not in self._ranks[0] and name.replace("linear_qkv", "query") in self._ranks[0]:
            queries, *columns = self._stored(0, name.replace("linear_qkv", "query")).shape
            return (queries * self._tp + self._stored(0, name.replace("linear_qkv", "key_value")).shape[0], *columns)
        first, *columns = self._stored(0, name).shape
        if is_copied(name, dialect=self._dialect):
            return (first, *columns)
        if kind in ("linear_proj", "linear_fc2"):
            return (first, columns[0] * self._tp)
        return (first * self._tp, *columns)

    def layers(self, name: str) -> int | None:
        return None

    def dtype(self, name: str) -> torch.dtype:
        return self._stored(0, self._parts(name)[0].name).dtype

    def unexpected(self, names: list[str]) -> list[str]:
        known = {part.name for name in names for part in self._parts(name)}
        return sorted({name for rank in self._ranks for name in rank} - known)

    def reading(self, name: str) -> LegacyRows:
        boxes = self._parts(name)
        readings: dict[tuple[int, str], Reading] = {}
        for part in boxes:
            tensor = self._stored(part.tp, part.name)
            expected = self._expected(part, boxes, self.shape(name))
            if tensor.shape != expected or tensor.dtype != self.dtype(name):
                raise CheckpointError(f"{self._folder}: {part.name} of tp rank {part.tp} has shape {list(tensor.shape)} and "
                                      f"dtype {tensor.dtype}, expected {list(expected)} and {self.dtype(name)}; the ranks' "
                                      "files belong to different checkpoints")
            readings[part.tp, part.name] = Reading(tensor, f"{part.name} of tp rank {part.tp}")
        return LegacyRows(name, self.shape(name), self.dtype(name), boxes, readings)

    @staticmethod
    def _expected(part: Part, boxes: list[Part], shape: Shape) -> Shape:
        rows = sum(box.rows for box in boxes if (box.tp, box.name) == (part.tp, part.name))
        if part.columns is not None:
            return (rows, part.columns[1] - part.columns[0])
        return (rows, *shape[1:])


class LegacyRows:
    """Rows of a weight, put together from the ranks' boxes."""

    def __init__(self, name: str, shape: Shape, dtype: torch.dtype, boxes: list[Part],
                 readings: dict[tuple[int, str], Reading]) -> None:
        self._name, self._shape, self._dtype, self._boxes, self._readings = name, shape, dtype, boxes, readings
        self._head: tuple[Part, Tensor] | None = None

    def rows(self, start: int, stop: int) -> Tensor:
        touched = [box for box in self._boxes if box.row < stop and start < box.row + box.rows]
        joined = torch.empty(stop - start, *self._shape[1:], dtype=self._dtype)
        for box in touched:
            first, end = max(start, box.row), min(stop, box.row + box.rows)
            columns = slice(*box.columns) if box.columns is not None else slice(None)
            target = joined[first - start:end - start]
            (target[:, columns] if target.dim() > 1 else target).copy_(self._of(box, first - box.row, end - box.row))
        return joined

    def _of(self, box: Part, start: int, stop: int) -> Tensor:
        reading = self._readings[box.tp, box.name]
        if not box.interleaved:
            return reading.rows(box.stored + start, box.stored + stop)
        if self._head is None or self._head[0] != box:  # a head is read at once: its rows are not in their order
            head = reading.rows(box.stored, box.stored + box.rows)
            self._head = box, torch.cat([head[0::2], head[1::2]])
        return self._head[1][start:stop]

    def finish(self) -> dict[str, str]:
        return {f"{name} of tp rank {tp}": reading.finish() for (tp, name), reading in self._readings.items()}
