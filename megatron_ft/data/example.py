"""The words of this package: an example is text, a segment is the part of a document with one loss rule."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Example:
    """One record of instruction data, as text."""

    inputs: str
    outputs: str
    source: str = ""
    """Where it was read, `file:line`; for messages."""


@dataclasses.dataclass(frozen=True)
class Special:
    """A special token that a template writes. Data never does: the same string inside data is ordinary text."""

    token: str


@dataclasses.dataclass(frozen=True)
class Segment:
    """A stretch of a document that is either all prompt (no loss) or all answer (loss); tokenized on its own.

    >>> Segment((Special("<commit_msg>"), "Fix typo"), supervised=False).text
    '<commit_msg>Fix typo'
    """

    parts: tuple[str | Special, ...]
    """Plain strings are tokenized as text, whatever they contain; each `Special` becomes exactly one id."""
    supervised: bool

    @property
    def text(self) -> str:
        """What a reader sees, special tokens written out."""
        return "".join(part.token if isinstance(part, Special) else part for part in self.parts)
