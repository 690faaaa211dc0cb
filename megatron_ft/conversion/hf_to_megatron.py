"""Hugging Face folder -> torch_dist checkpoint that loads at any TP x PP."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from megatron_ft import cli, families, log
from megatron_ft.conversion import hf_manifest, partial, to_torch_dist
from megatron_ft.conversion.hf_folder import HfSource
from megatron_ft.families.hf_config import CONFIG_FILE
from megatron_ft.runtime import checkpoint_files, dtypes, hf_files


def convert(hf: str | Path, output: str | Path, *, dtype: str = dtypes.KEEP, workers: int | None = None) -> Path:
    """Write checkpoint root `output` with the one checkpoint `release`; gives the root.

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
    target = dtypes.target_dtype(dtype, source.dtypes, where=str(hf))
    origin = fingerprint(Path(hf), source.files)
    noted = hf_manifest.read(hf)
    if noted is not None and checkpoint_files.damage(Path(hf), {CONFIG_FILE: noted.files[CONFIG_FILE]}):
        log.get().warning("%s has been changed since the conversion that wrote it", Path(hf) / CONFIG_FILE)
    return to_torch_dist.write(output, source, architecture, target, origin=origin, companions=Path(hf),
                               purpose=partial.stamps(Path(hf)), expected=noted.tensor_crc32 if noted is not None else {},
                               label="hf -> megatron", workers=workers)


def fingerprint(folder: Path, source: hf_files.Weights) -> dict[str, Any]:
    """What `Manifest.source` says about converted weights."""
    config = hashlib.sha256((folder / CONFIG_FILE).read_bytes()).hexdigest()
    return {"format": "huggingface", "folder": str(folder.resolve()), "config_sha256": config,
            "file_bytes": {path.name: path.stat().st_size for path in source.files}}
