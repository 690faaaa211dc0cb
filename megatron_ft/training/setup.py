"""Everything a run checks before it touches a device: base model, data, layout, and the run folder's earlier work."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from megatron_ft.config import Config
from megatron_ft.data.loader import Loader, ValidationLoader
from megatron_ft.data.manifest import Manifest
from megatron_ft.data.source import View, by_tag, open_views
from megatron_ft.errors import ConfigError, DataError
from megatron_ft.families.architecture import Architecture
from megatron_ft.runtime import lora_layout
from megatron_ft.runtime.device import Process
from megatron_ft.training import base_model, resume, run_data, trackers
from megatron_ft.training.base_model import Base
from megatron_ft.training.plan import Plan, check_layout, make


@dataclasses.dataclass(frozen=True)
class Setup:
    """A run that has been checked and can start."""

    config: Config
    process: Process
    architecture: Architecture
    base: Base
    saved: tuple[Path, ...]
    """The run's own checkpoints in the order in which to try them; empty on the first start."""
    loader: Loader
    valid: dict[str, ValidationLoader]
    """Held-out data by the tags of their losses."""
    plan: Plan
    tokenizers: tuple[str, ...]
    """Fingerprints of those that made the training data; a dataset pair does not know its own."""
    lora: dict[str, object]
    """What the manifest of each checkpoint says about adapters; empty without LoRA."""
    data: list[dict[str, object]]
    """What it says about each dataset."""

    @property
    def checkpoints(self) -> Path:
        """Root of the run's own checkpoints."""
        return Path(self.config.run.dir) / "checkpoints"

    def source(self) -> dict[str, object]:
        """For the manifest of each checkpoint: what decides the data order, and what the run was told."""
        return {"base": str(self.base.folder), "data_order": self.loader.fingerprint, "tokenizers": list(self.tokenizers),
                "data": self.data, "config": self.config.to_toml(), **self.lora}


def prepare(config: Config, process: Process) -> Setup:
    """Check everything; raises ConfigError, DataError or CheckpointError, the same on every rank."""
    trackers.require_installed(config.log)
    base = base_model.find(config.load.base)
    if base.manifest is not None:
        lora_layout.require_whole(base.manifest, base.folder, option="load.from")
    base_model.check(base)
    architecture = base.architecture
    dp = check_layout(architecture, config.parallel, processes=process.size, row_tokens=config.data.row_tokens)
    train_views, valid_views = _open_data(config, base)
    for view in train_views + valid_views:
        _check_vocabulary(view, architecture, base)
    dp_rank = process.rank // config.parallel.tp % dp  # megatron-core's order of ranks: tp, then dp, then pp
    share = {"row_tokens": config.data.row_tokens, "rows_per_step": config.data.rows_per_step,
             "rows_per_micro_batch": config.data.rows_per_micro_batch, "dp_rank": dp_rank, "dp_size": dp,
             "on_long": config.data.long_documents, "loss_on": config.loss.on, "weighting": config.loss.weighting,
             "cache_dir": config.data.cache_dir}
    loader = Loader(train_views, seed=config.run.seed, **share)
    # megatron-core's interleaved schedule takes micro-batches in turns of pp.
    turn = config.parallel.pp if config.parallel.virtual_stages > 1 else 1
    valid = {tag: ValidationLoader(views, micro_batches_multiple=turn, **share) for tag, views in by_tag(valid_views).items()}
    for rows in (loader, *valid.values()):
        run_data.require_positions(int(rows.selection.positions.max()), config, architecture)
    plan = make(config, architecture, processes=process.size, rows_per_epoch=loader.rows_per_epoch,
                rows_of_first=loader.epochs.rows_of_first if loader.epochs.differ else None)
    root = Path(config.run.dir) / "checkpoints"
    saved = resume.find(root, config, architecture, data_order=loader.fingerprint, base=base.folder)
    resume.check_room(root, config, architecture, warn=process.rank == 0)
    return Setup(config, process, architecture, base, saved, loader, valid, plan, _tokenizers(train_views),
                 lora_layout.source(config.lora, base.folder),
                 [_described("train", view) for view in train_views] + [_described("valid", view) for view in valid_views])


def _described(purpose: str, view: View) -> dict[str, object]:
    """A dataset for the manifest of a checkpoint, which may be read where the dataset is not."""
    described: dict[str, object] = {"for": purpose, "entry": str(view.entry), "documents": view.last - view.first}
    path = Path(f"{view.entry.prefix}.json")
    if path.is_file():  # OctoPack's pairs have none
        made = Manifest.read(path)
        described |= {"template": made.template, "whole": made.counts, "bin": made.bin_file,
                      "inputs": [{key: each[key] for key in ("path", "sha256")} for each in made.inputs]}
    return described


def _tokenizers(views: list[View]) -> tuple[str, ...]:
    return tuple(sorted({view.dataset.tokenizer["fingerprint"] for view in views if view.dataset.tokenizer}))


def _open_data(config: Config, base: Base) -> tuple[list[View], list[View]]:
    """The training and the validation views that data.train and data.valid, or data.weights_files, name."""
    train, valid = run_data.entries(config)
    train_views, valid_views = open_views(train, valid, end_of_text=lambda: run_data.end_of_text(config, base))
    for view in train_views + valid_views:
        if config.data.end_of_text not in (None, view.dataset.end_of_text):
            raise ConfigError(f"data.end_of_text: {config.data.end_of_text}, but {view.entry.prefix} was made with "
                              f"{view.dataset.end_of_text}; leave it unset where a dataset knows its own")
    return train_views, valid_views


def _check_vocabulary(view: View, architecture: Architecture, base: Base) -> None:
    vocabulary = view.dataset.vocabulary
    if vocabulary > architecture.vocabulary:
        has = f"was made with a tokenizer of {vocabulary} tokens" if view.dataset.tokenizer else f"has the id {vocabulary - 1}"
        raise DataError(f"data: {view.entry.prefix} {has}, but the base model {base.folder} has "
                        f"{architecture.vocabulary}; tokenize with the model's own tokenizer ({base.hf_files})")

