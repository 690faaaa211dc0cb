"""What every template has in common; the wordings themselves are in `templates`."""

from __future__ import annotations

import abc
import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from megatron_ft.data.example import Example, Mark, Part, RowError, Segment, Turn
from megatron_ft.errors import DataError

if TYPE_CHECKING:
    from megatron_ft.data.tokenizer import Tokenizer

PROBES = (
    Example.pair("ask", "say"), Example.pair(" ask\n", "\nsay \n", context="it"),
    Example((Turn("system", "be"), *[turn for text in "ab" for turn in (Turn("user", text), Turn("assistant", text * 2))])),
)


class Template(abc.ABC):
    """The wording of prompts and of the answers that follow them."""

    name: str
    specials: tuple[str, ...] = ()
    """Special tokens that it writes, which the tokenizer must have; see `check`."""

    @abc.abstractmethod
    def prompt(self, instruction: str, *, context: str = "", answer_start: str = "") -> Segment:
        """What a model is prompted with.

        Args:
            context: what the instruction is about: code to repair, Alpaca's `input`.
            answer_start: the beginning of the answer that the model has to go on with (HumanEvalPack's `base`); it
                loses whitespace at its end, which is the model's to write.
        """

    @abc.abstractmethod
    def segments(self, example: Example) -> list[Segment]:
        """The example as training text: prompt and answer in turn; RowError if it does not fit the template."""

    def check(self, tokenizer: Tokenizer) -> None:
        """Raise DataError, with the names, if the tokenizer lacks special tokens that the template writes."""
        errors: dict[str, DataError] = {}
        for token in self.specials:
            try:
                tokenizer.special(token)
            except DataError as error:
                errors[token] = error
        if errors:
            raise DataError(f"{next(iter(errors.values()))}; template '{self.name}' writes {', '.join(errors)}: use the "
                            "tokenizer of a model that was trained with them, or a template of text: octocoder, alpaca")

    @property
    def fingerprint(self) -> str:
        """Changes with the wording: of what some examples and prompts become."""
        worded: list[object] = [self.prompt("ask", answer_start="say\n"), self.prompt("ask", context="it")]
        for example in PROBES:
            try:
                worded.append(self.segments(example))
            except RowError as error:
                worded.append(error.reason)
        return hashlib.sha256(repr(worded).encode()).hexdigest()


class TurnTemplate(Template):
    """A template that words one exchange after the other."""

    def prompt(self, instruction: str, *, context: str = "", answer_start: str = "") -> Segment:
        asked = self._ask(Turn("user", instruction, context), system="", opens=True)
        return Segment((*asked, *filled(answer_start.rstrip())), supervised=False)

    def segments(self, example: Example) -> list[Segment]:
        segments: list[Segment] = []
        for asked, answered, system in exchanges(example):
            asks = self._ask(asked, system=system, opens=not segments)
            if asks:
                segments.append(Segment(asks, supervised=False))
            segments.append(Segment(self._answer(asked, answered), supervised=True))
        last = segments[-1].parts
        if last[-1] is not Mark.END:
            segments[-1] = Segment((*last, Mark.END), supervised=True)
        return segments

    @abc.abstractmethod
    def _ask(self, asked: Turn, *, system: str, opens: bool) -> tuple[Part, ...]:
        """An instruction, up to where its answer begins.

        Args:
            opens: it is the first of its document.
        """

    @abc.abstractmethod
    def _answer(self, asked: Turn, answered: Turn) -> tuple[Part, ...]:
        """An answer and what ends it."""


class TextTemplate(TurnTemplate):
    """A template of text alone; an answer is closed by the end-of-text token."""

    def prompt(self, instruction: str, *, context: str = "", answer_start: str = "") -> Segment:
        text = self._question(Turn("user", instruction, context), answer_start=answer_start, opens=True)
        return Segment(filled(text.strip()), supervised=False)

    def _ask(self, asked: Turn, *, system: str, opens: bool) -> tuple[Part, ...]:
        if system:
            asked = Turn("user", f"{system}\n\n{asked.text}", asked.context)
        text = self._question(asked, answer_start="", opens=opens).strip()
        return filled(text if opens else f"\n\n{text}")

    def _answer(self, asked: Turn, answered: Turn) -> tuple[Part, ...]:
        return self._separator(asked, answered) + answered.text, Mark.END

    @abc.abstractmethod
    def _question(self, asked: Turn, *, answer_start: str, opens: bool) -> str:
        """The prompt before it is stripped."""

    @abc.abstractmethod
    def _separator(self, asked: Turn, answered: Turn) -> str:
        """What stands between the stripped prompt and the answer."""


def said(turn: Turn) -> str:
    r"""A turn's text with what it is about on the lines below.

    >>> said(Turn("user", "Fix f.", "def f(): pass"))
    'Fix f.\ndef f(): pass'
    """
    return f"{turn.text}\n{turn.context}" if turn.context else turn.text


def exchanges(example: Example) -> Iterator[tuple[Turn, Turn, str]]:
    """User's and assistant's turns in pairs, the first with the system prompt."""
    turns = example.turns
    system = ""
    if turns[0].role == "system":
        system, turns = turns[0].text, turns[1:]
    for at in range(0, len(turns), 2):
        yield turns[at], turns[at + 1], system
        system = ""


def filled(text: str) -> tuple[Part, ...]:
    """A text as the parts of a segment; no part if there is none."""
    return (text,) if text else ()
