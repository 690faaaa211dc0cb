"""Examples into the documents that a model is trained on; which tokens are supervised is decided here, by position."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from megatron_ft.data.example import Example, Segment, Special
from megatron_ft.data.indexed import INPUT, OUTPUT
from megatron_ft.data.templates import Template
from megatron_ft.data.tokenizer import Tokenizer


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


def render(examples: Sequence[Example], template: Template, tokenizer: Tokenizer) -> list[Document]:
    """The documents of some examples: the tokenizer's opening ids, the template's segments, one end-of-text token.

    The end-of-text token belongs to the last segment, so a model learns to stop where an answer ends.
    """
    drafts = [template.segments(example) for example in examples]
    ids_of = _encode_parts(drafts, tokenizer)
    return [_document(number, segments, ids_of, tokenizer) for number, segments in enumerate(drafts)]


Place = tuple[int, int, int]  # example, segment, part


def _encode_parts(drafts: list[list[Segment]], tokenizer: Tokenizer) -> dict[Place, list[int]]:
    """The ids of every part; all texts go to the tokenizer in two batches."""
    ids_of: dict[Place, list[int]] = {}
    texts: dict[bool, dict[Place, str]] = {True: {}, False: {}}
    for example, segments in enumerate(drafts):
        for number, segment in enumerate(segments):
            for at, part in enumerate(segment.parts):
                place = (example, number, at)
                if isinstance(part, Special):
                    ids_of[place] = [tokenizer.special(part.token)]
                else:
                    texts[number == at == 0][place] = part
    for first, batch in texts.items():
        encoded = tokenizer.encode_texts(list(batch.values()), first=first) if batch else []
        ids_of.update(zip(batch, encoded, strict=True))
    return ids_of


def _document(number: int, segments: list[Segment], ids_of: dict[Place, list[int]], tokenizer: Tokenizer) -> Document:
    ids_by_segment = [[index for at in range(len(segment.parts)) for index in ids_of[number, place, at]]
                      for place, segment in enumerate(segments)]
    modes = [OUTPUT if segment.supervised else INPUT for segment in segments]
    ids_by_segment[-1].append(tokenizer.end_of_text)
    if tokenizer.begin and modes[0] == INPUT:
        ids_by_segment[0][:0] = tokenizer.begin
    elif tokenizer.begin:  # nothing asks for the opening ids, not even where an answer opens the document
        ids_by_segment.insert(0, list(tokenizer.begin))
        modes.insert(0, INPUT)
    return Document(
        ids=np.array([index for ids in ids_by_segment for index in ids], dtype=np.int32),
        lengths=np.array([len(ids) for ids in ids_by_segment if ids], dtype=np.int32),
        modes=np.array([mode for mode, ids in zip(modes, ids_by_segment, strict=True) if ids], dtype=np.int8))
