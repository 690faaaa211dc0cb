"""Which documents are in which row of which epoch, without end: a pure function of the documents, their weights and the seed.

Without weights an epoch is every document once. With weights it has as many documents, but a share of them from each entry.
An entry is read as an endless sequence of permutations of its documents, of which every epoch takes the next ones: over time
each is read equally often, and a document comes twice within an epoch only where the share asks for more than there are.
"""

from __future__ import annotations

import bisect
import functools
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from megatron_ft import log
from megatron_ft.data.pack import Packing, Plan
from megatron_ft.data.selection import Selection
from megatron_ft.errors import DataError


def shares_of(documents: int, weights: Sequence[float]) -> list[int]:
    """`documents` dealt out in proportion to weights: rounded down, then one more for the largest remainders.

    >>> shares_of(10, [0.7, 0.3]), shares_of(10, [1, 1, 1])
    ([7, 3], [4, 3, 3])
    """
    scaled = [weight / max(weights) for weight in weights]  # so that no sum or product leaves the range of a float
    exact = np.array([documents * weight / math.fsum(scaled) for weight in scaled])
    counts = np.floor(exact).astype(np.int64)
    largest_first = np.argsort(counts - exact, kind="stable")
    counts[largest_first[:documents - counts.sum()]] += 1
    return counts.tolist()


def draw(size: int, count: int, *, seed: int, entry: int, epoch: int) -> np.ndarray:
    """The documents of an entry in an epoch, int64 [count], ascending.

    They are items epoch * count to (epoch + 1) * count of its endless sequence: pass 0, pass 1, ..., each a permutation of
    0..size-1 that depends on (seed, entry, pass).
    """
    begin, end = epoch * count, (epoch + 1) * count
    passes = range(begin // size, -(-end // size))
    permutations = [np.random.RandomState(np.array([seed, entry, number], dtype=np.uint32)).permutation(size)
                    for number in passes]
    return np.sort(np.concatenate(permutations)[begin - passes.start * size:end - passes.start * size])


class Epochs:
    """The rows of an endless run over a selection."""

    def __init__(self, selection: Selection, *, seed: int, cache: Path | None = None) -> None:
        """DataError where an entry's share of an epoch is less than one document.

        Args:
            cache: folder where large packings are kept; None: nowhere.
        """
        self._selection, self._seed, self._cache = selection, seed, cache
        self.counts = _counts(selection)
        """Documents of each view in every epoch."""
        self.differ = self.counts != selection.sizes
        """Whether epochs have different documents, and with them different numbers of rows."""
        self._packed = functools.lru_cache(maxsize=2)(self._pack)
        self._plan = functools.lru_cache(maxsize=2)(self._make_plan)  # a step may reach into the next epoch
        self._ends = [0]

    def packing(self, epoch: int) -> Packing:
        """The packing of an epoch's documents."""
        return self._packed(epoch if self.differ else 0)[1]

    def rows(self, epoch: int) -> int:
        """Rows of one epoch."""
        if not self.differ:
            return self.packing(0).rows
        self._count_rows(epochs=epoch + 1)
        return self._ends[epoch + 1] - self._ends[epoch]

    def rows_of_first(self, epochs: float) -> float:
        """Rows of the first `epochs` epochs; of a part of one, that part of its rows."""
        if not self.differ:
            return epochs * self.rows(0)
        whole = math.floor(epochs)
        self._count_rows(epochs=whole)
        part = epochs - whole
        return self._ends[whole] + (part * self.rows(whole) if part else 0)

    def place(self, position: int) -> tuple[int, int]:
        """The epoch that row `position` of the run is in, and which of its rows that is."""
        if not self.differ:
            return divmod(position, self.rows(0))
        while self._ends[-1] <= position:
            self._count_rows(epochs=len(self._ends))
        epoch = bisect.bisect_right(self._ends, position) - 1
        return epoch, position - self._ends[epoch]

    def row(self, position: int) -> np.ndarray:
        """The documents in row `position` of the run, as indices of the selection, int64."""
        epoch, number = self.place(position)
        return self._plan(epoch).row(number)

    def _count_rows(self, *, epochs: int) -> None:
        while len(self._ends) <= epochs:
            self._ends.append(self._ends[-1] + self.packing(len(self._ends) - 1).rows)

    def _documents(self, epoch: int) -> np.ndarray:
        firsts = np.cumsum([0, *self._selection.sizes])
        drawn = [firsts[entry] + draw(size, count, seed=self._seed, entry=entry, epoch=epoch)
                 for entry, (size, count) in enumerate(zip(self._selection.sizes, self.counts, strict=True))]
        return np.concatenate(drawn)

    def _pack(self, epoch: int) -> tuple[np.ndarray, Packing]:
        documents = self._documents(epoch) if self.differ else np.arange(self._selection.documents)
        return documents, Packing(self._selection.positions[documents], self._selection.row_tokens, cache=self._cache)

    def _make_plan(self, epoch: int) -> Plan:
        documents, packing = self._packed(epoch if self.differ else 0)
        plan = packing.epoch(seed=self._seed, epoch=epoch)
        return Plan(documents[plan.documents], plan.starts)


def _counts(selection: Selection) -> list[int]:
    weights = [view.entry.weight for view in selection.views]
    if None in weights:
        return selection.sizes
    counts = shares_of(selection.documents, weights)
    for view, size, count in zip(selection.views, selection.sizes, counts, strict=True):
        if not size or not count:
            raise DataError(f"data: '{view.entry}' would never be read: {size} of its documents can be trained on, and its "
                            f"share of an epoch's {selection.documents} is {count}; raise its weight or leave it out")
        log.get().info("data: an epoch reads %d documents of '%s', which has %d", count, view.entry, size)
    return counts
