"""Writes a model as Megatron's per-rank folders, for the fork that somebody works with; one weight in memory at a time."""

from __future__ import annotations

import argparse
import contextlib
import enum
import math
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from megatron_ft import cli, log
from megatron_ft.conversion import opening, streams
from megatron_ft.conversion.legacy_layout import DIALECTS, Dialect, Part, is_copied, parts, stored_name
from megatron_ft.conversion.opening import Hints, Opened
from megatron_ft.errors import ConfigError
from megatron_ft.families.architecture import Architecture
from megatron_ft.families.rules import Weight
from megatron_ft.runtime import checkpoint_files, dtypes, torch_archive
from megatron_ft.runtime.checkpoint_layout import LATEST_FILE, RELEASE, folder_name
from megatron_ft.runtime.stored_tensor import memory

_FILE = "model_optim_rng.pt"


def convert(checkpoint: str | Path, output: str | Path, *, dialect: Dialect, tp: int, pp: int,
            hints: Hints = Hints(), dtype: str = dtypes.KEEP, multiple: int = 128) -> Path:  # noqa: B008 - frozen
    """Write checkpoint root `output` with the one checkpoint `release`, weights only; gives the root.

    Args:
        dialect: whose Megatron is to read it.
        multiple: the vocabulary is padded to a multiple of it times tp (--make-vocab-size-divisible-by).
    ConfigError for a model that the dialect does not have, or that tp and pp do not divide.
    """
    output = cli.require_absent(output, option="--output")
    opened = opening.open_checkpoint(checkpoint, hints)
    weights = opening.weights_of(opened.architecture)
    _require_expressible(opened.architecture, dialect, tp, pp)
    streams.check_stored(opened.source, weights, where=str(opened.folder))
    target = streams.target_dtype(dtype, opened.source, weights, where=str(opened.folder))
    needed, free = streams.total_bytes(weights, target), checkpoint_files.free_bytes(output.parent)
    if free < needed:
        raise ConfigError(f"--output: {output} takes {checkpoint_files.readable(needed)}, but {output.parent} has only "
                          f"{checkpoint_files.readable(free)} free; make room or name another place")
    with (cli.write_beside(output) as root, _enums(dialect) as words,
          log.progress(total=needed * tp, unit="B", label="megatron -> legacy", scale=True) as bar):
        args = _arguments(opened.architecture, dialect, tp, pp, multiple, target, words)
        for t in range(tp):
            for p in range(pp):
                rank = root / folder_name(RELEASE) / (f"mp_rank_{t:02d}" if pp == 1 else f"mp_rank_{t:02d}_{p:03d}")
                rank.mkdir(parents=True)
                of_rank = _Rank(opened, weights, dialect, t, tp, p, pp, args.padded_vocab_size, target)
                of_rank.write(rank / _FILE, args, bar)
        (root / LATEST_FILE).write_text(f"{RELEASE}\n", encoding="utf-8")
        for path in root.rglob(_FILE):
            checkpoint_files.sync_file(path)
    log.get().info("%s: %s parameters in %s for %s at tp %d x pp %d", output, f"{opened.architecture.parameters:,}",
                   dtypes.NAMES[target], dialect, tp, pp)
    return output


def _require_expressible(a: Architecture, dialect: Dialect, tp: int, pp: int) -> None:
    if dialect not in DIALECTS:
        raise ConfigError(f"--layout: {dialect!r} is unknown; use one of {', '.join(DIALECTS)}")
    reasons = {"bigcode": None if a.position_embedding == "learned" else "it has learned positions only",
               "megatron-llm": None if a.gated and a.norm == "rmsnorm" and not (a.linear_bias or a.qkv_bias)
               else "its LLaMA has RMSNorm, SwiGLU and no biases", "nvidia": None, "core": None}
    if reasons[dialect]:
        raise ConfigError(f"--layout {dialect}: {reasons[dialect]}, and this model is a {a.family}")
    if tp < 1 or pp < 1 or a.layers % pp:
        raise ConfigError(f"--pp: {pp} does not divide the {a.layers} layers")
    qkv = (a.heads + 2 * a.groups) * a.head_width  # rows that megatron-core cuts anywhere, and gathers where groups are few
    groups = {"core": qkv if tp % a.groups == 0 else a.groups, "bigcode": tp if a.groups == 1 else a.groups}
    for words, size in (("attention heads", a.heads), ("query groups", groups.get(dialect, a.groups)),
                        ("rows of the MLP", a.ffn)):
        if size % tp:
            raise ConfigError(f"--tp: {tp} does not divide the {size} {words}")


class _Rank:
    """One rank's file."""

    def __init__(self, opened: Opened, weights: list[Weight], dialect: Dialect, t: int, tp: int, p: int, pp: int, padded: int,
                 dtype: torch.dtype) -> None:
        self._opened, self._dialect, self._t, self._tp, self._padded, self._dtype = opened, dialect, t, tp, padded, dtype
        a = opened.architecture
        each = a.layers // pp
        self._first, self._last = p == 0, p == pp - 1
        self._stored: dict[str, tuple[Weight, list[Part]]] = {}
        """Name in this rank's model, canonical -> the weight and its boxes here."""
        for weight in weights:
            if weight.layer is not None and weight.layer // each == p:
                self._add(weight, weight.layer % each)
            elif weight.layer is None and self._is_here(weight.megatron):
                self._add(weight, None)
        if a.tied_head and self._last and not self._first:
            self._copy = next(weight for weight in weights if weight.megatron == opening.EMBEDDING)
        else:
            self._copy = None

    def _is_here(self, name: str) -> bool:
        return self._first if name.startswith("embedding.") else self._last

    def _add(self, weight: Weight, layer: int | None) -> None:
        for part in self._parts(weight):
            if part.tp == self._t or is_copied(part.name, dialect=self._dialect):
                name = part.name
                if layer is not None:
                    name = name.replace(f"decoder.layers.{weight.layer}.", f"decoder.layers.{layer}.")
                self._stored.setdefault(name, (weight, []))[1].append(part)

    def _parts(self, weight: Weight) -> list[Part]:
        rows, *columns = self._padded_shape(weight)
        return parts(weight.megatron, rows, columns[0] if columns else None, self._opened.architecture, dialect=self._dialect,
                     tp=self._tp)

    def _padded_shape(self, weight: Weight) -> tuple[int, ...]:
        return (self._padded, *weight.megatron_shape[1:]) if weight.padded else weight.megatron_shape

    def write(self, path: Path, args: argparse.Namespace, bar: Any) -> None:
        """Write the file, one weight after the other."""
        coming = {name: self._coming(weight, boxes) for name, (weight, boxes) in self._stored.items()}
        model = _model(coming, self._dialect, self._opened.architecture)
        if self._copy is not None:
            copied = self._coming(self._copy, [part for part in self._parts(self._copy) if part.tp == self._t])
            if self._dialect == "core":
                model["output_layer.weight"] = copied
            else:
                model["word_embeddings_for_head"] = {"weight": copied}
        sources = {id(tensor): self._stored[name] for name, tensor in coming.items()}
        if self._copy is not None:
            sources[id(copied)] = self._copy, [part for part in self._parts(self._copy) if part.tp == self._t]
        state = {"args": args, "checkpoint_version": 3.0, "iteration": 0, "model": model}
        with torch_archive.save(path, state) as tensors:
            for tensor, stream in tensors:
                content = self._cut(*sources[id(tensor)])
                assert tuple(content.shape) == tensor.shape, (path, tensor, content.shape)
                stream.write(memory(content))
                bar.update(content.nbytes)

    def _coming(self, weight: Weight, boxes: list[Part]) -> torch_archive.Coming:
        rows, columns = sum(part.rows for part in boxes), boxes[0].columns
        width = (columns[1] - columns[0],) if columns else weight.megatron_shape[1:]
        return torch_archive.Coming(self._dtype, (rows, *width))

    def _cut(self, weight: Weight, boxes: list[Part]) -> Tensor:
        stored = streams.whole(self._opened.source, weight.megatron, self._opened.tensor_crc32)
        whole = streams.cast(stored[:weight.megatron_shape[0]], self._dtype, weight.megatron)
        missing = self._padded_shape(weight)[0] - whole.shape[0]
        if missing:
            whole = torch.cat([whole, whole.new_zeros(missing, *whole.shape[1:])])
        pieces = []
        for part in sorted(boxes, key=lambda part: part.stored):
            rows = whole[part.row:part.row + part.rows]
            if part.interleaved:
                half = part.rows // 2
                rows = torch.stack([rows[:half], rows[half:]], dim=1).flatten(0, 1)
            pieces.append(rows if part.columns is None else rows[:, slice(*part.columns)])
        return torch.cat(pieces)


def _model(coming: dict[str, torch_archive.Coming], dialect: Dialect, a: Architecture) -> dict[str, Any]:
    """The nested names that each fork gives its tensors."""
    if dialect == "core":
        return dict(coming)
    language: dict[str, Any] = {}
    for name, tensor in coming.items():
        *folders, last = stored_name(name, dialect, gated=a.gated)
        place = language
        for folder in folders:
            place = place.setdefault(folder, {})
        place[last] = tensor
    return {"language_model": language}


@contextlib.contextmanager
def _enums(dialect: Dialect) -> Iterator[Any]:
    """The enum by which BigCode's and epfLLM's forks name positions, in a module named as theirs while files are written."""
    if dialect not in ("bigcode", "megatron-llm"):
        yield None
        return
    module = types.ModuleType("megatron.model.enums")
    module.PositionEmbeddingType = enum.Enum("PositionEmbeddingType", {"rotary": 1, "absolute": 2}, module=module.__name__)
    before = sys.modules.get(module.__name__)
    sys.modules[module.__name__] = module
    try:
        yield module.PositionEmbeddingType
    finally:
        if before is None:
            del sys.modules[module.__name__]
        else:
            sys.modules[module.__name__] = before


def _arguments(a: Architecture, dialect: Dialect, tp: int, pp: int, multiple: int, dtype: torch.dtype,
               words: Any) -> argparse.Namespace:
    """What the fork looks up when it loads; `megatron_args` reads the same back."""
    padded = math.ceil(a.vocabulary / (multiple * tp)) * multiple * tp
    found: dict[str, Any] = {
        "num_layers": a.layers, "hidden_size": a.hidden, "num_attention_heads": a.heads, "kv_channels": a.head_width,
        "ffn_hidden_size": a.ffn, "max_position_embeddings": a.positions, "seq_length": a.positions,
        "hidden_dropout": a.hidden_dropout, "attention_dropout": a.attention_dropout, "init_method_std": a.initializer_range,
        "layernorm_epsilon": a.norm_epsilon, "norm_epsilon": a.norm_epsilon, "vocab_size": a.vocabulary,
        "padded_vocab_size": padded, "make_vocab_size_divisible_by": multiple, "tensor_model_parallel_size": tp,
        "pipeline_model_parallel_size": pp, "params_dtype": dtype, "bias_gelu_fusion": a.activation == "gelu_tanh"}
    learned = a.position_embedding == "learned"
    theta = a.rope.get("theta", 10000.0)
    if dialect == "megatron-llm":
        found |= {"num_attention_heads_kv": a.groups, "glu_activation": "swiglu", "use_rms_norm": True, "use_bias": False,
                  "tie_embed_logits": a.tied_head, "parallel_attn": False, "rope_theta": theta,
                  "rope_scaling_factor": a.rope.get("factor", 1.0), "position_embedding_type": words.rotary}
        if a.window is not None:
            found["sliding_window_size"] = a.window
        return argparse.Namespace(**found)
    if dialect == "bigcode":
        found |= {"attention_head_type": "multiquery" if a.groups == 1 else "multihead",
                  "position_embedding_type": words.absolute}
        return argparse.Namespace(**found)
    found |= {"group_query_attention": a.groups != a.heads, "num_query_groups": a.groups, "swiglu": a.gated,
              "normalization": "RMSNorm" if a.norm == "rmsnorm" else "LayerNorm", "add_bias_linear": a.linear_bias,
              "add_qkv_bias": a.qkv_bias, "untie_embeddings_and_output_weights": not a.tied_head, "rotary_percent": 1.0,
              "position_embedding_type": "learned_absolute" if learned else "rope", "rotary_base": theta}
    if a.rope.get("type") == "llama3":
        found |= {"use_rope_scaling": True, "rope_scaling_factor": a.rope["factor"]}
    elif a.rope.get("type") == "linear":
        found["rotary_seq_len_interpolation_factor"] = a.rope["factor"]
    if a.window is not None:
        found["window_size"] = (a.window - 1, 0)
    return argparse.Namespace(**found)
