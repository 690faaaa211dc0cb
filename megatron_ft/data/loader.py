"""Rows into tensors: what a pipeline stage gets for each micro-batch, and where in the data a run stands.

    T tokens in a row, m rows in a micro-batch: one packed sequence of m * T tokens
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from megatron_ft import log
from megatron_ft.data import pack_cache
from megatron_ft.data.epochs import Epochs
from megatron_ft.data.pack import Packing
from megatron_ft.data.selection import LossOn, OnLong, OnUnsupervised, Selection
from megatron_ft.data.source import View
from megatron_ft.errors import ConfigError

Weighting = Literal["token", "target"]


@dataclasses.dataclass(frozen=True)
class Batch:
    """One micro-batch: m rows of T tokens as one packed sequence. Documents never see each other (cu_seqlens)."""

    tokens: Tensor
    """int64 [1, m*T]."""
    labels: Tensor
    """int64 [1, m*T]: the token after each; shifted here and nowhere else."""
    loss_mask: Tensor
    """float32 [1, m*T]: 1 where the label is supervised. Set by position, never by id."""
    weight: Tensor
    """float32 [1, m*T]: loss_mask, or under weighting "target" 1 / labels of the same answer: each answer sums to 1."""
    position_ids: Tensor
    """int64 [1, m*T]: from 0 in each document; 0 in what is left of a row."""
    cu_seqlens: Tensor
    """int32 [documents + 1 + rows with room left]: the room that is left of a row is a document of its own."""
    max_seqlen: int
    """Longest of them in tokens."""
    supervised: int
    """Labels with loss_mask 1."""
    targets: int
    """Answers: unbroken runs of supervised labels within a document."""
    documents: int
    rows: tuple[tuple[tuple[str, int], ...], ...]
    """For debugging: of each row its documents, as (dataset prefix, number)."""

    def to(self, device: torch.device | str) -> Batch:
        """The same with its tensors on `device`."""
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        moved = {name: value.to(device, non_blocking=True) for name, value in tensors.items()}
        return dataclasses.replace(self, **moved)


def make_batch(selection: Selection, rows: Sequence[np.ndarray], *, weighting: Weighting = "token") -> Batch:
    """The micro-batch of some rows.

    Args:
        rows: of each row the indices of its documents in the selection; an empty row is all padding.
    """
    row_tokens = selection.row_tokens
    size = len(rows) * row_tokens
    tokens = np.full(size, selection.end_of_text, dtype=np.int64)
    labels = tokens.copy()
    mask, weight = np.zeros(size, dtype=np.float32), np.zeros(size, dtype=np.float32)
    positions = np.zeros(size, dtype=np.int64)
    ends, targets = [0], 0
    for number, row in enumerate(rows):
        at = number * row_tokens
        for index in row:
            ids, supervised = selection.document(index)
            end = at + len(ids) - 1
            tokens[at:end], labels[at:end], mask[at:end] = ids[:-1], ids[1:], supervised[1:]
            positions[at:end] = np.arange(end - at)
            weight[at:end], answers = answer_weights(supervised[1:])
            targets += answers
            ends.append(end)
            at = end
        if at < (number + 1) * row_tokens:
            ends.append((number + 1) * row_tokens)
    return Batch(
        tokens=torch.from_numpy(tokens[None]),
        labels=torch.from_numpy(labels[None]),
        loss_mask=torch.from_numpy(mask[None]),
        weight=torch.from_numpy((mask if weighting == "token" else weight)[None]),
        position_ids=torch.from_numpy(positions[None]),
        cu_seqlens=torch.tensor(ends, dtype=torch.int32),
        max_seqlen=int(np.diff(ends).max()),
        supervised=int(np.count_nonzero(mask)),
        targets=targets,
        documents=sum(map(len, rows)),
        rows=tuple(tuple(map(selection.identity, row)) for row in rows),
    )


def answer_weights(supervised: np.ndarray) -> tuple[np.ndarray, int]:
    """1 / length of its run at each supervised label, 0 elsewhere; and how many runs there are.

    >>> weights, answers = answer_weights(np.array([False, True, True, False, True]))
    >>> weights.tolist(), answers
    ([0.0, 0.5, 0.5, 0.0, 1.0], 2)
    """
    edges = np.diff(np.concatenate([[0], supervised.astype(np.int8), [0]]))
    begins, lengths = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1) - np.flatnonzero(edges == 1)
    weights = np.zeros(len(supervised), dtype=np.float32)
    weights[supervised] = np.repeat(1 / lengths, lengths)
    return weights, len(begins)


@dataclasses.dataclass(frozen=True)
class Share:
    """Which rows of a step a data-parallel rank reads, in which micro-batch."""

    rows_per_step: int
    rows_per_micro_batch: int
    dp_rank: int
    dp_size: int

    def __post_init__(self) -> None:
        at_once = self.rows_per_micro_batch * self.dp_size
        if self.rows_per_step % at_once or self.rows_per_step < 1:
            raise ConfigError(f"{self.rows_per_step} rows per step cannot be dealt out: {self.rows_per_micro_batch} "
                              f"rows per micro-batch x {self.dp_size} data-parallel ranks = {at_once} must divide them")

    def micro_batches(self, rows: Sequence[np.ndarray]) -> list[Sequence[np.ndarray]]:
        """Of a step's rows, this rank's, micro-batch by micro-batch.

        Micro-batch k of rank d holds rows (k * dp_size + d) * m and the m - 1 after it.

        >>> Share(rows_per_step=8, rows_per_micro_batch=2, dp_rank=1, dp_size=2).micro_batches(list("abcdefgh"))
        [['c', 'd'], ['g', 'h']]
        """
        m = self.rows_per_micro_batch
        return [rows[at:at + m] for at in range(self.dp_rank * m, len(rows), self.dp_size * m)]


class Loader:
    """Training data without end: each item is one optimizer step of this data-parallel rank, a list of micro-batches.

    The rows of a step depend on data, seed and position alone, never on the layout. What an epoch reads is in `epochs`;
    where one ends within a step, the step goes on with the next epoch's first rows.
    """

    def __init__(self, views: Sequence[View], *, row_tokens: int, rows_per_step: int, rows_per_micro_batch: int = 1,
                 dp_rank: int = 0, dp_size: int = 1, seed: int = 0, position: int = 0, on_long: OnLong = "stop",
                 on_unsupervised: OnUnsupervised = "drop", loss_on: LossOn = "answers", weighting: Weighting = "token",
                 cache_dir: str = "") -> None:
        """Pack the views' documents.

        Args:
            position: rows consumed so far over all ranks; as read from `position` when a checkpoint was written.
            cache_dir: folder where large packings are kept; empty: one beside the first view's dataset.
        """
        self.selection = Selection(views, row_tokens=row_tokens, on_long=on_long, on_unsupervised=on_unsupervised,
                                   loss_on=loss_on)
        self.epochs = Epochs(self.selection, seed=seed, cache=pack_cache.folder(cache_dir, views))
        self.position = position
        self.seed = seed
        self.weighting: Weighting = weighting
        self._share = Share(rows_per_step, rows_per_micro_batch, dp_rank, dp_size)
        log.get().info("data: %d documents in %d rows of %d tokens, %.2f%% filled", self.selection.documents,
                       self.rows_per_epoch, row_tokens, 100 * self.epochs.packing(0).fill)

    @property
    def rows_per_epoch(self) -> int:
        """Rows of the first epoch; where weights make epochs differ, the others have about as many."""
        return self.epochs.rows(0)

    @property
    def epoch(self) -> float:
        """How many epochs have been read."""
        epoch, row = self.epochs.place(self.position)
        return epoch + row / self.epochs.rows(epoch)

    @property
    def fingerprint(self) -> str:
        """Of everything that decides which row is at which position; to be compared when a run resumes."""
        text = f"{self.selection.fingerprint} {self.selection.row_tokens} {self.seed}"
        if self.epochs.differ:
            text += f" {self.epochs.counts}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def __iter__(self) -> Iterator[list[Batch]]:
        return self

    def __next__(self) -> list[Batch]:
        rows = [self.epochs.row(self.position + offset) for offset in range(self._share.rows_per_step)]
        self.position += len(rows)
        return [make_batch(self.selection, chosen, weighting=self.weighting)
                for chosen in self._share.micro_batches(rows)]


class ValidationLoader:
    """All documents of the validation views once, in a fixed order: each item is the micro-batches of a step's rows.

    The last item is filled with empty rows (loss_mask 0 throughout) until every rank has equally many micro-batches, a
    multiple of `micro_batches_multiple`; it may have fewer of them than the items before.
    """

    def __init__(self, views: Sequence[View], *, row_tokens: int, rows_per_step: int, rows_per_micro_batch: int = 1,
                 dp_rank: int = 0, dp_size: int = 1, on_long: OnLong = "stop",
                 on_unsupervised: OnUnsupervised = "drop", loss_on: LossOn = "answers", weighting: Weighting = "token",
                 cache_dir: str = "", micro_batches_multiple: int = 1) -> None:
        self.selection = Selection(views, row_tokens=row_tokens, on_long=on_long, on_unsupervised=on_unsupervised,
                                   loss_on=loss_on)
        self.packing = Packing(self.selection.positions, row_tokens, cache=pack_cache.folder(cache_dir, views))
        self.weighting: Weighting = weighting
        self._share = Share(rows_per_step, rows_per_micro_batch, dp_rank, dp_size)
        self._rows_multiple = rows_per_micro_batch * dp_size * micro_batches_multiple

    def __len__(self) -> int:
        return -(-self.packing.rows // self._share.rows_per_step)

    def __iter__(self) -> Iterator[list[Batch]]:
        plan = self.packing.in_order()
        rows = [plan.row(number) for number in range(self.packing.rows)]
        rows += [np.empty(0, dtype=np.int64)] * (-len(rows) % self._rows_multiple)
        for at in range(0, len(rows), self._share.rows_per_step):
            chosen = self._share.micro_batches(rows[at:at + self._share.rows_per_step])
            yield [make_batch(self.selection, micro_batch, weighting=self.weighting) for micro_batch in chosen]
