"""The text of an answer while it is written: every look decodes the new tokens and a few before them, never the whole."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CONTEXT = 16  # tokens before a piece of text that can matter to how it is decoded
CUT_CHARACTER = "\ufffd"  # what the first bytes of a character are decoded to, as long as the others are missing
CHARACTER_TOKENS = 4  # a character has up to four bytes, so up to three tokens wait for the one that ends it
LINE_BEGUN = re.compile(r"\n\S")


def text_of(tokenizer: PreTrainedTokenizerBase, before: Sequence[int], new: Sequence[int]) -> str:
    """What new tokens add to a text; decoded after those before, as SentencePiece drops the space of a first word."""
    context = list(before[-CONTEXT:])
    added = _added(tokenizer, context, new)
    return _decode(tokenizer, new) if added is None else added


class GrowingText:
    """The text of tokens that come in portions.

    `text` lacks the bytes of a character whose last one is missing. What stands before them does not depend on what follows,
    as UTF-8 is read from left to right, so the cost is linear in the tokens. (Not so where bytes make no character at all:
    SentencePiece then gives up the whole run that they are in, and everything is decoded once more.)
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, before: Sequence[int]) -> None:
        """Args:
            before: the prompt.
        """
        self.text = ""
        self._tokenizer = tokenizer
        self._before = list(before[-CONTEXT:])
        self._tokens: list[int] = []
        self._decoded = 0

    def add(self, tokens: Sequence[int]) -> None:
        """Take the tokens that were written since the last time."""
        self._tokens += tokens
        context = (self._before + self._tokens[max(0, self._decoded - CONTEXT):self._decoded])[-CONTEXT:]
        for end in range(len(self._tokens), max(len(self._tokens) - CHARACTER_TOKENS, self._decoded - 1), -1):
            added = _added(self._tokenizer, context, self._tokens[self._decoded:end])
            if added is not None and not added.endswith(CUT_CHARACTER):
                self._decoded = end
                self.text += added
                return
        self._decoded = len(self._tokens)
        self.text = text_of(self._tokenizer, self._before, self._tokens)


def is_over(is_complete: Callable[[str], bool], text: str, seen: int) -> bool:
    """Whether whatever follows would be cut off: now, or already where a line began since `seen` characters.

    The rules of most languages look at the first character of the last line, so a look between two such places sees nothing.
    """
    begun = [found.end() for found in LINE_BEGUN.finditer(text, max(seen - 1, 0))]
    return any(is_complete(text[:at]) for at in dict.fromkeys((*begun, len(text))))


def _added(tokenizer: PreTrainedTokenizerBase, context: list[int], new: Sequence[int]) -> str | None:
    """The text of tokens after others; None where they change how those are decoded."""
    before, whole = _decode(tokenizer, context), _decode(tokenizer, [*context, *new])
    return whole[len(before):] if whole.startswith(before) else None


def _decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    return tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
