"""Hugging Face folder -> torch_dist checkpoint that loads at any TP x PP; one tensor in memory at a time."""

from __future__ import annotations

import hashlib
import math
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from megatron_ft import cli, families, log
from megatron_ft.conversion.torch_dist import TorchDistWriter
from megatron_ft.families import rules
from megatron_ft.families.hf_config import CONFIG_FILE
from megatron_ft.runtime import checkpoint_layout, dtypes, hf_files

_COMMON = {"checkpoint_version": 3.0, "iteration": 0}
"""What Megatron-LM's loader looks for in common.pt."""


def convert(hf: str | Path, output: str | Path, *, dtype: str = dtypes.KEEP) -> Path:
    """Write checkpoint root `output` with the one checkpoint `release`; gives the root.

    The vocabulary is stored as it is, without padding: megatron-core fills up the rows that a layout adds with zeros.

    Args:
        hf: folder with config.json and weights (safetensors or .bin, single or sharded).
        dtype: of the stored weights: "keep", "float32", "bfloat16" or "float16".
    CheckpointError for weights that are not exactly the config's model, ConfigError for a config that is not
    understood to the last key or an output that exists.
    """
    output = cli.require_absent(output, option="--output")
    architecture = families.architecture_of_folder(hf)
    for note in families.notes(architecture):
        log.get().warning("%s: %s", Path(hf) / CONFIG_FILE, note)
    table = families.get(architecture.family).RULES
    source = hf_files.open_weights(hf)
    rules.check_hf_tensors(table, architecture, source.shapes, where=str(hf))
    hf_files.check_copies(source, table, architecture, where=str(hf))
    weights = rules.weights(table, architecture)
    read = {name: source.dtypes[name] for weight in weights for name, _ in weight.hf}
    target = dtypes.target_dtype(dtype, read, where=str(hf))
    with cli.write_beside(output) as root:
        release = root / checkpoint_layout.folder_name(checkpoint_layout.RELEASE)
        release.mkdir()
        checksums = _write(weights, source, target, release)
        hf_files.copy_companions(hf, release / checkpoint_layout.HF_FOLDER)
        checkpoint_layout.Manifest(
            architecture=architecture, stored_vocabulary=architecture.vocabulary, dtype=dtypes.NAMES[target],
            source=_fingerprint(Path(hf), source, checksums)).write(release)
        checkpoint_layout.set_latest(root, checkpoint_layout.RELEASE)
    log.get().info("%s: %s with %s parameters in %s, for any TP x PP", output, architecture.family,
                   f"{architecture.parameters:,}", dtypes.NAMES[target])
    return output


def _write(weights: list[rules.Weight], source: hf_files.Weights, dtype: torch.dtype, folder: Path) -> dict[str, str]:
    """Stream every weight into `folder`; gives the CRC-32 of each source tensor."""
    total = sum(math.prod(shape) * source.dtypes[name].itemsize for weight in weights for name, shape in weight.hf)
    checksums: dict[str, str] = {}
    with (log.progress(total=total, unit="B", label="hf -> megatron", scale=True) as bar,
          TorchDistWriter(folder, layers=weights[0].architecture.layers, common=_COMMON) as writer):
        for weight in weights:
            tensors = [source.read(name) for name, _ in weight.hf]
            checksums.update({name: checksum(tensor) for (name, _), tensor in zip(weight.hf, tensors, strict=True)})
            writer.write(weight.megatron, rules.to_megatron(weight, tensors).to(dtype))
            bar.update(sum(tensor.nbytes for tensor in tensors))
    return checksums


def checksum(tensor: Tensor) -> str:
    """CRC-32 of a tensor's bytes as they lie in a safetensors file, 8 hexadecimal digits."""
    return f"{zlib.crc32(memoryview(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())):08x}"


def _fingerprint(folder: Path, source: hf_files.Weights, checksums: dict[str, str]) -> dict[str, Any]:
    """What `Manifest.source` says about converted weights."""
    config = hashlib.sha256((folder / CONFIG_FILE).read_bytes()).hexdigest()
    return {"format": "huggingface", "folder": str(folder.resolve()), "config_sha256": config,
            "file_bytes": {path.name: path.stat().st_size for path in source.files}, "tensor_crc32": checksums}
