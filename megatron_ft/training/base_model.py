"""The model that a run starts from: a checkpoint, or a Hugging Face folder as it is. Finding it takes no torch."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from megatron_ft import families
from megatron_ft.errors import CheckpointError
from megatron_ft.families import rules
from megatron_ft.families.architecture import Architecture
from megatron_ft.families.hf_config import CONFIG_FILE
from megatron_ft.runtime import checkpoint_layout as layout


@dataclasses.dataclass(frozen=True)
class Base:
    """Where the base model is and what it is; it is never written to."""

    folder: Path
    """One checkpoint folder, or a Hugging Face model folder."""
    architecture: Architecture
    manifest: layout.Manifest | None
    """Of a checkpoint; None for a Hugging Face folder."""

    @property
    def hf_files(self) -> Path:
        """Folder with its config.json, generation config and tokenizer."""
        return self.folder if self.manifest is None else self.folder / layout.HF_FOLDER


def find(path: str | Path) -> Base:
    """The base model that `load.from` names; CheckpointError or ConfigError says what a folder lacks to be one."""
    path = Path(path)
    if not path.is_dir():
        raise CheckpointError(f"load.from: {path}: no such folder; name a Hugging Face model folder or a checkpoint")
    if not any((path / name).exists() for name in (layout.LATEST_FILE, layout.MANIFEST_FILE, layout.COMPLETE_FILE)):
        if not (path / CONFIG_FILE).is_file():
            raise CheckpointError(f"load.from: {path} holds neither {CONFIG_FILE} and weights, as a Hugging Face model folder "
                                  f"does, nor {layout.LATEST_FILE} or {layout.MANIFEST_FILE}, as a checkpoint does; name a "
                                  "folder that holds one of them")
        return Base(path, families.architecture_of_folder(path), None)
    folder = layout.find(path)
    manifest = layout.Manifest.read(folder)
    return Base(folder, manifest.architecture, manifest)


def check(base: Base) -> None:
    """Refuse a Hugging Face folder whose weights are not exactly its config's model, before a device is touched."""
    if base.manifest is not None:
        return
    from megatron_ft.runtime import dtypes, hf_files

    table = families.get(base.architecture.family).RULES
    source = hf_files.open_weights(base.folder)
    rules.check_hf_tensors(table, base.architecture, source.shapes, where=str(base.folder))
    for weight in rules.weights(table, base.architecture):
        for name, _ in weight.hf:
            dtype = source.dtypes[name]
            if dtype not in dtypes.NAMES:
                raise CheckpointError(f"{base.folder}: {name} is {str(dtype).removeprefix('torch.')}, expected one of "
                                      f"{', '.join(dtypes.DTYPES)}; take the unquantized model")
