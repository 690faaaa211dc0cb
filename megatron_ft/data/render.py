"""Examples into the documents that a model is trained on; which tokens are supervised is decided here, by position."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from megatron_ft.data.example import Example, Mark, Segment
from megatron_ft.data.indexed import INPUT, OUTPUT
from megatron_ft.data.templates import Template
from megatron_ft.data.tokenizer import Tokenizer

LossOn = Literal["answers", "last-answer", "all"]
LOSS_ON: tuple[LossOn, ...] = ("answers", "last-answer", "all")

FIRST_TEXT, LATER_TEXT = -1, -2  # codes of parts that are text; an id is its own code


@dataclasses.dataclass(frozen=True)
class Document:
    """The tokens of one example, segment after segment."""

    ids: np.ndarray
    """int32 [n]."""
    lengths: np.ndarray
    """int32 [segments]: tokens of each; none is 0."""
    modes: np.ndarray
    """int8 [segments]: INPUT or OUTPUT."""

    @property
    def supervised(self) -> int:
        """Tokens that a loss is taken on; the first token of a document is predicted by nothing."""
        return int(self.lengths[self.modes == OUTPUT].sum()) - int(self.modes[0] == OUTPUT)

    def cut(self, tokens: int) -> Document:
        """The first `tokens` tokens.

        >>> document = Document(np.arange(5), np.array([2, 3]), np.array([0, 1])).cut(4)
        >>> document.ids.tolist(), document.lengths.tolist()
        ([0, 1, 2, 3], [2, 2])
        """
        before = np.cumsum(self.lengths) - self.lengths
        lengths = np.clip(tokens - before, 0, self.lengths)
        return Document(self.ids[:tokens], lengths[lengths > 0], self.modes[lengths > 0])


@dataclasses.dataclass(frozen=True)
class Documents(Sequence[Document]):
    """Documents end to end, as they are written."""

    ids: np.ndarray
    """int32 [tokens]."""
    lengths: np.ndarray
    """int32 [segments]."""
    modes: np.ndarray
    """int8 [segments]."""
    segments: np.ndarray
    """int64 [documents]: segments of each."""

    @classmethod
    def join(cls, documents: Sequence[Document]) -> Documents:
        """Some documents, in that order."""
        def joined(name: str, dtype: type) -> np.ndarray:
            return np.concatenate([np.empty(0, dtype), *(getattr(document, name) for document in documents)])

        return cls(ids=joined("ids", np.int32), lengths=joined("lengths", np.int32), modes=joined("modes", np.int8),
                   segments=np.array([len(document.lengths) for document in documents], dtype=np.int64))

    @property
    def tokens(self) -> np.ndarray:
        """int64 [documents]: tokens of each."""
        return _sums(self.lengths, self.segments)

    @property
    def supervised(self) -> np.ndarray:
        """int64 [documents]: tokens of each that a loss is taken on."""
        firsts = np.cumsum(self.segments) - self.segments
        return _sums(self.lengths * (self.modes == OUTPUT), self.segments) - (self.modes[firsts] == OUTPUT)

    def __len__(self) -> int:
        return len(self.segments)

    def __getitem__(self, number: int) -> Document:  # type: ignore[override]
        return next(self._between(range(len(self))[number], 1))

    def __iter__(self) -> Iterator[Document]:
        return self._between(0, len(self))

    def _between(self, first: int, count: int) -> Iterator[Document]:
        segment = int(self.segments[:first].sum())
        token = int(self.lengths[:segment].sum())
        for segments in self.segments[first:first + count].tolist():
            lengths = self.lengths[segment:segment + segments]
            tokens = int(lengths.sum())
            yield Document(self.ids[token:token + tokens], lengths, self.modes[segment:segment + segments])
            segment, token = segment + segments, token + tokens


def render(examples: Sequence[Example], template: Template, tokenizer: Tokenizer, *,
           loss_on: LossOn = "answers") -> Documents:
    """The documents of some examples: the tokenizer's opening ids, then what the template writes.

    Args:
        loss_on: every answer (with what closes it), the last one alone, or everything but the opening ids.
    """
    return tokenize([template.segments(example) for example in examples], tokenizer, loss_on=loss_on)


def tokenize(drafts: Sequence[Sequence[Segment]], tokenizer: Tokenizer, *, loss_on: LossOn = "answers") -> Documents:
    """The documents of some examples that a template has worded; see `render`."""
    draft = _Draft(tokenizer)
    for segments in drafts:
        draft.add(segments, loss_on)
    return draft.documents()


class _Draft:
    """Documents as a list of parts; all their texts go to the tokenizer in two batches."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._codes: list[int] = []
        self._texts: dict[int, list[str]] = {FIRST_TEXT: [], LATER_TEXT: []}
        self._parts: list[int] = []  # per segment
        self._modes: list[int] = []
        self._segments: list[int] = []  # per document

    def add(self, segments: Sequence[Segment], loss_on: LossOn) -> None:
        """One more document."""
        modes = _modes(segments, loss_on)
        begin, already = self._tokenizer.begin, len(self._modes)
        self._codes += begin
        opening = len(begin)
        if begin and modes[0] == OUTPUT:  # nothing asks for the opening ids, not even where an answer opens the document
            self._close(opening, INPUT)
            opening = 0
        code_of_text = FIRST_TEXT
        for segment, mode in zip(segments, modes, strict=True):
            at = len(self._codes) - opening
            for part in segment.parts:
                if isinstance(part, str):
                    self._texts[code_of_text].append(part)
                    self._codes.append(code_of_text)
                elif part is Mark.BEGIN or part is Mark.OPENING:
                    self._codes += begin if part is Mark.BEGIN else []
                    code_of_text = FIRST_TEXT
                    continue
                else:
                    end = self._tokenizer.end_of_text
                    if part is Mark.END and self._codes and self._codes[-1] == end:
                        continue  # the template's end of a turn is the end of the text too
                    self._codes.append(end if part is Mark.END else self._tokenizer.special(part.token))
                code_of_text = LATER_TEXT
            self._close(len(self._codes) - at, mode)
            opening = 0
        self._segments.append(len(self._modes) - already)

    def documents(self) -> Documents:
        """All of them."""
        codes = np.array(self._codes, dtype=np.int64)
        part_tokens = np.ones(len(codes), dtype=np.int64)
        encoded = {}
        for code, texts in self._texts.items():
            encoded[code], part_tokens[codes == code] = self._tokenizer.encode_flat(texts, first=code == FIRST_TEXT)
        codes_by_token = np.repeat(codes, part_tokens)
        ids = codes_by_token.astype(np.int32)
        for code, flat in encoded.items():
            ids[codes_by_token == code] = flat
        lengths = _sums(part_tokens, np.array(self._parts, dtype=np.int64))
        filled = lengths > 0
        return Documents(ids=ids, lengths=lengths[filled].astype(np.int32),
                         modes=np.array(self._modes, dtype=np.int8)[filled],
                         segments=_sums(filled, np.array(self._segments, dtype=np.int64)))

    def _close(self, parts: int, mode: int) -> None:
        self._parts.append(parts)
        self._modes.append(mode)


def _modes(segments: Sequence[Segment], loss_on: LossOn) -> list[int]:
    if loss_on == "all":
        return [OUTPUT] * len(segments)
    modes = [OUTPUT if segment.supervised else INPUT for segment in segments]
    if loss_on == "last-answer":
        last = max((at for at, mode in enumerate(modes) if mode == OUTPUT), default=0)
        modes[:last] = [INPUT] * last
    return modes


def _sums(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Sums of successive groups of values, int64.

    >>> _sums(np.array([1, 2, 4]), np.array([2, 0, 1])).tolist()
    [3, 0, 4]
    """
    running = np.concatenate([[0], np.cumsum(values, dtype=np.int64)])
    ends = np.cumsum(counts, dtype=np.int64)
    return running[ends] - running[ends - counts]
