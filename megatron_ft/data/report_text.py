"""A dataset's documents as text that is safe to print, with what is supervised marked in it."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Literal

import numpy as np

from megatron_ft.data.indexed import Dataset
from megatron_ft.data.pairs import Pair
from megatron_ft.data.tokenizer import Tokenizer
from megatron_ft.errors import ConfigError

Colour = Literal["auto", "always", "never"]
COLOURS: tuple[Colour, ...] = ("auto", "always", "never")
GREEN, PLAIN = "\033[32m", "\033[0m"
OPENED, CLOSED = "⟦", "⟧"
"""Around what is supervised where there is no colour; rare in code and prose, unlike [ and <."""

# What moves the cursor, rings, starts an escape sequence, or turns the direction of what follows.
UNSAFE = [*range(0x20), *range(0x7f, 0xa0), 0x61c, 0x200e, 0x200f, *range(0x2028, 0x202f), *range(0x2066, 0x206a), 0xfeff]
ESCAPES = {code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" for code in UNSAFE if chr(code) not in "\t\n"}


def has_colour(wanted: Colour) -> bool:
    """Whether stdout gets colours; by itself where it is a terminal and NO_COLOR (https://no-color.org) is not set."""
    if wanted != "auto":
        return wanted == "always"
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def choose(dataset: Dataset | Pair, named: Sequence[int], *, at_random: int = 0, seed: int = 0) -> list[int]:
    """The documents to show: those that are named, then some drawn at random, in order."""
    for number in named:
        if not 0 <= number < dataset.documents:
            raise ConfigError(f"--document: {number} is not there; the dataset has documents 0 to {dataset.documents - 1}")
    if at_random < 0:
        raise ConfigError(f"--random: {at_random} documents cannot be shown")
    drawn = random.Random(seed).sample(range(dataset.documents), min(at_random, dataset.documents))
    return [*named, *sorted(drawn)]


def shown(dataset: Dataset | Pair, number: int, reader: Tokenizer, *, colour: bool, ids: bool = False) -> str:
    """A document, what is supervised in green or in brackets.

    Args:
        ids: a line per token, with its id.
    """
    tokens, supervised = dataset.document(number)
    supervised = supervised.copy()
    supervised[:1] = False  # nothing predicts a document's first token
    head = f"document {number}: {len(tokens):,} tokens, {supervised.sum():,} supervised\n"
    if ids:
        return head + "".join(_token_lines(tokens, supervised, reader, colour))
    return head + "".join(_marked(text, colour) if is_answer else text
                          for text, is_answer in _pieces(tokens, supervised, reader)) + "\n"


def escaped(text: str) -> str:
    r"""Text that cannot steer a terminal.

    >>> escaped("red: \x1b[31m, back: \r, \u202e\n")
    'red: \\x1b[31m, back: \\x0d, \\u202e\n'
    """
    return text.translate(ESCAPES)


def _pieces(ids: np.ndarray, supervised: np.ndarray, reader: Tokenizer) -> Iterator[tuple[str, bool]]:
    """The text in stretches, each with whether it is supervised. Special ids that have no text are named."""
    silent = [special for special in {*reader.begin, reader.end_of_text} if not reader.decode([special])]
    at_silent = np.flatnonzero(np.isin(ids, silent))
    cuts = np.concatenate([[0], np.flatnonzero(np.diff(supervised)) + 1, at_silent, at_silent + 1, [len(ids)]])
    begun = ""
    open_text, open_mode = "", False  # neighbours that are marked alike are one stretch
    for begin, end in pairwise(np.unique(cuts).tolist()):
        if ids[begin] in silent:
            text = f"<id {ids[begin]}>"
        else:
            whole = reader.decode(ids[:end].tolist())  # from the start: SentencePiece drops the space that opens a text
            text = whole[len(begun):] if whole.startswith(begun) else reader.decode(ids[begin:end].tolist())
            begun = whole
        if bool(supervised[begin]) != open_mode:
            yield open_text, open_mode
            open_text, open_mode = "", bool(supervised[begin])
        open_text += escaped(text)
    yield open_text, open_mode


def _marked(text: str, colour: bool) -> str:
    if not colour:
        return f"{OPENED}{text}{CLOSED}"
    return "\n".join(f"{GREEN}{line}{PLAIN}" if line else "" for line in text.split("\n"))  # pagers forget it at a line's end


def _token_lines(ids: np.ndarray, supervised: np.ndarray, reader: Tokenizer, colour: bool) -> Iterator[str]:
    yield f"{'token':>7} {'id':>7}  {'loss':<4}  text\n"
    before: list[int] = []
    for at, (token, is_answer) in enumerate(zip(ids.tolist(), supervised.tolist(), strict=True)):
        alone, both = reader.decode(before), reader.decode([*before, token])
        text = both[len(alone):] if both.startswith(alone) else reader.decode([token])
        line = f"{at:>7} {token:>7}  {'yes' if is_answer else '-':<4}  {text!r}"
        yield f"{GREEN}{line}{PLAIN}\n" if is_answer and colour else f"{line}\n"
        before = [token]
