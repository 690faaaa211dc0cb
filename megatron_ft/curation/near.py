"""Which kept row a row is nearly the same as: candidates by MinHash and LSH (datasketch), decided by their n-grams.

A row is compared with kept rows only, so what is dropped is always as similar as said to a row that is still there
(clusters joined by chains can hold rows that have nothing in common).
"""

from __future__ import annotations

import array
import functools
import math
import tempfile
from pathlib import Path

import numpy as np
from datasketch import LeanMinHash, MinHash, MinHashLSH

from megatron_ft.curation.texts import WORD_OR_SIGN, Hasher, ngrams

PERMUTATIONS = 128
RECALL = 0.99
LOWEST_THRESHOLD = 0.5
"""Below, too many rows would be candidates for too many."""
SEED = 1
HASHER = Hasher()


def bands_for(threshold: float) -> tuple[int, int]:
    """(bands, rows of each): the largest bands, so fewest false candidates, that find a pair at the threshold with 99%.

    A pair of Jaccard similarity s shares a band with probability 1 - (1 - s**rows)**bands.

    >>> bands_for(0.85), bands_for(0.5)
    ((15, 8), (35, 3))
    """
    for rows in range(PERMUTATIONS, 0, -1):
        chance = threshold**rows
        bands = 2 if chance == 1 else max(2, math.ceil(math.log(1 - RECALL) / math.log1p(-chance)))  # datasketch's least
        if bands * rows <= PERMUTATIONS:
            return bands, rows
    raise AssertionError(threshold)


def recall(threshold: float, similarity: float) -> float:
    """The share of pairs of a similarity that become candidates."""
    bands, rows = bands_for(threshold)
    return 1 - (1 - similarity**rows)**bands


def gram_set(texts: list[str], n: int) -> np.ndarray:
    """The distinct n-grams of words and signs in the texts, in lower case, sorted, uint64; a shorter text counts as one.

    >>> len(gram_set(["a = b + c"], 5)), len(gram_set(["A=b\\n+ c", "d"], 4))
    (1, 3)
    """
    grams = []
    for text in texts:
        words = HASHER.words(WORD_OR_SIGN.findall(text))
        if len(words):
            grams.append(ngrams(words, min(n, len(words))))
    return np.unique(np.concatenate(grams)) if grams else np.zeros(0, dtype=np.uint64)


def signature(grams: np.ndarray, permutations: int) -> np.ndarray:
    """A set's MinHash, uint32 [permutations]."""
    minhash = _empty(permutations).copy()
    minhash.update_batch((grams >> np.uint64(32)).tolist())
    return minhash.hashvalues


def jaccard(one: np.ndarray, other: np.ndarray) -> float:
    """Size of the intersection over that of the union of two sets, sorted arrays without repetition.

    >>> jaccard(np.array([1, 2, 3]), np.array([2, 3, 4]))
    0.5
    """
    if not len(one) and not len(other):
        return 1.0
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared / (len(one) + len(other) - shared)


class KeptRows:
    """The kept rows, to be asked for one that is like another.

    Their n-grams, which decide, lie in a temporary file in `folder` that nobody sees; in memory is the LSH index alone.
    """

    def __init__(self, threshold: float, *, folder: Path) -> None:
        self._threshold = threshold
        bands, rows = bands_for(threshold)
        self._index = MinHashLSH(params=(bands, rows), num_perm=bands * rows)
        self._positions, self._offsets = array.array("q"), array.array("q", [0])
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by close()

    def find(self, grams: np.ndarray, values: np.ndarray) -> tuple[int, float] | None:
        """(position, similarity) of the most similar kept row, the first of equals; None if none reaches the threshold.

        Args:
            values: the set's MinHash.
        """
        best = None
        for number in sorted(self._index.query(_lean(values))):
            size = (self._offsets[number + 1] - self._offsets[number]) // 8
            if min(size, len(grams)) < self._threshold * max(size, len(grams)):
                continue  # even if one holds the other
            similarity = jaccard(grams, self._read(number, size))
            if similarity >= self._threshold and (best is None or similarity > best[1]):
                best = self._positions[number], similarity
        return best

    def add(self, position: int, grams: np.ndarray, values: np.ndarray) -> None:
        """Keep a row."""
        self._index.insert(len(self._positions), _lean(values), check_duplication=False)
        self._positions.append(position)
        self._file.seek(self._offsets[-1])
        self._file.write(grams.tobytes())
        self._offsets.append(self._offsets[-1] + grams.nbytes)

    def close(self) -> None:
        """Give the temporary file back."""
        self._file.close()

    def _read(self, number: int, size: int) -> np.ndarray:
        self._file.seek(self._offsets[number])
        return np.frombuffer(self._file.read(8 * size), dtype=np.uint64)


@functools.lru_cache(maxsize=1)
def _empty(permutations: int) -> MinHash:
    return MinHash(num_perm=permutations, seed=SEED, hashfunc=int)


def _lean(values: np.ndarray) -> LeanMinHash:
    return LeanMinHash(seed=SEED, hashvalues=values, scheme=_empty(len(values)).scheme)
