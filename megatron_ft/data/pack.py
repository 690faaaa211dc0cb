"""Documents into rows. A pure function of lengths, row, seed and epoch: every rank computes the same plan by itself.

Lengths here are row *positions*. A document of n tokens takes n - 1 of them, because row position t holds token t and
is asked for token t + 1, and the last token is only asked for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from megatron_ft.data import pack_cache
from megatron_ft.errors import DataError

ALGORITHM = "best-fit-decreasing 1"
"""To be changed with the rows that `_pack_sorted` makes: caches of packings are kept under it."""
CACHED_FROM_DOCUMENTS = 100_000  # fewer are packed in less time than a shared file system takes to answer


def pack(lengths: Sequence[int], row: int) -> list[list[int]]:
    """Put documents into rows of `row` positions; each index appears exactly once (best-fit decreasing).

    The largest document goes first, each into the fullest row that still has room, else into a new row; equal lengths
    keep their order. A document longer than a row raises DataError: the caller drops or cuts it, and counts it.

    >>> pack([3, 2, 4, 1], row=5)
    [[2, 3], [0, 1]]
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(-lengths, kind="stable")
    return [[int(order[rank]) for rank in ranks] for ranks in _pack_sorted(lengths[order], row)]


def _pack_sorted(descending: np.ndarray, row: int) -> list[list[int]]:
    """`pack` for lengths that fall already, so that indices are ranks."""
    if len(descending) and descending[0] > row:
        raise DataError(f"a document takes {descending[0]} positions, a row has {row}; "
                        "drop it, cut it or use longer rows")
    if len(descending) and descending[-1] < 1:
        raise DataError(f"a document takes {descending[-1]} positions; one without anything to predict must be dropped")
    rows: list[list[int]] = []
    rows_by_room: list[list[int]] = [[] for _ in range(row + 1)]
    rooms = 0  # bit r is set while some row has room r: the best fit is the lowest bit from `length` up
    for rank, length in enumerate(descending.tolist()):
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            place = rows_by_room[room].pop()
            if not rows_by_room[room]:
                rooms ^= 1 << room
            rows[place].append(rank)
        else:
            room, place = row, len(rows)
            rows.append([rank])
        if room > length:
            rows_by_room[room - length].append(place)
            rooms |= 1 << (room - length)
    return rows


def _packed(descending: np.ndarray, row: int, cache: Path | None) -> tuple[np.ndarray, np.ndarray]:
    """Where each row starts, int64 [rows + 1], and the ranks of all rows, int64 [documents]; from the cache if it pays."""
    cached = cache is not None and len(descending) >= CACHED_FROM_DOCUMENTS
    key = pack_cache.key_of(ALGORITHM, row, descending) if cached else ""
    packed = pack_cache.read(cache, key) if cached else None
    if packed is None:
        rows = _pack_sorted(descending, row)
        counts = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
        ranks = np.fromiter((rank for ranks in rows for rank in ranks), dtype=np.int64, count=len(descending))
        packed = np.concatenate([[0], np.cumsum(counts), ranks]).astype(np.int64)
        if cached:
            pack_cache.write(cache, key, packed.astype(np.int32))
    starts, ranks = np.split(packed.astype(np.int64), [len(packed) - len(descending)])
    return starts, ranks


@dataclasses.dataclass(frozen=True)
class Plan:
    """Which documents are in which row of one epoch."""

    documents: np.ndarray
    """int64 [documents], row after row."""
    starts: np.ndarray
    """int64 [rows + 1]: row r holds documents[starts[r]:starts[r + 1]]."""

    def row(self, number: int) -> np.ndarray:
        """The documents of a row, int64."""
        return self.documents[self.starts[number]:self.starts[number + 1]]


class Packing:
    """The packing of a set of documents, and its shuffle for each epoch.

    Which rooms best fit leaves depends on the multiset of lengths alone. So documents are packed once, by rank in
    length, and an epoch deals documents of equal length anew to the ranks and shuffles the rows: every epoch has the
    same number of rows.
    """

    def __init__(self, lengths: np.ndarray, row: int, *, cache: Path | None = None) -> None:
        """Pack documents of `lengths` positions into rows of `row` positions.

        Args:
            cache: folder where large packings are kept (see `pack_cache`); None: nowhere.
        """
        self._lengths = np.asarray(lengths, dtype=np.int64)
        self._starts, self._ranks = _packed(-np.sort(-self._lengths), row, cache)
        self.rows = len(self._starts) - 1
        self.row_positions = row

    @property
    def fill(self) -> float:
        """Share of the rows' positions that hold a document."""
        return float(self._lengths.sum() / max(1, self.rows * self.row_positions))

    def in_order(self) -> Plan:
        """The packing without any shuffle: `pack`'s own rows."""
        order = np.argsort(-self._lengths, kind="stable")
        return Plan(order[self._ranks], self._starts)

    def epoch(self, *, seed: int, epoch: int) -> Plan:
        """The rows of an epoch, shuffled by (seed, epoch)."""
        # RandomState's streams are frozen for good; Generator's may change with numpy, and with them a resumed run.
        random = np.random.RandomState(np.array([seed, epoch], dtype=np.uint32))
        shuffled = random.permutation(len(self._lengths))
        by_rank = shuffled[np.argsort(-self._lengths[shuffled], kind="stable")]
        rows = random.permutation(self.rows)
        counts = np.diff(self._starts)[rows]
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        within = np.arange(len(self._ranks)) - np.repeat(starts[:-1], counts)
        return Plan(by_rank[self._ranks[np.repeat(self._starts[rows], counts) + within]], starts)
