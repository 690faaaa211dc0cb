"""One reading of a .bin from end to end: its hash, and what is found in it on the way, by blocks of whole documents."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

from megatron_ft import log

BLOCK_TOKENS = 1 << 15
"""At a time; a longer document is a block of its own. Arrays of more than 256 KiB come from the system each time, and half
of the speed goes there."""
WEIGHTS = 1 << 16


@dataclasses.dataclass
class Scan:
    """What was found. Memory: 8 bytes a document, and 8 for each that breaks a rule."""

    sha256: str
    strange_ids: int
    """Tokens below 0 or not below the vocabulary."""
    first_strange: tuple[int, int] | None
    """The first such id and its document."""
    unended: np.ndarray
    """int64: documents whose last token is not the end of text."""
    unopened: np.ndarray
    """int64: documents that do not begin with the opening ids."""
    used: np.ndarray
    """bool [vocabulary]: the ids that occur."""
    fingerprints: np.ndarray
    """uint64 [documents]: equal for equal ids, and else different, but for one pair in 2**64."""


def scan(tokens: np.ndarray, lengths: np.ndarray, *, vocabulary: int, end_of_text: int, opening: Sequence[int],
         label: str) -> Scan:
    """Read all tokens once.

    Args:
        tokens: of all documents, left on disk.
        lengths: tokens of each document.
        opening: ids that every document should begin with.
        label: for the progress bar.
    """
    hasher = _Fingerprints(vocabulary)
    digest = hashlib.sha256()
    found = Scan("", 0, None, _NONE, _NONE, np.zeros(vocabulary, dtype=bool), np.empty(len(lengths), dtype=np.uint64))
    unended, unopened = [_NONE], [_NONE]
    begins = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    with log.progress(total=tokens.nbytes, unit="B", label=label, scale=True) as bar:
        for first, last in _blocks(begins):
            block = np.ascontiguousarray(tokens[begins[first]:begins[last]])
            places, sizes = begins[first:last] - begins[first], lengths[first:last]
            digest.update(block.data)
            bar.update(block.nbytes)
            if block.min() < 0 or block.max() >= vocabulary:
                strange = np.flatnonzero((block < 0) | (block >= vocabulary))
                found.strange_ids += len(strange)
                if found.first_strange is None:
                    document = first + int(np.searchsorted(places, strange[0], "right")) - 1
                    found.first_strange = int(block[strange[0]]), document
                block = np.clip(block, 0, vocabulary - 1)
            found.used[block] = True
            unended.append(first + np.flatnonzero(block[places + sizes - 1] != end_of_text))
            unopened.append(first + np.flatnonzero(~_begin_with(block, places, sizes, opening)))
            found.fingerprints[first:last] = hasher.of(block, places, sizes)
    found.sha256, found.unended, found.unopened = digest.hexdigest(), np.concatenate(unended), np.concatenate(unopened)
    return found


_NONE = np.empty(0, dtype=np.int64)


def _blocks(begins: np.ndarray) -> Iterator[tuple[int, int]]:
    """Documents first:last that are to be read together."""
    first, documents = 0, len(begins) - 1
    while first < documents:
        fitting = int(np.searchsorted(begins, begins[first] + BLOCK_TOKENS, "right")) - 1
        last = max(first + 1, min(fitting, documents))
        yield first, last
        first = last


def _begin_with(block: np.ndarray, places: np.ndarray, sizes: np.ndarray, opening: Sequence[int]) -> np.ndarray:
    """bool [documents of the block]."""
    do = sizes >= len(opening)
    for offset, token in enumerate(opening):
        do &= block[np.minimum(places + offset, len(block) - 1)] == token
    return do


class _Fingerprints:
    """Sums of products of one random number for the id and one for its place in the document, modulo 2**64."""

    def __init__(self, vocabulary: int) -> None:
        random = np.random.RandomState(20)
        whole = 2**64 - 1
        self._of_id = random.randint(1, whole, size=vocabulary, dtype=np.uint64)
        self._of_place = random.randint(1, whole, size=WEIGHTS, dtype=np.uint64) | np.uint64(1)  # odd: no bit is lost

    def of(self, block: np.ndarray, places: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """uint64 [documents of the block]."""
        at = np.arange(len(block)) - np.repeat(places, sizes)
        # A place beyond WEIGHTS has the weight of one before, mixed with how often the table was passed through.
        weights = self._of_place[at & (WEIGHTS - 1)]
        if len(at) and sizes.max() > WEIGHTS:
            weights = weights * (2 * (at // WEIGHTS).astype(np.uint64) + np.uint64(1))
        return np.add.reduceat(self._of_id[block] * weights, places)


def copies(fingerprints: np.ndarray) -> tuple[int, tuple[int, int] | None]:
    """How many documents equal an earlier one, and the first pair of equals.

    >>> copies(np.array([5, 7, 5, 7, 5], dtype=np.uint64))
    (3, (0, 2))
    """
    ordered = np.sort(fingerprints)
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    if not len(repeated):
        return 0, None
    several = np.unique(repeated)
    for first in range(0, len(fingerprints), 1 << 20):
        block = fingerprints[first:first + (1 << 20)]
        at = np.minimum(np.searchsorted(several, block), len(several) - 1)
        hits = np.flatnonzero(several[at] == block)
        if len(hits):
            one = first + int(hits[0])
            other = one + 1 + int(np.flatnonzero(fingerprints[one + 1:] == fingerprints[one])[0])
            return len(repeated), (one, other)
    raise AssertionError("a repeated fingerprint is among the fingerprints")
