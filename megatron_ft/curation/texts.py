"""The texts of a row that a comparison looks at, and the words and n-grams in them."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from megatron_ft.data import kinds
from megatron_ft.data.example import RowError
from megatron_ft.data.rows import Row

ALL = "all"
WORD = re.compile(r"\w+")
WORD_OR_SIGN = re.compile(r"\w+|[^\w\s]")


def texts_of(row: Row, fields: Sequence[str] = (), *, kind: str | None = None) -> list[str]:
    """The texts of a row.

    Args:
        fields: whose strings to take, at any depth, in this order; `all` are all of the row's, by the names of its
            keys. Without any it is what the row is trained on: of each turn of its example the context and the text.
        kind: see `kinds.to_example`; only where there are no fields.

    >>> texts_of(Row("f:1", {"id": "x", "output": "4", "instruction": "Add.", "input": "2, 2"}, None))
    ['2, 2', 'Add.', '', '4']
    >>> texts_of(Row("f:1", {"id": "x", "tags": ["a", "b"], "n": 1}, None), ["all"])
    ['x', 'a', 'b']
    """
    if not fields:
        return [text for turn in kinds.to_example(row.value, kind=kind, source=row.source).turns
                for text in (turn.context, turn.text)]
    if ALL in fields:
        return list(strings(row.value))
    missing = [name for name in fields if name not in row.value]
    if missing:
        raise RowError("field missing", f"{row.source}: has no '{missing[0]}', which --fields names; its keys are "
                       f"{', '.join(row.value)}")
    return [text for name in fields for text in strings(row.value[name])]


def strings(value: Any) -> Iterator[str]:
    """All strings in a JSON value; of objects in the order of their keys' names, so that the order in the file is no
    difference."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key in sorted(value):
            yield from strings(value[key])
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)


def tidy(text: str) -> str:
    r"""Without what no reader sees: kinds of line breaks, spaces at line ends, blank lines around, Unicode's spellings.

    Indentation, upper and lower case, and blank lines inside stay: in code they can be the difference.

    >>> tidy("\n  if x:  \r\n    y\n\n")
    '  if x:\n    y'
    """
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    lines = [line.rstrip() for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n")]
    return "\n".join(lines).strip("\n")


def text_key(texts: Sequence[str]) -> int:
    """64 bits that are equal for equal tidied texts. Of 100 million different rows, two share theirs once in 3700 runs."""
    digest = hashlib.blake2b(digest_size=8)
    for text in texts:
        data = tidy(text).encode("utf-8", "surrogatepass")
        digest.update(b"%d:" % len(data))
        digest.update(data)
    return int.from_bytes(digest.digest(), "little")


class Hasher(dict[str, int]):
    """The 64-bit hash of a word in lower case, the same in every process; remembers the common ones."""

    REMEMBERED = 1 << 19

    def __missing__(self, word: str) -> int:
        if len(self) >= self.REMEMBERED:
            self.clear()
        digest = hashlib.blake2b(word.casefold().encode("utf-8", "surrogatepass"), digest_size=8).digest()
        self[word] = value = int.from_bytes(digest, "little")
        return value

    def words(self, words: Sequence[str]) -> np.ndarray:
        """Their hashes, uint64 [words]."""
        return np.fromiter(map(self.__getitem__, words), dtype=np.uint64, count=len(words))


FACTOR = np.uint64(0x9E3779B97F4A7C15)
MIX = np.uint64(0xD6E8FEB86659FD93)


def ngrams(words: np.ndarray, n: int) -> np.ndarray:
    """The hashes of the n-grams at each place, uint64 [words - n + 1]; none if there are fewer words than n.

    Args:
        words: uint64, one hash per word.

    >>> grams = ngrams(Hasher().words("a b c a b".split()), 2)
    >>> len(grams), len(set(grams.tolist()))
    (4, 3)
    """
    count = len(words) - n + 1
    if count <= 0:
        return words[:0]
    grams = np.full(count, n, dtype=np.uint64)
    for at in range(n):  # a polynomial in FACTOR, modulo 2**64
        grams = grams * FACTOR + words[at:at + count]
    grams = (grams ^ (grams >> np.uint64(32))) * MIX  # else the low bits depend on the last words alone
    return grams ^ (grams >> np.uint64(32))
