"""Which rows have been there before: a hash table of 16 bytes a place, because a Python dict takes ten times that."""

from __future__ import annotations

import numpy as np

FULL = 0.8
"""Share of the places that are taken before their number doubles."""


class FirstRows:
    """Key -> the position that came first with it. Keys are 64-bit hashes, positions are 1 or more."""

    def __init__(self, *, places: int = 1 << 16) -> None:
        self._keys = np.zeros(places, dtype=np.uint64)
        self._positions = np.zeros(places, dtype=np.int64)  # 0: nobody is here
        self._taken = 0

    def first(self, keys: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """For each key the position that came first with it, which may be its own.

        Args:
            keys: uint64 [rows], in order.
            positions: int64 [rows].

        >>> table = FirstRows()
        >>> table.first(np.array([7, 9, 7], dtype=np.uint64), np.array([1, 2, 3])).tolist()
        [1, 2, 1]
        >>> table.first(np.array([9], dtype=np.uint64), np.array([4])).tolist()
        [2]
        """
        keys, firsts, inverse = np.unique(keys, return_index=True, return_inverse=True)
        while self._taken + len(keys) > FULL * len(self._keys):
            self._grow()
        return self._claim(keys, positions[firsts])[inverse]

    @property
    def bytes(self) -> int:
        """Memory of the table."""
        return self._keys.nbytes + self._positions.nbytes

    def _claim(self, keys: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """The same for keys that all differ. Linear probing, all keys at once."""
        found = np.zeros(len(keys), dtype=np.int64)
        places = self._place(keys)
        left = np.arange(len(keys))
        while len(left):
            here = places[left]
            is_free = self._positions[here] == 0
            claimants, winners = left[is_free], here[is_free]
            winners, who = np.unique(winners, return_index=True)  # two may want one place
            self._keys[winners], self._positions[winners] = keys[claimants[who]], positions[claimants[who]]
            self._taken += len(winners)
            is_mine = self._keys[here] == keys[left]
            found[left[is_mine]] = self._positions[here[is_mine]]
            left = left[~is_mine]
            places[left] = (places[left] + 1) % len(self._keys)
        return found

    def _place(self, keys: np.ndarray) -> np.ndarray:
        return (keys % np.uint64(len(self._keys))).astype(np.int64)

    def _grow(self) -> None:
        taken = self._positions != 0
        keys, positions = self._keys[taken], self._positions[taken]
        self.__init__(places=2 * len(self._keys))
        self._claim(keys, positions)
