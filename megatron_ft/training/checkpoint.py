"""Saves and loads a run's state as megatron-core `torch_dist` checkpoints, which load at any TP x PP x DP.

A checkpoint is written into a hidden folder beside its place and renamed; `latest_checkpointed_iteration.txt` is moved
on after that. What a run needs besides weights and optimizer state follows from the number of steps and rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.core import CheckpointingException
from megatron.core.optimizer.optimizer import MegatronOptimizer
from torch.distributed.checkpoint.api import CheckpointException

from megatron_ft.errors import CheckpointError
from megatron_ft.runtime import checkpoint_layout as layout
from megatron_ft.training import lora, optimizer_state
from megatron_ft.training.model import LanguageModel, unwrap
from megatron_ft.training.progress import Progress


def model_state(chunks: Sequence[torch.nn.Module]) -> dict[str, Any]:
    """What of a checkpoint this rank's weights are: {"model": ...}, or {"model0": ..., "model1": ...} of virtual stages."""
    names = ["model"] if len(chunks) == 1 else [f"model{number}" for number in range(len(chunks))]
    return {name: lora.saved(chunk, unwrap(chunk).sharded_state_dict()) for name, chunk in zip(names, chunks, strict=True)}


def load_model(chunks: Sequence[torch.nn.Module], folder: Path) -> None:
    """Load the weights of one checkpoint folder into this rank's stage; every weight or CheckpointError.

    Vocabulary padding, which differs between layouts, is set to zero.
    """
    _set_weights(chunks, _load(model_state(chunks), folder), folder)


def load_run(chunks: Sequence[torch.nn.Module], optimizer: MegatronOptimizer, folder: Path) -> Progress:
    """Load weights, optimizer state and progress; what is missing is a CheckpointError, never a fresh start."""
    wanted = run_state(chunks, optimizer, Progress(step=0, rows=0))
    progress = _check_training_state(folder, wanted["optimizer"]["names"])
    state = _load(wanted, folder)
    optimizer_state.set_counters(optimizer, state["optimizer"])
    _set_weights(chunks, state, folder)
    return progress


def run_state(chunks: Sequence[torch.nn.Module], optimizer: MegatronOptimizer, progress: Progress) -> dict[str, Any]:
    """All that a checkpoint holds of this rank, as dist_checkpointing takes it: what `load_run` reads."""
    optimizer_state.fill(optimizer)
    state = model_state(chunks)
    return {**state, "optimizer": optimizer_state.sharded(optimizer, state), "progress": dataclasses.asdict(progress)}


def _check_training_state(folder: Path, names: list[str]) -> Progress:
    _require_whole(folder)
    common = dist_checkpointing.load_common_state_dict(str(folder))
    if "progress" not in common:
        raise CheckpointError(f"{folder}: holds weights but no training state; to start from it as a base model, "
                              "set load.from to it and run.dir to a new folder")
    found = common["optimizer"].get("names")
    if names and found != names:  # a rank whose part of the distributed optimizer is all padding has none
        raise CheckpointError(f"{folder}: holds the optimizer state {found}, this run's optimizer has {names}; restore "
                              "optim.optimizer, optim.momentum and model.precision, or start a new run from it: load.from set "
                              "to it and run.dir to a new folder")
    unknown = sorted(set(common["progress"]) - {field.name for field in dataclasses.fields(Progress)})
    if unknown:
        raise CheckpointError(f"{folder}: its training state has {', '.join(unknown)}, which this program does not know; "
                              "use the megatron_ft version that wrote it")
    return Progress(**common["progress"])


def _require_whole(folder: Path) -> None:
    missing = layout.missing_files(folder)
    if missing:
        raise CheckpointError(f"{folder}: unfinished checkpoint, {', '.join(missing)} missing; take an older one")


def _load(sharded: dict[str, Any], folder: Path) -> dict[str, Any]:
    _require_whole(folder)
    try:
        return dist_checkpointing.load(sharded, str(folder))
    except (CheckpointingException, CheckpointException, RuntimeError, KeyError, OSError) as error:
        raise CheckpointError(f"{folder}: does not hold what this model and optimizer need: {_first_line(error)}; check "
                              "that family and sizes are those it was saved with") from error


def _set_weights(chunks: Sequence[torch.nn.Module], state: dict[str, Any], folder: Path) -> None:
    for number, chunk in enumerate(map(unwrap, chunks)):
        outcome = chunk.load_state_dict(state["model" if len(chunks) == 1 else f"model{number}"], strict=False)
        # An _extra_state is transformer-engine's FP8 scale: there is none to miss in our precisions.
        wrong = {key for key in (*outcome.missing_keys, *outcome.unexpected_keys) if not key.endswith("_extra_state")}
        wrong = sorted(wrong - lora.frozen(chunk))
        if wrong:
            raise CheckpointError(f"{folder}: {len(wrong)} weights do not match the model, the first is {wrong[0]}")
        _zero_padding(chunk)


@torch.no_grad()
def _zero_padding(stage: LanguageModel) -> None:
    """Zero the rows past the vocabulary: a checkpoint of another layout has fewer, or more, of them."""
    tables = []
    if stage.pre_process:
        tables.append(stage.embedding.word_embeddings.weight)
    if stage.post_process and stage.output_layer.weight is not None:
        tables.append(stage.output_layer.weight)
    for table in tables:
        first_row = stage.pg_collection.tp.rank() * table.shape[0]
        real = min(max(stage.vocabulary - first_row, 0), table.shape[0])
        table[real:] = 0


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}"
