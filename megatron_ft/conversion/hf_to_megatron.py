"""Hugging Face folder -> torch_dist checkpoint that loads at any TP x PP; a few pieces of tensors in memory at a time."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from megatron_ft import cli, families, log
from megatron_ft.conversion import partial, streams
from megatron_ft.conversion.hf_folder import HfSource
from megatron_ft.conversion.torch_dist import TorchDistSink
from megatron_ft.families import rules
from megatron_ft.families.hf_config import CONFIG_FILE
from megatron_ft.runtime import checkpoint_files, checkpoint_layout, dtypes, hf_files

COMMON = {"checkpoint_version": 3.0, "iteration": 0}
"""What Megatron-LM's loader looks for in common.pt."""


def convert(hf: str | Path, output: str | Path, *, dtype: str = dtypes.KEEP, workers: int | None = None) -> Path:
    """Write checkpoint root `output` with the one checkpoint `release`; gives the root.

    The vocabulary is stored as it is, without padding: megatron-core fills up the rows that a layout adds with zeros.
    Stopped before its end, the same call goes on where it was.

    Args:
        hf: folder with config.json and weights (safetensors or .bin, single or sharded).
        dtype: of the stored weights: "keep", "float32", "bfloat16" or "float16".
        workers: how many tensors at a time; None: one for each core, eight at most.
    CheckpointError for weights that are not exactly the config's model, or hold NaN or infinity; ConfigError for a config
    that is not understood to the last key, an output that exists, or too little room.
    """
    output = cli.require_absent(output, option="--output")
    architecture = families.architecture_of_folder(hf)
    for note in families.notes(architecture):
        log.get().warning("%s: %s", Path(hf) / CONFIG_FILE, note)
    source = HfSource(hf, architecture)
    weights = rules.weights(families.get(architecture.family).RULES, architecture)
    target = dtypes.target_dtype(dtype, source.dtypes, where=str(hf))
    purpose = {"of": fingerprint(Path(hf), source.files), "dtype": dtypes.NAMES[target],
               "changed": [partial.file_stamp(path) for path in source.files.files]}
    needed = streams.total_bytes(weights, target)
    with partial.folder(output, purpose=purpose, needed_bytes=needed) as (root, journal):
        release = root / checkpoint_layout.folder_name(checkpoint_layout.RELEASE)
        release.mkdir(exist_ok=True)
        shapes = {weight.megatron: weight.megatron_shape for weight in weights}
        sink = TorchDistSink(release, shapes, target, layers=architecture.layers, common=COMMON)
        moved = streams.move(weights, source, sink, dtype=target, journal=journal, label="hf -> megatron", workers=workers)
        moved.segments.append(sink.close())
        hf_files.copy_companions(hf, release / checkpoint_layout.HF_FOLDER)
        checkpoint_layout.Manifest(
            architecture=architecture, stored_vocabulary=architecture.vocabulary, dtype=dtypes.NAMES[target],
            source={**fingerprint(Path(hf), source.files), "tensor_crc32": moved.read}, tensor_crc32=moved.written,
            files=checkpoint_files.records(release, known=moved.records(sink.heads))).write(release)
        checkpoint_layout.set_latest(root, checkpoint_layout.RELEASE)
    log.get().info("%s: %s with %s parameters in %s, for any TP x PP", output, architecture.family,
                   f"{architecture.parameters:,}", dtypes.NAMES[target])
    return output


def fingerprint(folder: Path, source: hf_files.Weights) -> dict[str, Any]:
    """What `Manifest.source` says about converted weights."""
    config = hashlib.sha256((folder / CONFIG_FILE).read_bytes()).hexdigest()
    return {"format": "huggingface", "folder": str(folder.resolve()), "config_sha256": config,
            "file_bytes": {path.name: path.stat().st_size for path in source.files}}
