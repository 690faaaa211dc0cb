"""What a converted Hugging Face folder says about itself: conversion.json for programs, README.md (a model card) for people."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megatron_ft import cli
from megatron_ft.conversion import model_card, partial
from megatron_ft.conversion.opening import Opened
from megatron_ft.conversion.streams import Sums
from megatron_ft.errors import CheckpointError
from megatron_ft.runtime import checkpoint_files, checkpoint_layout
from megatron_ft.runtime.checkpoint_files import Record

FILE = "conversion.json"
_VERSION = 1


@dataclasses.dataclass(frozen=True)
class HfManifest:
    """What a folder was made of and what each of its tensors and files must be."""

    checkpoint: str
    iteration: int
    source: dict[str, Any]
    """The checkpoint's own `Manifest.source`."""
    tensor_crc32: dict[str, str]
    """CRC-32 of each tensor's bytes, by its name in the folder, 8 hexadecimal digits."""
    files: dict[str, Record]
    """Every other file of the folder but the model card."""
    versions: dict[str, str] = dataclasses.field(default_factory=lambda: checkpoint_layout.package_versions())
    version: int = _VERSION


def write(folder: Path, opened: Opened, moved: Sums, *, card: str, known: Mapping[str, Record]) -> None:
    """Write both into a folder that has everything else.

    Args:
        opened: the checkpoint that the weights came from.
        card: the model card.
        known: what the weight files are.
    """
    files = checkpoint_files.records(folder, known=known)
    files.pop(partial.JOURNAL_FILE, None)  # it is gone when the folder is whole
    (folder / model_card.FILE).write_text(card, encoding="utf-8")  # for people to change, and so without a sum
    manifest = HfManifest(checkpoint=str(opened.folder.resolve()), iteration=opened.iteration, source=opened.origin,
                          tensor_crc32=moved.written, files=files)
    cli.write_text_atomically(folder / FILE, json.dumps(dataclasses.asdict(manifest), indent=1) + "\n")


def read(folder: str | Path) -> HfManifest | None:
    """The manifest of a folder; None where there is none. CheckpointError when it cannot be read."""
    path = Path(folder) / FILE
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["version"] != _VERSION:
            raise CheckpointError(f"{path}: version is {content['version']}, this program reads {_VERSION}; use the "
                                  "megatron_ft version that wrote it")
        content["files"] = {name: Record(**about) for name, about in content["files"].items()}
        return HfManifest(**content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: is not what a conversion writes ({type(error).__name__}: {error}); "
                              "convert again") from error
