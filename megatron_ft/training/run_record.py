"""A run as its folder tells it, while it goes on or after it has ended, however it did. Torch-free."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from megatron_ft import config
from megatron_ft.errors import CheckpointError, ConfigError
from megatron_ft.runtime import checkpoint_layout
from megatron_ft.training import run_folder

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

UNSET = "unset"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder."""

    step: int
    bytes: int
    written: float
    """When its last file was, seconds since 1970."""
    missing: list[str]
    """What a complete one has and it has not."""
    is_latest: bool


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """What is in a run.dir."""

    name: str
    folder: Path
    metrics: list[dict[str, Any]]
    events: list[dict[str, Any]]
    spikes: list[dict[str, Any]]
    settings: dict[str, str]
    """Every field of config.toml as JSON, "section.field": those that it does not name have UNSET."""
    checkpoints: list[Checkpoint]

    def points(self, field: str) -> list[tuple[float, float]]:
        """(step, value) of a field of metrics.jsonl; lines where it is null are left out."""
        return [(line["step"], line[field]) for line in self.metrics if isinstance(line.get(field), int | float)]

    def tags(self) -> dict[str, list[tuple[float, float]]]:
        """(step, validation loss) of each tag."""
        found: dict[str, list[tuple[float, float]]] = {}
        for line in self.metrics:
            for tag, part in (line.get("valid") or {}).items():
                if part["loss"] is not None:
                    found.setdefault(tag, []).append((line["step"], part["loss"]))
        return found

    def last(self, kind: str) -> dict[str, Any]:
        """The newest event that has this field; {} where none has."""
        return next((event for event in reversed(self.events) if kind in event), {})

    @property
    def heard(self) -> float | None:
        """When the run last wrote something, seconds since 1970."""
        return max((line["time"] for line in (*self.metrics, *self.events) if "time" in line), default=None)


def read(folder: str | Path) -> RunRecord:
    """The record of a run.dir; ConfigError where it is none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ConfigError(f"RUN_DIR: {folder} is no folder; name the run.dir of a training run")
    if not any((folder / name).exists() for name in (run_folder.METRICS, run_folder.EVENTS, run_folder.CONFIG)):
        raise ConfigError(f"RUN_DIR: {folder} holds no {run_folder.METRICS} and no {run_folder.CONFIG}; name the run.dir of a "
                          "training run that has started")
    return RunRecord(
        name=folder.resolve().name, folder=folder, metrics=run_folder.read(folder / run_folder.METRICS),
        events=run_folder.read(folder / run_folder.EVENTS), spikes=run_folder.read(folder / run_folder.SPIKES),
        settings=_settings(folder / run_folder.CONFIG), checkpoints=_checkpoints(folder / "checkpoints"))


def defaults() -> dict[str, str]:
    """Every field of a config with its default, as RunRecord.settings has them."""
    return {name: _shown(list(default) if isinstance(default, tuple) else default)
            for name, (default, _) in config.fields().items()}


def _settings(path: Path) -> dict[str, str]:
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return {}
    found = {f"{section}.{field}": _shown(value) for section, fields in tree.items() if isinstance(fields, dict)
             for field, value in fields.items()}
    return {**dict.fromkeys(defaults(), UNSET), **found}


def _shown(value: Any) -> str:
    return UNSET if value is None else json.dumps(value, ensure_ascii=False, default=str)


def _checkpoints(root: Path) -> list[Checkpoint]:
    try:
        latest = checkpoint_layout.latest(root)
    except CheckpointError:
        latest = None
    found = []
    for step in sorted(checkpoint_layout.saved_steps(root)):
        folder = root / checkpoint_layout.folder_name(step)
        try:
            files = [path.stat() for path in folder.rglob("*") if path.is_file()]
        except FileNotFoundError:  # the run is removing it now
            continue
        found.append(Checkpoint(step, sum(file.st_size for file in files), max((file.st_mtime for file in files), default=0.0),
                                checkpoint_layout.missing_files(folder), folder == latest))
    return found
