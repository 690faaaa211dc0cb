"""Opens a checkpoint folder, whoever wrote it: says what it is, and gives its weights in megatron-core's layout."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from megatron_ft import families, log
from megatron_ft.conversion import dcp_metadata, legacy, megatron_args
from megatron_ft.conversion.streams import Source
from megatron_ft.conversion.torch_dist import COMMON_FILE, TorchDistSource
from megatron_ft.errors import CheckpointError, ConfigError
from megatron_ft.families import rules
from megatron_ft.families.architecture import Architecture
from megatron_ft.families.hf_config import CONFIG_FILE
from megatron_ft.runtime import checkpoint_files, checkpoint_layout, lora_layout, torch_file
from megatron_ft.runtime.checkpoint_layout import Manifest

EMBEDDING = "embedding.word_embeddings.weight"


@dataclasses.dataclass(frozen=True)
class Hints:
    """What a user says about a checkpoint that does not say it itself."""

    config: Path | None = None
    """Hugging Face folder with the model's config.json, and its tokenizer."""
    vocabulary: int | None = None
    """Rows of the embedding without padding."""
    family: str | None = None


@dataclasses.dataclass(frozen=True)
class Opened:
    """A checkpoint that can be converted."""

    folder: Path
    """Of the iteration."""
    kind: str
    """ "torch_dist", "torch_dist of Megatron-LM", or "legacy" with the dialect."""
    architecture: Architecture
    source: Source
    iteration: int
    companions: Path | None
    """Folder with config.json and tokenizer files."""
    origin: dict[str, Any]
    """What the manifest of a converted model says of it."""
    tensor_crc32: dict[str, str] = dataclasses.field(default_factory=dict)
    """Of weights, where it was noted when they were written."""


def find(path: str | Path) -> Path:
    """The iteration's folder that `path` means: itself, or the latest one where it is a checkpoint root."""
    path = Path(path)
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such folder; give a checkpoint root or one iteration folder")
    return checkpoint_layout.latest(path) or path


def open_checkpoint(path: str | Path, hints: Hints = Hints()) -> Opened:  # noqa: B008 - frozen
    """Open a checkpoint; CheckpointError or ConfigError says what it lacks."""
    folder = find(path)
    if (folder / checkpoint_layout.MANIFEST_FILE).is_file():
        folder = checkpoint_layout.find(path)
        manifest = Manifest.read(folder)
        require_whole_files(folder, manifest)
        lora_layout.require_whole(manifest, folder, option="--checkpoint")
        kept = folder / checkpoint_layout.HF_FOLDER
        return Opened(folder, "torch_dist", manifest.architecture, TorchDistSource(folder), manifest.iteration,
                      kept if kept.is_dir() else None, manifest.source, manifest.tensor_crc32)
    if legacy.rank_folders(folder):
        opened = legacy.open_folder(folder)
        architecture = _architecture(opened.args, hints, stored_rows=_rows(opened), where=str(folder),
                                     core=opened.dialect == "core")
        if architecture.layers != opened.layers:
            raise CheckpointError(f"{folder}: the ranks hold {opened.layers} layers, but the model has {architecture.layers}; "
                                  "a stage is missing, or --config is another model's")
        return Opened(folder, f"legacy, {opened.dialect}", architecture, legacy.LegacySource(opened, architecture),
                      opened.iteration, hints.config, _origin(folder, f"megatron legacy {opened.dialect}", opened.iteration))
    if (folder / dcp_metadata.METADATA_FILE).is_file():
        return _open_foreign(folder, hints)
    raise CheckpointError(f"{path}: is no checkpoint: it holds neither {checkpoint_layout.LATEST_FILE} nor mp_rank_* folders "
                          f"nor {dcp_metadata.METADATA_FILE}; give a checkpoint root or one iteration folder")


def require_whole_files(folder: Path, manifest: Manifest) -> None:
    """CheckpointError for a file that is not what was written; of tensors' files, summed when they are read, the size.

    Config and tokenizer are for people to change: that is said, and the config is compared with the weights later.
    """
    kept = {name: record for name, record in manifest.files.items() if name.startswith(f"{checkpoint_layout.HF_FOLDER}/")}
    ours = {name: record for name, record in manifest.files.items() if name not in kept}
    small = {name: record for name, record in ours.items() if not name.endswith(".distcp")}
    for changed in checkpoint_files.damage(folder, kept):
        log.get().warning("%s: %s, as it was when the checkpoint was written", folder, changed)
    wrong = checkpoint_files.wrong_sizes(folder, ours) or checkpoint_files.damage(folder, small)
    if wrong:
        raise CheckpointError(f"{folder}: {wrong[0]}; it is damaged, take another copy or another checkpoint")


def _rows(opened: legacy.LegacyFolder) -> int:
    table = opened.ranks[0].get(EMBEDDING)
    if table is None:
        raise CheckpointError(f"{opened.folder}: the first stage holds no word embeddings ({EMBEDDING}); it is another kind of "
                              "model, or incomplete")
    return table.shape[0] * opened.tp


def _open_foreign(folder: Path, hints: Hints) -> Opened:
    """A torch_dist folder that Megatron-LM or another user of megatron-core wrote."""
    source = TorchDistSource(folder)
    common = common_of(folder)
    args, iteration = common.get("args"), common.get("iteration", 0)
    if args is None and hints.config is None:
        raise CheckpointError(f"{folder / COMMON_FILE}: holds no `args` that say what model it is; name its config with "
                              "--config DIR")
    architecture = _architecture(args or argparse.Namespace(), hints, stored_rows=source.shape(EMBEDDING)[0], where=str(folder),
                                 core=True)
    return Opened(folder, "torch_dist of Megatron-LM", architecture, source, iteration, hints.config,
                  _origin(folder, "megatron torch_dist", iteration))


def common_of(folder: Path) -> dict[str, Any]:
    """What is the same on all ranks of a torch_dist checkpoint; empty where the folder has none."""
    path = folder / COMMON_FILE
    found = torch_file.load(path) if path.is_file() else {}
    if not isinstance(found, dict) or not isinstance(found.get("args", argparse.Namespace()), argparse.Namespace):
        raise CheckpointError(f"{path}: holds something else than a checkpoint's dictionary; take another copy")
    return found


def _architecture(args: argparse.Namespace, hints: Hints, *, stored_rows: int, where: str, core: bool) -> Architecture:
    if hints.config is None:
        return megatron_args.architecture(args, vocabulary=hints.vocabulary, stored_rows=stored_rows, where=where,
                                          family=hints.family, core=core)
    found = families.architecture_of_folder(hints.config)
    if not found.vocabulary <= stored_rows:
        raise CheckpointError(f"{hints.config / CONFIG_FILE}: the vocabulary is {found.vocabulary}, but {where} has "
                              f"{stored_rows} rows; the config is another model's")
    _say_differences(args, found, stored_rows, where=where, config=hints.config, core=core)
    return found


def _say_differences(args: argparse.Namespace, found: Architecture, stored_rows: int, *, where: str, config: Path,
                     core: bool) -> None:
    """Warn of what the stored arguments, as far as they can be read, say differently from the config that counts."""
    try:
        theirs = megatron_args.architecture(args, vocabulary=found.vocabulary, stored_rows=stored_rows, where=where,
                                            family=found.family, core=core)
    except ConfigError:
        return  # that is what the config is for
    for field in dataclasses.fields(Architecture):
        ours, stored = getattr(found, field.name), getattr(theirs, field.name)
        if ours != stored:
            log.get().warning("%s: its arguments say %s = %r, %s says %r, which counts", where, field.name, stored,
                              config / CONFIG_FILE, ours)


def _origin(folder: Path, kind: str, iteration: int) -> dict[str, Any]:
    return {"format": kind, "folder": str(folder.resolve()), "iteration": iteration}


def weights_of(architecture: Architecture) -> list[rules.Weight]:
    """Every weight of a model."""
    return rules.weights(families.get(architecture.family).RULES, architecture)
