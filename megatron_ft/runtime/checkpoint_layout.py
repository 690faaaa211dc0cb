"""Where a checkpoint lies and what it says about itself. Torch-free; training and conversion both write and read by it.

    ROOT/latest_checkpointed_iteration.txt      "release" (converted weights) or the number of the last iteration
    ROOT/release/  or  ROOT/iter_0000250/       one checkpoint:
        .metadata  *.distcp  common.pt          megatron-core's torch_dist files
        metadata.json                           written last by megatron-core: its presence says "complete"
        megatron_ft.json                        the Manifest below, with the size and the sum of every other file
        hf/                                     config.json, generation_config.json, tokenizer files of the source
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from megatron_ft import cli
from megatron_ft.errors import CheckpointError
from megatron_ft.families.architecture import Architecture
from megatron_ft.runtime.checkpoint_files import Record

FORMAT_VERSION = 3
_READABLE_VERSIONS = (1, 2, 3)  # 2 has no `tensor_crc32`, 1 has no `files`, `progress`, `layout` and `optimizer_state`
RELEASE = "release"
LATEST_FILE = "latest_checkpointed_iteration.txt"
MANIFEST_FILE = "megatron_ft.json"
COMPLETE_FILE = "metadata.json"
HF_FOLDER = "hf"
_TORCH_DIST_FILES = (COMPLETE_FILE, ".metadata", "common.pt")
_VERSIONED_PACKAGES = ("megatron_ft", "torch", "megatron-core", "transformers", "safetensors")


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a checkpoint holds, without opening its tensors."""

    architecture: Architecture
    stored_vocabulary: int
    """Rows of the embedding and of the output layer as stored: the vocabulary, padded for the layout that saved it."""
    dtype: str
    """Of the stored model weights: "float32", "bfloat16" or "float16"."""
    iteration: int = 0
    """Optimizer steps done; 0 for converted weights (`release`)."""
    source: dict[str, Any] = dataclasses.field(default_factory=dict)
    """What it was made of: a conversion names its files with fingerprints, a training run its base, data and config."""
    progress: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Where a training run stood: `training.progress.Progress`."""
    layout: dict[str, int] = dataclasses.field(default_factory=dict)
    """Of the ranks that saved it: tp, pp, dp, virtual_stages."""
    optimizer_state: tuple[str, ...] = ()
    """Names of what the optimizer keeps for each trained weight; empty for weights alone."""
    files: dict[str, Record] = dataclasses.field(default_factory=dict)
    """Every other file of the folder by its path in it; empty where an older version wrote it."""
    tensor_crc32: dict[str, str] = dataclasses.field(default_factory=dict)
    """CRC-32 of each converted weight as stored, 8 hexadecimal digits; empty for what training saved."""
    versions: dict[str, str] = dataclasses.field(default_factory=lambda: package_versions())
    kind: str = "torch_dist"
    format_version: int = FORMAT_VERSION

    @property
    def family(self) -> str:
        """Name of the module under families/ that knows this model."""
        return self.architecture.family

    def write(self, folder: str | Path) -> None:
        """Write `megatron_ft.json` into an iteration folder, whole or not at all."""
        content = dataclasses.asdict(self)
        content["family"] = self.family
        cli.write_text_atomically(Path(folder) / MANIFEST_FILE, json.dumps(content, indent=1) + "\n")

    @staticmethod
    def read(folder: str | Path) -> Manifest:
        """The manifest of an iteration folder; CheckpointError when it is absent, unreadable or of a newer format."""
        path = Path(folder) / MANIFEST_FILE
        if not path.is_file():
            raise CheckpointError(f"{folder}: has no {MANIFEST_FILE}, so no run or conversion of ours finished it; "
                                  "name another checkpoint or convert again from the Hugging Face folder")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            found = content["format_version"]
            if found not in _READABLE_VERSIONS:
                raise CheckpointError(f"{path}: format_version is {found}, this program reads {FORMAT_VERSION}; "
                                      "use the megatron_ft version that wrote it")
            content.pop("family")
            content["architecture"] = Architecture(**content["architecture"])
            content["optimizer_state"] = tuple(content.get("optimizer_state", ()))
            content["files"] = {name: Record(**about) for name, about in content.get("files", {}).items()}
            return Manifest(**content)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{path}: is not a manifest of this project ({type(error).__name__}: {error}); "
                                  "the file is damaged, take another checkpoint") from error


def package_versions() -> dict[str, str]:
    """Versions of the packages that decide what a checkpoint looks like; one that is not installed is left out."""
    versions = {}
    for package in _VERSIONED_PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def folder_name(iteration: int | str) -> str:
    """The name of a checkpoint folder.

    >>> folder_name(250), folder_name("release")
    ('iter_0000250', 'release')
    """
    return RELEASE if iteration == RELEASE else f"iter_{int(iteration):07d}"


def latest(root: str | Path) -> Path | None:
    """The folder that `latest_checkpointed_iteration.txt` names, or None where nothing was saved yet.

    CheckpointError when the file names no folder or says neither a number nor "release".
    """
    pointer = Path(root) / LATEST_FILE
    if not pointer.is_file():
        return None
    text = pointer.read_text(encoding="utf-8").strip()
    if text != RELEASE and not text.isdecimal():
        raise CheckpointError(f"{pointer}: says {text!r}, expected a number or '{RELEASE}'; "
                              f"write the number of the newest complete iter_* folder into it")
    folder = Path(root) / folder_name(text)
    if not folder.is_dir():
        raise CheckpointError(f"{pointer}: says {text!r} but {folder} does not exist; "
                              f"write the number of the newest complete iter_* folder into it")
    return folder


def set_latest(root: str | Path, name: int | str) -> None:
    """Make `name` ("release" or the iteration's number) the checkpoint that `find(root)` gives; atomic."""
    cli.write_text_atomically(Path(root) / LATEST_FILE, f"{name}\n")


def is_complete(folder: str | Path) -> bool:
    """Whether an iteration folder was written to its end: torch_dist's own mark and our manifest are there."""
    return not missing_files(folder)


def missing_files(folder: str | Path) -> list[str]:
    """Names of the files that a complete checkpoint has and this folder lacks."""
    return [name for name in (*_TORCH_DIST_FILES, MANIFEST_FILE) if not (Path(folder) / name).is_file()]


def find(path: str | Path) -> Path:
    """The complete iteration folder that `path` means: itself, or the latest one when `path` is a checkpoint root.

    CheckpointError when there is none or when it is unfinished.
    """
    path = Path(path)
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such folder; give a checkpoint root or one iteration folder")
    folder = latest(path)
    if folder is None:
        if not any((path / name).exists() for name in (*_TORCH_DIST_FILES, MANIFEST_FILE)):
            raise CheckpointError(f"{path}: holds neither {LATEST_FILE} nor a checkpoint's files; "
                                  "give a checkpoint root or one iteration folder")
        folder = path
    missing = missing_files(folder)
    imported = f"python convert/megatron_to_megatron.py --checkpoint {folder} --output DIR"
    if any(folder.glob("mp_rank_*")):
        raise CheckpointError(f"{folder}: another Megatron's checkpoint, a folder for each rank; make one of ours of it: "
                              f"{imported}")
    if missing:
        complete = sorted(other.name for other in folder.parent.glob("iter_*") if is_complete(other))
        advice = f"complete ones beside it: {', '.join(complete)}" if complete else "write it again"
        stopped = "the writer stopped before the end"
        if missing == [MANIFEST_FILE]:
            stopped += f", or was another Megatron: then {imported}"
        raise CheckpointError(f"{folder}: unfinished checkpoint, {', '.join(missing)} missing ({stopped}); {advice}")
    return folder


_FOLDER = re.compile(r"iter_(\d{7,})")


def saved_steps(root: str | Path) -> list[int]:
    """Steps of the iter_* folders of a checkpoint root, newest first, whole or not."""
    names = (entry.name for entry in Path(root).iterdir() if entry.is_dir()) if Path(root).is_dir() else ()
    return sorted((int(match[1]) for match in map(_FOLDER.fullmatch, names) if match), reverse=True)


def to_resume(root: str | Path) -> tuple[list[Path], list[str]]:
    """A run's own checkpoints in the order in which to try them, and what is odd about them, a sentence each.

    That is the one that `latest_checkpointed_iteration.txt` names, then older ones; where it names none, all, the newest
    first. Nothing of what is in the folders is looked at. A checkpoint newer than the one that is named is none to try:
    somebody has set the run back, or it was stopped between a checkpoint's last two renames.
    """
    root, pointer, steps = Path(root), Path(root) / LATEST_FILE, saved_steps(root)
    text = pointer.read_text(encoding="utf-8").strip() if pointer.is_file() else None
    if text == RELEASE:
        return [root / RELEASE], []
    odd = []
    if text is not None and text.isdecimal():
        tried = [step for step in steps if step <= int(text)]
        if int(text) not in steps:
            odd = [f"{pointer} says {text!r} but there is no {folder_name(text)}"]
    else:
        tried = steps
        if text is not None or steps:
            odd = [f"{pointer} {'is missing' if text is None else f'says {text!r}, which is no step'}"]
    return [root / folder_name(step) for step in tried], odd


def expired(steps: Iterable[int], *, keep_last: int, keep_every: int) -> list[int]:
    """Steps whose checkpoints are not to stay, of those that are complete.

    >>> expired([250, 500, 750, 1000, 1250], keep_last=2, keep_every=500)
    [750, 250]
    >>> expired([3, 6], keep_last=2, keep_every=0)
    []
    """
    newest_first = sorted(steps, reverse=True)
    return [step for step in newest_first[keep_last:] if not (keep_every and step % keep_every == 0)]
