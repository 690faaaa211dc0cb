"""What must not be in training data: the passages of a benchmark, found by the n-grams of their words.

Words are identifiers, numbers and words of prose, in lower case: layout, brackets, quotes and comment signs do not
count, so a solution is found however it is formatted, and a docstring in whatever comment.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from megatron_ft.curation.stream import Source
from megatron_ft.curation.texts import WORD, Hasher, ngrams, strings
from megatron_ft.data.rows import Row, rows_of
from megatron_ft.errors import ConfigError, DataError, MegatronFTError

FIELDS = ("canonical_solution", "buggy_solution", "docstring", "test")
"""HumanEvalPack's fields that belong to one problem alone. `prompt` is the docstring and a declaration (in C++ and Rust
under forty words of includes, which every program may have), `instruction` repeats the docstring."""
CONTEXTS = {"canonical_solution": ("declaration", "canonical_solution"), "buggy_solution": ("declaration", "buggy_solution"),
            "docstring": ("prompt",)}
"""The fields in which a short passage stands beside the signature of its function."""
HASHER = Hasher()


HUMANEVALPACK = tuple(f"bigcode/humanevalpack:{language}" for language in ("python", "js", "java", "go", "cpp", "rust"))
"""Where the hub has it."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """When a row counts as holding a passage."""

    benchmark: tuple[str, ...]
    """Files; see `inputs.find`. Of a dataset with splits, the split `test`."""
    fields: tuple[str, ...] = FIELDS
    ngram: int = 5
    """Words in an n-gram."""
    threshold: float = 0.4
    """Least share of a passage's n-grams in a row."""
    min_words: int = 8
    """A shorter passage says nothing about where it comes from ("return x + y"). Fewer n-grams than this in common say
    nothing either, unless they are the whole passage."""

    def check(self) -> None:
        """ConfigError for what cannot work."""
        if self.ngram < 1:
            raise ConfigError(f"--ngram: {self.ngram} words are no n-gram; use 1 or more")
        if self.min_words < self.ngram:
            raise ConfigError(f"--min-words: {self.min_words} is below --ngram {self.ngram}, and such a passage has no n-gram; "
                              "raise the one or lower the other")
        if not 0 < self.threshold <= 1:
            raise ConfigError(f"--threshold: {self.threshold:g} is not above 0 and up to 1; it is a share of a passage")


@dataclasses.dataclass(frozen=True)
class Passage:
    """A text of a problem."""

    task_id: str
    field: str
    grams: np.ndarray
    """Its distinct n-grams, sorted, uint64."""
    needed: int
    """How many of them a row must have."""


@dataclasses.dataclass(frozen=True)
class Hit:
    """A passage in a row."""

    task_id: str
    field: str
    share: float
    """Of the passage's n-grams."""
    text: str
    """The longest stretch of the row that is in the passage."""


class BenchmarkIndex:
    """The passages of a benchmark, to be looked for in rows."""

    def __init__(self, settings: Settings) -> None:
        settings.check()
        self._n = settings.ngram
        self.passages: list[Passage] = []
        self.short: list[dict[str, Any]] = []
        """The passages that are too short to be looked for: {"task_id", "field", "words"}."""
        try:
            source = Source(settings.benchmark, split="test")
        except MegatronFTError as error:
            raise type(error)(str(error).replace("--input", "--benchmark")) from error
        problems = _problems(source, settings.fields)
        self.problems = len(problems)
        self.files = source.describe()
        for row in problems:
            self._add(row, settings)
        if not self.passages:
            raise DataError(f"--benchmark: no text of its {self.problems} problems has {settings.min_words} words; "
                            "lower --min-words")
        sizes = [len(passage.grams) for passage in self.passages]
        grams = np.concatenate([passage.grams for passage in self.passages])
        order = np.argsort(grams, kind="stable")
        self._grams, self._owners = grams[order], np.repeat(np.arange(len(sizes)), sizes)[order]

    def find(self, texts: Sequence[str]) -> list[Hit]:
        """The passages in a row's texts, the largest share first, one of each problem."""
        grams = [ngrams(HASHER.words(WORD.findall(text)), self._n) for text in texts]
        present = np.unique(np.concatenate(grams)) if grams else np.zeros(0, dtype=np.uint64)
        first, last = (np.searchsorted(self._grams, present, side) for side in ("left", "right"))
        owners = [self._owners[begin:end] for begin, end in zip(first, last, strict=True) if begin < end]
        if not owners:
            return []
        counts = np.bincount(np.concatenate(owners), minlength=len(self.passages))
        found = [(counts[number] / len(passage.grams), passage) for number, passage in enumerate(self.passages)
                 if counts[number] >= passage.needed]
        best: dict[str, Hit] = {}
        for share, passage in sorted(found, key=lambda each: -each[0]):
            if passage.task_id not in best:
                best[passage.task_id] = Hit(passage.task_id, passage.field, round(float(share), 4),
                                            _excerpt(texts, grams, passage.grams, self._n))
        return list(best.values())

    def _add(self, row: Row, settings: Settings) -> None:
        task_id = str(row.value.get("task_id", row.source))
        for field in settings.fields:
            words = _words(row.value.get(field))
            count = len(words)
            if count < settings.min_words:
                words = with_signature(words, _words(row.value.get("signature")),
                                       [word for name in CONTEXTS.get(field, ()) for word in _words(row.value.get(name))])
            if len(words) < settings.min_words:
                self.short += [{"task_id": task_id, "field": field, "words": count}] if count else []
                continue
            grams = np.unique(ngrams(HASHER.words(words), self._n))
            needed = max(settings.min_words, math.ceil(settings.threshold * len(grams)))
            self.passages.append(Passage(task_id, field, grams, min(needed, len(grams))))


def with_signature(words: list[str], signature: list[str], context: list[str]) -> list[str]:
    """The shortest stretch of `context` with a passage and its function's signature in it; the words if there is none.

    >>> with_signature(["return", "x"], ["f", "x", "int"], "import y def f x int return x".split())
    ['f', 'x', 'int', 'return', 'x']
    """
    spans = [(begin, begin + len(signature), place, place + len(words)) for begin in _places(signature, context)
             for place in _places(words, context)]
    stretches = [(max(span) - min(span), min(span), max(span)) for span in spans]
    if not words or not signature or not stretches:
        return words
    _, begin, end = min(stretches)
    return context[begin:end]


def _problems(source: Source, fields: Sequence[str]) -> list[Row]:
    """All problems; DataError for a file that holds none, or none with one of the fields."""
    of_file: dict[str, list[Row]] = {file.path: [] for file in source.files}
    for chunk in source.chunks():
        for row in rows_of(chunk):
            if row.error is not None:
                raise DataError(f"--benchmark: {row.error}")
            of_file[chunk.path].append(row)
    for path, rows in of_file.items():
        if not rows:
            raise DataError(f"--benchmark: {path} holds no problem; one JSON object a line is expected")
        if not any(name in row.value for row in rows for name in fields):
            raise DataError(f"--benchmark: {path} has none of the fields {', '.join(fields)}; its own are "
                            f"{', '.join(rows[0].value)}: name those that training must not see with --fields")
    return [row for rows in of_file.values() for row in rows]


def _words(value: Any) -> list[str]:
    return [word for text in strings(value) for word in WORD.findall(text)]


def _places(part: list[str], whole: list[str]) -> list[int]:
    return [at for at in range(len(whole) - len(part) + 1) if whole[at:at + len(part)] == part]


def _excerpt(texts: Sequence[str], grams: Sequence[np.ndarray], wanted: np.ndarray, n: int) -> str:
    """The longest stretch of one of the texts whose n-grams are all wanted."""
    best = (0, 0, 0)  # n-grams, number of the text, where
    for number, each in enumerate(grams):
        run = 0
        for at, is_wanted in enumerate(np.isin(each, wanted).tolist()):
            run = run + 1 if is_wanted else 0
            best = max(best, (run, number, at - run + 1), key=lambda one: one[0])
    run, number, at = best
    spans = [match.span() for match in WORD.finditer(texts[number])]
    return texts[number][spans[at][0]:spans[at + run + n - 2][1]]


@functools.lru_cache(maxsize=1)
def index(settings: Settings) -> BenchmarkIndex:
    """Built once per process."""
    return BenchmarkIndex(settings)
