"""Whole small training runs for tests: their config, their curves, their final weights."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch

from megatron_ft.training import run_folder

STEPS = 6


def config(base: Path, dataset: Path, run_dir: Path, **overrides: Any) -> dict[str, Any]:
    """A run of six steps with a log line each; `overrides` are section__field=value."""
    tree: dict[str, Any] = {
        "run": {"dir": str(run_dir), "steps": STEPS, "seed": 7}, "runtime": {"device": "cpu"}, "load": {"from": str(base)},
        "model": {"precision": "fp32", "hidden_dropout": 0.0, "attention_dropout": 0.0},
        "data": {"train": [f"0:0.9 {dataset}"], "valid": [f"0.9:1 {dataset}"], "row_tokens": 96, "rows_per_step": 8},
        "optim": {"lr": 1e-3, "min_lr": 1e-4, "warmup_steps": 1},
        "validation": {"every_steps": 3}, "checkpoint": {"every_steps": 3}, "log": {"every_steps": 1, "tensorboard": False}}
    for name, value in overrides.items():
        section, field = name.split("__")
        tree[section][field] = value
    return copy.deepcopy(tree)


def run(pool: Any, size: int, settings: dict[str, Any], *, stop_after: int | None = None) -> list[dict[str, Any]]:
    """Train on `size` ranks; the metrics written so far."""
    settings["parallel"] = settings.get("parallel", {})
    left_running = pool.run(size, "tests.training.programs:train", config=settings, stop_after=stop_after)
    assert not any(left_running), "a process that a run leaves behind stays for ever when its rank is killed"
    return run_folder.read(Path(settings["run"]["dir"]) / run_folder.METRICS)


def curve(lines: list[dict[str, Any]], field: str = "loss") -> list[float]:
    """One figure over the steps."""
    return [line[field] for line in lines if field in line]


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint, optimizer state too, whole."""
    from torch.distributed.checkpoint import FileSystemReader, load
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    known = FileSystemReader(folder).read_metadata().state_dict_metadata
    found = {name: torch.full(about.size, float("nan"), dtype=about.properties.dtype)
             for name, about in known.items() if isinstance(about, TensorStorageMetadata)}
    load(found, storage_reader=FileSystemReader(folder), no_dist=True)
    return found
