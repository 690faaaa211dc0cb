"""Writes any source of weights as a torch_dist checkpoint that loads at any TP x PP; a few pieces in memory at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from megatron_ft import cli, log
from megatron_ft.conversion import opening, partial, streams
from megatron_ft.conversion.opening import Hints
from megatron_ft.conversion.streams import Source
from megatron_ft.conversion.torch_dist import TorchDistSink
from megatron_ft.families.architecture import Architecture
from megatron_ft.runtime import checkpoint_files, checkpoint_layout, dtypes, hf_files

COMMON = {"checkpoint_version": 3.0, "iteration": 0}
"""What Megatron-LM's loader looks for in common.pt."""


def convert(checkpoint: str | Path, output: str | Path, *, hints: Hints = Hints(), dtype: str = dtypes.KEEP,  # noqa: B008 - frozen
            workers: int | None = None) -> Path:
    """Write checkpoint root `output` from any Megatron checkpoint, optimizer state left out; gives the root.

    Args:
        checkpoint: a checkpoint root (its latest checkpoint is taken) or one iteration folder: legacy, or torch_dist.
    """
    output = cli.require_absent(output, option="--output")
    opened = opening.open_checkpoint(checkpoint, hints)
    weights = opening.weights_of(opened.architecture)
    streams.check_stored(opened.source, weights, where=str(opened.folder))
    target = streams.target_dtype(dtype, opened.source, weights, where=str(opened.folder))
    return write(output, opened.source, opened.architecture, target, origin=opened.origin, companions=opened.companions,
                 purpose=partial.stamps(opened.folder), expected=opened.tensor_crc32, label="megatron -> megatron",
                 workers=workers)


def write(output: Path, source: Source, architecture: Architecture, dtype: torch.dtype, *, origin: dict[str, Any],
          companions: Path | None, purpose: dict[str, Any], expected: dict[str, str], label: str, workers: int | None) -> Path:
    """Write checkpoint root `output` with the one checkpoint `release`; gives the root.

    The vocabulary is stored as it is, without padding: megatron-core fills up the rows that a layout adds with zeros.
    Stopped before its end, the same call goes on where it was.

    Args:
        origin: `Manifest.source`, but for the sums of what is read.
        companions: folder with config.json and tokenizer files.
        purpose: what decides the content beside the dtype.
        expected: CRC-32 of tensors of the source, as far as they are known.
    """
    weights = opening.weights_of(architecture)
    streams.check_workers(workers)
    purpose = {**purpose, **partial.model(architecture, companions), "dtype": dtypes.NAMES[dtype]}
    with partial.folder(output, purpose=purpose, needed_bytes=streams.total_bytes(weights, dtype)) as (root, journal):
        release = root / checkpoint_layout.folder_name(checkpoint_layout.RELEASE)
        release.mkdir(exist_ok=True)
        shapes = {weight.megatron: weight.megatron_shape for weight in weights}
        sink = TorchDistSink(release, shapes, dtype, layers=architecture.layers, common=COMMON)
        moved = streams.move(weights, source, sink, dtype=dtype, journal=journal, label=label, expected=expected,
                             workers=workers)
        moved.segments.append(sink.close())
        if companions is not None:
            hf_files.copy_companions(companions, release / checkpoint_layout.HF_FOLDER)
        checkpoint_layout.Manifest(
            architecture=architecture, stored_vocabulary=architecture.vocabulary, dtype=dtypes.NAMES[dtype],
            source={**origin, "tensor_crc32": moved.read}, tensor_crc32=moved.written,
            files=checkpoint_files.records(release, known=moved.records(sink.heads))).write(release)
        checkpoint_layout.set_latest(root, checkpoint_layout.RELEASE)
    log.get().info("%s: %s with %s parameters in %s, for any TP x PP", output, architecture.family,
                   f"{architecture.parameters:,}", dtypes.NAMES[dtype])
    return output
