"""The two folders of a comparison: opened as sources of weights, and their files checked against what was noted of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from megatron_ft import families, log
from megatron_ft.conversion import hf_manifest, lora_to_hf, opening, streams
from megatron_ft.conversion.hf_folder import HfSource
from megatron_ft.conversion.megatron_to_hf import require_same_architecture
from megatron_ft.conversion.opening import Hints, Opened
from megatron_ft.errors import CheckpointError
from megatron_ft.families.architecture import Architecture
from megatron_ft.runtime import checkpoint_files, checkpoint_layout, lora_layout
from megatron_ft.runtime.checkpoint_files import Record, readable
from megatron_ft.runtime.checkpoint_layout import Manifest

_OF_TRAINING = ("hidden_dropout", "attention_dropout", "initializer_range")
"""What another Megatron's arguments and a config may say differently of the same function."""


@dataclasses.dataclass(frozen=True)
class Pair:
    """A Hugging Face folder and a checkpoint of one architecture."""

    hf: Path
    reference: HfSource
    opened: Opened
    noted: Mapping[str, str]
    """CRC-32 of the folder's tensors, where it was noted when they were written."""

    @property
    def architecture(self) -> Architecture:
        """Of both."""
        return self.opened.architecture


def open_pair(hf: str | Path, checkpoint: str | Path, hints: Hints = Hints()) -> Pair:  # noqa: B008 - frozen
    """Open both; CheckpointError or ConfigError for different models and for weights that are not exactly the model's."""
    of_hf, folder = families.architecture_of_folder(hf), opening.find(checkpoint)
    ours = manifest_of(folder)
    lora = ours is not None and lora_layout.of(ours) is not None
    opened = lora_to_hf.open_merged(folder) if lora else opening.open_checkpoint(checkpoint, hints)
    told = {name: getattr(of_hf, name) for name in _OF_TRAINING}
    require_same_architecture(of_hf, dataclasses.replace(opened.architecture, **told), where=str(hf), other=str(opened.folder))
    streams.check_stored(opened.source, opening.weights_of(opened.architecture), where=str(opened.folder))
    manifest = hf_manifest.read(hf)
    return Pair(Path(hf), HfSource(hf, of_hf), opened, manifest.tensor_crc32 if manifest else {})


def manifest_of(folder: Path) -> Manifest | None:
    """What a checkpoint of ours says about itself; None for one of somebody else's."""
    return Manifest.read(folder) if (folder / checkpoint_layout.MANIFEST_FILE).is_file() else None


@dataclasses.dataclass(frozen=True)
class Files:
    """How the files of both folders compare with the sizes and sums that were noted when they were written."""

    checked: int
    bytes: int
    """Of those, read from start to end."""
    damaged: list[str]
    """What is wrong, a sentence each."""
    not_checked: list[str]
    """What nothing is known of, a sentence each."""


def check_files(hf: str | Path, checkpoint: str | Path) -> Files:
    """Read every file that has a noted sum; of training's files with optimizer state only the size is compared.

    The weights in those are compared anyway, and torch's archives hold a sum of each.
    """
    places: list[tuple[Path, dict[str, Record]]] = []
    not_checked: list[str] = []
    manifest = hf_manifest.read(hf)
    if manifest is None:
        not_checked.append(f"{hf}: has no {hf_manifest.FILE} with sums of its files")
    else:
        places.append((Path(hf), manifest.files))
    damaged: list[str] = []
    for folder in _folders(checkpoint):
        of_folder = manifest_of(folder)
        of_hf = hf_manifest.read(folder)
        files = dict(of_folder.files if of_folder else of_hf.files if of_hf else {})
        if not files:
            not_checked.append(f"{folder}: nothing in it says what its files must be")
        if of_folder is not None and of_folder.optimizer_state:
            left_out = {name: files.pop(name) for name in [*files] if name.endswith(".distcp")}
            damaged += _named(folder, checkpoint_files.wrong_sizes(folder, left_out))
            if left_out:
                size = readable(sum(record.bytes for record in left_out.values()))
                not_checked.append(f"{folder}: {len(left_out)} files, {size}, with optimizer state: their weights were read, "
                                   "the rest was not")
        places.append((folder, files))
    total = sum(record.bytes for _, files in places for record in files.values())
    count = sum(len(files) for _, files in places)
    log.get().info("comparing %d files, %s, with the sums noted of them", count, readable(total))
    for folder, files in places:
        damaged += _named(folder, checkpoint_files.damage(folder, files))
    return Files(count, total, damaged, not_checked)


def _folders(checkpoint: str | Path) -> list[Path]:
    """The checkpoint's, and of adapters their base model's."""
    folder = opening.find(checkpoint)
    manifest = manifest_of(folder)
    if manifest is None or lora_layout.of(manifest) is None:
        return [folder]
    base = Path(manifest.source["base"])
    if not base.is_dir():
        raise CheckpointError(f"{folder}: {base}, the base model of its adapters, is not there; put it back")
    return [folder, base]


def _named(folder: Path, problems: list[str]) -> list[str]:
    return [f"{folder}/{problem}" for problem in problems]
