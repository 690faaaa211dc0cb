"""torch_dist checkpoint, saved at any TP x PP x DP -> Hugging Face folder; a few tensors in memory at a time."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from megatron_ft import cli, families, log
from megatron_ft.conversion.torch_dist import TorchDistReader
from megatron_ft.errors import CheckpointError
from megatron_ft.families import rules
from megatron_ft.families.architecture import Architecture
from megatron_ft.families.hf_config import CONFIG_FILE, read_config
from megatron_ft.runtime import checkpoint_layout, dtypes, hf_files, lora_layout

DEFAULT_SHARD_SIZE = "5GB"


def convert(checkpoint: str | Path, output: str | Path, *, dtype: str = dtypes.KEEP,
            max_shard_size: str = DEFAULT_SHARD_SIZE) -> Path:
    """Write the Hugging Face folder `output`: safetensors, config, generation config and tokenizer; gives the folder.

    Args:
        checkpoint: a checkpoint root (its latest checkpoint is taken) or one iteration folder.
        dtype: of the written weights: "keep", "float32", "bfloat16" or "float16".
        max_shard_size: largest safetensors file, e.g. "5GB".
    """
    output = cli.require_absent(output, option="--output")
    folder = checkpoint_layout.find(checkpoint)
    manifest = checkpoint_layout.Manifest.read(folder)
    lora_layout.require_whole(manifest, folder, option="--checkpoint")
    return write(output, TorchDistReader(folder), folder, manifest.architecture, dtype=dtype, max_shard_size=max_shard_size)


class Source(Protocol):
    """Where the weights of a model come from: what `TorchDistReader` is for a checkpoint."""

    def shape(self, name: str) -> tuple[int, ...]: ...

    def layers(self, name: str) -> int | None: ...

    def dtype(self, name: str) -> torch.dtype: ...

    def unexpected(self, names: list[str]) -> list[str]: ...

    def read(self, name: str) -> Tensor: ...


def write(output: Path, source: Source, folder: Path, architecture: Architecture, *, dtype: str, max_shard_size: str) -> Path:
    """Write the weights of `source` as Hugging Face folder `output`, with config and tokenizer of checkpoint `folder`."""
    limit = hf_files.parse_size(max_shard_size)
    config = hf_config_of(folder, architecture)
    weights = rules.weights(families.get(architecture.family).RULES, architecture)
    check_stored(source, weights, where=str(folder))
    target = dtypes.target_dtype(dtype, {weight.megatron: source.dtype(weight.megatron) for weight in weights},
                                 where=str(folder))
    files = hf_files.shards([dict(weight.hf) for weight in weights], target.itemsize, limit)
    with cli.write_beside(output) as partial:
        if (folder / checkpoint_layout.HF_FOLDER).is_dir():
            hf_files.copy_companions(folder / checkpoint_layout.HF_FOLDER, partial)
        hf_files.write_weights(partial, files, _tensors(source, weights, target), target)
        text = json.dumps(_with_dtype(config, dtypes.NAMES[target]), indent=2, sort_keys=True)
        (partial / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")
    log.get().info("%s: %s parameters in %s, %d file%s, from %s", output, f"{architecture.parameters:,}",
                   dtypes.NAMES[target], len(files), "s" * (len(files) > 1), folder)
    return output


def hf_config_of(folder: Path, architecture: Architecture) -> dict[str, Any]:
    """The config.json of a checkpoint's model: the source's own where the checkpoint carries it, else a new one.

    CheckpointError when the carried one describes another model than the manifest does.
    """
    kept = folder / checkpoint_layout.HF_FOLDER
    if not (kept / CONFIG_FILE).is_file():
        log.get().warning("%s holds no config.json: writing one without tokenizer or generation settings", kept)
        return families.get(architecture.family).hf_config(architecture)
    config = read_config(kept)
    described = families.from_hf_config(config, where=str(kept / CONFIG_FILE))
    require_same_architecture(described, architecture, where=str(kept / CONFIG_FILE),
                              other=str(folder / checkpoint_layout.MANIFEST_FILE))
    return config


def require_same_architecture(found: Architecture, expected: Architecture, *, where: str, other: str) -> None:
    """CheckpointError naming the first field in which two descriptions of one model differ, with both values."""
    for field in dataclasses.fields(Architecture):
        theirs, ours = getattr(found, field.name), getattr(expected, field.name)
        if theirs != ours:
            raise CheckpointError(f"{where}: {field.name} is {theirs!r}, but {ours!r} in {other}; "
                                  "the two belong to different models")


def check_stored(reader: Source, weights: list[rules.Weight], *, where: str) -> None:
    """Refuse a checkpoint whose model tensors are not exactly the architecture's."""
    layers = weights[0].architecture.layers
    for weight in weights:
        rules.check_megatron_shape(weight, reader.shape(weight.megatron), where=where)
        stacked = reader.layers(weight.megatron)
        if stacked not in (None, layers):
            raise CheckpointError(f"{where}: {weight.megatron} is stored for {stacked} layers, but the manifest says "
                                  f"{layers}; the files belong to different checkpoints")
    unexpected = reader.unexpected([weight.megatron for weight in weights])
    if unexpected:
        raise CheckpointError(f"{where}: holds {', '.join(unexpected[:4])}, unknown to family "
                              f"{weights[0].architecture.family}; exporting would lose it, so nothing is exported")


def _tensors(reader: Source, weights: list[rules.Weight], dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    total = sum(weight.architecture.parameters for weight in weights[:1]) * dtype.itemsize
    with log.progress(total=total, unit="B", label="megatron -> hf", scale=True) as bar:
        for weight in weights:
            tensors = rules.to_hf(weight, reader.read(weight.megatron))
            for (name, _), tensor in zip(weight.hf, tensors, strict=True):
                bar.update(tensor.numel() * dtype.itemsize)
                yield name, tensor.to(dtype)


def _with_dtype(config: dict[str, Any], name: str) -> dict[str, Any]:
    """The config, saying in which dtype the weights are, under the key that it used before."""
    key = "dtype" if "dtype" in config else "torch_dtype"
    return {**config, key: name}
