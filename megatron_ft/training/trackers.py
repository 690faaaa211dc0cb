"""Where figures go besides metrics.jsonl: TensorBoard and Weights & Biases. Only rank 0 has them."""

from __future__ import annotations

import importlib.util
import math
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from megatron_ft.config import Config, Log
from megatron_ft.errors import ConfigError, TrainingError

NOT_DRAWN = {"step", "time", "valid", "eta_s"}


class Tracker(Protocol):
    """Something that draws curves."""

    def write(self, line: dict[str, Any]) -> None:
        """Take a line of metrics.jsonl."""

    def close(self) -> None:
        """Write what is buffered."""


def require_installed(settings: Log) -> None:
    """ConfigError where the config asks for a package that is not here."""
    if settings.wandb_project and importlib.util.find_spec("wandb") is None:
        raise ConfigError(f"log.wandb_project: {settings.wandb_project!r} asks for Weights & Biases, but its package is "
                          "not installed; pip install wandb, or leave log.wandb_project empty")


def figures(line: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """(name, value) of what is drawn of a line of metrics.jsonl; values that are not finite are left out.

    >>> list(figures({"step": 3, "loss": 0.5, "grad_norm": None}))
    [('train/loss', 0.5)]
    >>> list(figures({"step": 3, "valid_loss": 0.7, "valid": {"code": {"loss": 0.7}}}))
    [('validation/loss', 0.7), ('validation_by_tag/code', 0.7)]
    """
    named = {"validation/loss" if name == "valid_loss" else f"train/{name}": value for name, value in line.items()
             if name not in NOT_DRAWN and name != "valid_supervised_tokens"}
    named |= {f"validation_by_tag/{tag}": part["loss"] for tag, part in line.get("valid", {}).items()}
    for name, value in named.items():
        if value is not None and math.isfinite(value):
            yield name, value


class TensorBoard:
    """Event files under run.dir/tensorboard."""

    def __init__(self, run_dir: Path, *, first_step: int, kept: list[dict[str, Any]]) -> None:
        """Open another event file; what earlier ones have from `first_step` on is not shown, but for what was `kept` of it."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run_dir / "tensorboard"), purge_step=first_step)
        for line in kept:
            if line["step"] == first_step:
                self.write(line)

    def write(self, line: dict[str, Any]) -> None:
        """Take a line of metrics.jsonl."""
        for name, value in figures(line):
            self._writer.add_scalar(name, value, line["step"])
        self._writer.flush()  # a kill loses nothing

    def close(self) -> None:
        """Write what is buffered."""
        self._writer.close()


class WandB:
    """One run of Weights & Biases over all processes of this run, its id kept in run.dir/wandb/id.

    wandb writes in blocks, so a killed process loses up to half a minute, and a resumed one does steps again. Each process
    therefore gives wandb the lines of metrics.jsonl that it cannot have: offline those that no `wandb sync` has seen (what
    earlier processes wrote and nobody synced is replaced), online those after the last step that the server has.
    """

    def __init__(self, config: Config, *, before: list[dict[str, Any]], kept: list[dict[str, Any]]) -> None:
        """Start or continue it.

        Args:
            before: lines of metrics.jsonl as an earlier process left them.
            kept: those that a resume did not take out.
        """
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        self._wandb = wandb
        run_dir, offline = Path(config.run.dir), config.log.wandb_mode == "offline"
        folder = run_dir / "wandb"
        folder.mkdir(exist_ok=True)
        named = folder / "id"
        if not named.exists():
            named.write_text(secrets.token_hex(4), encoding="utf-8")
        run_id = named.read_text(encoding="utf-8")
        synced = _drop_unsynced(folder, run_id) if offline else -math.inf
        settings = wandb.Settings(silent=True, console="off", disable_git=True, disable_code=True)
        try:
            self._run = wandb.init(project=config.log.wandb_project, name=run_dir.resolve().name, id=run_id, resume="allow",
                                   mode=config.log.wandb_mode, dir=str(run_dir), settings=settings,
                                   config=config.model_dump(by_alias=True, mode="json"))
        except wandb.Error as error:
            raise TrainingError(f"log.wandb_project: Weights & Biases did not start ({error}); use log.wandb_mode=offline, or "
                                "leave log.wandb_project empty") from error
        self._known = max((line["step"] for line in before if line["time"] <= synced), default=-1)
        if not offline:
            self._known = self._run.step - 1
        for line in kept:
            self.write(line)

    def write(self, line: dict[str, Any]) -> None:
        """Take a line of metrics.jsonl."""
        if line["step"] > self._known:
            self._run.log(dict(figures(line)), step=line["step"])

    def close(self) -> None:
        """Write what is buffered."""
        self._run.finish()
        self._wandb.teardown()  # its service would stay as long as this process


def _drop_unsynced(folder: Path, run_id: str) -> float:
    """Remove what earlier processes wrote and nobody has uploaded; when the last of the others was, seconds since 1970."""
    uploaded = -math.inf
    for earlier in folder.glob(f"offline-run-*-{run_id}"):
        marks = list(earlier.glob("*.wandb.synced"))
        if marks:
            uploaded = max(uploaded, *(mark.stat().st_mtime for mark in marks))
        else:
            shutil.rmtree(earlier)
    return uploaded


def start(config: Config, *, first_step: int, before: list[dict[str, Any]], kept: list[dict[str, Any]]) -> list[Tracker]:
    """The trackers that the config asks for; `before` and `kept` as in WandB."""
    trackers: list[Tracker] = []
    if config.log.tensorboard:
        trackers.append(TensorBoard(Path(config.run.dir), first_step=first_step, kept=kept))
    if config.log.wandb_project:
        trackers.append(WandB(config, before=before, kept=kept))
    return trackers
