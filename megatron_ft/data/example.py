"""The words of this package: an example is text, a segment is the part of a document with one loss rule."""

from __future__ import annotations

import dataclasses
import enum
from typing import Literal

from megatron_ft.errors import DataError

Role = Literal["system", "user", "assistant"]


@dataclasses.dataclass(frozen=True)
class Turn:
    """What one side says."""

    role: Role
    text: str
    context: str = ""
    """What a user's instruction is about and is not the instruction itself: code to change, Alpaca's `input`."""


@dataclasses.dataclass(frozen=True)
class Example:
    """One record of training data, as text: user and assistant in turn, perhaps after a system prompt; or a bare text."""

    turns: tuple[Turn, ...]
    """At most one system turn, at the front; then user, assistant, user ... The last turn is the assistant's. A bare text is
    a single turn, the assistant's."""
    source: str = ""
    """Where it was read, `file:line`; for messages."""
    kind: str = dataclasses.field(default="", compare=False)
    """What kind of row it was; see `kinds`."""

    @classmethod
    def pair(cls, inputs: str, outputs: str, *, context: str = "", source: str = "") -> Example:
        """One instruction and its answer.

        >>> [turn.role for turn in Example.pair("1 + 1?", "2").turns]
        ['user', 'assistant']
        """
        return cls((Turn("user", inputs, context), Turn("assistant", outputs)), source)

    @property
    def bare_text(self) -> str | None:
        """The text, where there is nothing but a text: nobody asks for it."""
        return self.turns[0].text if len(self.turns) == 1 else None


class RowError(DataError):
    """A row that is no example, or none for the template. `reason` is the short form that rows are counted under."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{message}; drop the row or pass --on-bad-row=skip (skipped rows are counted by reason)")
        self.reason = reason


@dataclasses.dataclass(frozen=True)
class Special:
    """A special token that a template writes. Data never does: the same string inside data is ordinary text."""

    token: str


class Mark(enum.Enum):
    """Ids whose string depends on the tokenizer."""

    BEGIN = "begin"
    """What opens a text: LLaMA's `<s>`, nothing for StarCoder. A document's own is written by `render`."""
    END = "end"
    """The end-of-text token."""
    OPENING = "opening"
    """No id: the text that follows is tokenized as one that opens a document, wherever it stands."""


Part = str | Special | Mark


@dataclasses.dataclass(frozen=True)
class Segment:
    """A stretch of a document that is either all prompt (no loss) or all answer (loss); tokenized on its own.

    >>> Segment((Special("<commit_msg>"), "Fix typo"), supervised=False).text
    '<commit_msg>Fix typo'
    """

    parts: tuple[Part, ...]
    """Plain strings are tokenized as text, whatever they contain; each `Special` becomes exactly one id."""
    supervised: bool

    @property
    def text(self) -> str:
        """What a reader sees, special tokens written out; a `Mark` has no text."""
        return "".join(part.token if isinstance(part, Special) else part for part in self.parts
                       if not isinstance(part, Mark))
