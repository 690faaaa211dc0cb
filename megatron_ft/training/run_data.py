"""How many rows a run's training data make, and how far attention looks in them. Torch-free: no tensor is made."""

from __future__ import annotations

import dataclasses
import glob
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from megatron_ft.config import Config
from megatron_ft.data import pack_cache, tokenizer, weights_file
from megatron_ft.data.epochs import Epochs
from megatron_ft.data.selection import Selection
from megatron_ft.data.source import open_views, parse_entry
from megatron_ft.errors import ConfigError, DataError
from megatron_ft.families.architecture import Architecture
from megatron_ft.training.base_model import Base


@dataclasses.dataclass(frozen=True)
class Rows:
    """The training data of a run, packed."""

    documents: int
    rows_per_epoch: int
    """Of the first epoch, where they differ."""
    rows_of_first: Callable[[float], float] | None
    """Rows of the first so many epochs; None where all are alike."""
    fill: float
    """Share of the rows' positions that hold a document."""
    pairs_per_token: float
    """Tokens that one attends to on average, itself counted: (n + 1) / 2 in a document of n <= window, a mean over tokens."""
    longest: int
    """Positions of the longest document."""


def prefixes(config: Config) -> list[str]:
    """The datasets that a run trains on."""
    return [parse_entry(text).prefix for text in entries(config)[0]]


def is_here(prefix: str) -> bool:
    """Whether any file of a dataset, or of a dataset pair, is there."""
    path = Path(prefix)
    return any(path.parent.glob(f"{glob.escape(path.name)}*"))


def entries(config: Config) -> tuple[Sequence[str], Sequence[str]]:
    """The training and the validation entries that data.train and data.valid, or data.weights_files, name."""
    if config.data.weights_files:
        return weights_file.read(config.data.weights_files)
    return config.data.train, config.data.valid


def end_of_text(config: Config, base: Base) -> int:
    """The id that closes an answer in a dataset pair, as told or as the base model's tokenizer has it."""
    if config.data.end_of_text is not None:
        return config.data.end_of_text
    try:
        return tokenizer.load(base.hf_files).end_of_text
    except DataError as error:
        raise ConfigError("data.end_of_text: is not set, a dataset pair does not say which id ends an answer, and neither does "
                          f"the base model ({error}); set it to the id that the model was pre-trained with") from error


def require_positions(longest: int, config: Config, architecture: Architecture) -> None:
    """ConfigError when a row may hold a document of `longest` positions, which is more than the model was made for."""
    if longest > architecture.positions:
        raise ConfigError(f"data.row_tokens: {config.data.row_tokens} lets in a document of {longest} positions, but the "
                          f"model was made for {architecture.positions}; use data.row_tokens={architecture.positions} "
                          "and data.long_documents=truncate or drop")


def rows(config: Config, *, end_of_text: Callable[[], int], window: int | None = None) -> Rows:
    """The rows that `megatron_ft.train` would read; DataError or ConfigError where it would refuse the data.

    Args:
        end_of_text: gives the id that closes an answer; asked for dataset pairs, which do not know it.
        window: the model's, for `pairs_per_token`.
    """
    data = config.data
    train, valid = entries(config)
    views, _ = open_views(train, valid, end_of_text=end_of_text)
    selection = Selection(views, row_tokens=data.row_tokens, on_long=data.long_documents, loss_on=config.loss.on)
    epochs = Epochs(selection, seed=config.run.seed, cache=pack_cache.folder(data.cache_dir, views))
    lengths = selection.positions.astype(np.float64)
    hidden = np.maximum(0, lengths - (window or np.inf))  # as in flops.pairs_of
    return Rows(documents=selection.documents, rows_per_epoch=epochs.rows(0),
                rows_of_first=epochs.rows_of_first if epochs.differ else None, fill=epochs.packing(0).fill,
                pairs_per_token=float((lengths * (lengths + 1) - hidden * (hidden + 1)).sum() / 2 / lengths.sum()),
                longest=int(lengths.max()))
