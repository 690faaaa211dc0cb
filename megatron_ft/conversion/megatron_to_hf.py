"""Megatron checkpoint, saved at any TP x PP x DP -> Hugging Face folder; a few pieces of tensors in memory at a time."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from megatron_ft import cli, families, log
from megatron_ft.conversion import hf_manifest, model_card, opening, partial, streams
from megatron_ft.conversion.hf_folder import HfSink
from megatron_ft.conversion.opening import Hints, Opened
from megatron_ft.errors import CheckpointError
from megatron_ft.families.architecture import Architecture
from megatron_ft.families.hf_config import CONFIG_FILE, read_config
from megatron_ft.runtime import checkpoint_layout, dtypes, hf_files

DEFAULT_SHARD_SIZE = "5GB"


@dataclasses.dataclass(frozen=True)
class Options:
    """How a Hugging Face folder is written."""

    dtype: str = dtypes.KEEP
    """Of the weights: "keep", "float32", "bfloat16" or "float16"."""
    max_shard_size: str = DEFAULT_SHARD_SIZE
    """Largest safetensors file, e.g. "5GB"."""
    workers: int | None = None
    """How many tensors at a time; None: one for each core, eight at most."""
    evaluations: tuple[Path, ...] = ()
    """Folders that the evaluator has written, whose scores go into the model card."""


def convert(checkpoint: str | Path, output: str | Path, options: Options = Options(), *,  # noqa: B008 - frozen
            hints: Hints = Hints()) -> Path:  # noqa: B008 - frozen
    """Write the Hugging Face folder `output`: safetensors, config, generation config, tokenizer, model card; gives the folder.

    Stopped before its end, the same call goes on where it was.

    Args:
        checkpoint: a checkpoint root (its latest checkpoint is taken) or one iteration folder, whoever wrote it.
        hints: what a checkpoint of somebody else's does not say about itself.
    """
    output = cli.require_absent(output, option="--output")
    return write(output, opening.open_checkpoint(checkpoint, hints), options)


def write(output: Path, opened: Opened, options: Options, *, merged_with: str | None = None) -> Path:
    """Write an opened checkpoint's weights as Hugging Face folder `output`.

    Args:
        merged_with: what decides the weights beside the checkpoint, for going on with an interrupted conversion.
    """
    limit, folder = hf_files.parse_size(options.max_shard_size), opened.folder
    config = hf_config_of(opened)
    weights = opening.weights_of(opened.architecture)
    streams.check_stored(opened.source, weights, where=str(folder))
    target = streams.target_dtype(options.dtype, opened.source, weights, where=str(folder))
    card = model_card.text(opened, evaluations=options.evaluations)
    streams.check_workers(options.workers)
    purpose = {**partial.stamps(folder), **partial.model(opened.architecture, opened.companions),
               "dtype": dtypes.NAMES[target], "largest": limit, "with": merged_with}
    with partial.folder(output, purpose=purpose, needed_bytes=streams.total_bytes(weights, target)) as (beside, journal):
        sink = HfSink(beside, weights, target, limit)
        moved = streams.move(weights, opened.source, sink, dtype=target, journal=journal, label="megatron -> hf",
                             expected=opened.tensor_crc32, workers=options.workers)
        sink.close()
        if opened.companions is not None:
            hf_files.copy_companions(opened.companions, beside)
        text = json.dumps(_with_dtype(config, dtypes.NAMES[target]), indent=2, sort_keys=True)
        (beside / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")
        hf_manifest.write(beside, opened, moved, card=card, known=moved.records(sink.heads))
    log.get().info("%s: %s parameters in %s, %d file%s, from %s", output, f"{opened.architecture.parameters:,}",
                   dtypes.NAMES[target], len(sink.heads), "s" * (len(sink.heads) > 1), folder)
    return output


def hf_config_of(opened: Opened) -> dict[str, Any]:
    """The config.json of a checkpoint's model: its source's own where the checkpoint carries it, else a new one.

    CheckpointError when the carried one describes another model than the checkpoint is.
    """
    kept = opened.companions
    if kept is None or not (kept / CONFIG_FILE).is_file():
        log.get().warning("%s comes with no config.json: writing one without tokenizer or generation settings", opened.folder)
        return families.get(opened.architecture.family).hf_config(opened.architecture)
    config = read_config(kept)
    described = families.from_hf_config(config, where=str(kept / CONFIG_FILE))
    require_same_architecture(described, opened.architecture, where=str(kept / CONFIG_FILE),
                              other=str(opened.folder / checkpoint_layout.MANIFEST_FILE))
    return config


def require_same_architecture(found: Architecture, expected: Architecture, *, where: str, other: str) -> None:
    """CheckpointError naming the first field in which two descriptions of one model differ, with both values."""
    for field in dataclasses.fields(Architecture):
        theirs, ours = getattr(found, field.name), getattr(expected, field.name)
        if theirs != ours:
            raise CheckpointError(f"{where}: {field.name} is {theirs!r}, but {ours!r} in {other}; "
                                  "the two belong to different models")


def _with_dtype(config: dict[str, Any], name: str) -> dict[str, Any]:
    """The config, saying in which dtype the weights are, under the key that it used before."""
    key = "dtype" if "dtype" in config else "torch_dtype"
    return {**config, key: name}
