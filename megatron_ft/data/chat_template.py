"""A tokenizer's own chat template as a template: rendered by transformers' own renderer, with a mask per turn.

What is said must not be taken for what the template writes. So each special token's string in a message is broken by a
character that nothing else has, the conversation is rendered, the text is cut at special tokens (which are the
template's own, all of them), and the character is taken out again.

An answer is what the template adds to its own generation prompt: the prompt must be how the conversation goes on. Where
the template has {% generation %} blocks, they say what is an answer. The special token that ends a turn is part of the
answer, white space after it is not; after the last answer it is left out, and the end-of-text token follows at once.

A prompt and its answer are tokenized apart, as in every template, because so they are at inference. Every document opens
with the tokenizer's own opening token, whether the template writes it or leaves it to the tokenizer.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template

from megatron_ft import log
from megatron_ft.data import tokenizer
from megatron_ft.data.example import Example, Mark, Part, RowError, Segment, Special, Turn
from megatron_ft.data.template import Template, filled, said
from megatron_ft.data.templates import TEMPLATES
from megatron_ft.data.tokenizer import Tokenizer, read_settings, token_string
from megatron_ft.errors import ConfigError, DataError

GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
DATE = "26 Jul 2024"
"""What LLaMA 3's templates write where they are given no date: a dataset must not depend on the day that it is built."""
PRIVATE = range(0xE000, 0xF900)

Message = dict[str, str]


@dataclasses.dataclass(frozen=True)
class Control:
    """How a special token takes the white space beside it."""

    lstrip: bool = False
    rstrip: bool = False


class UnfitError(Exception):
    """A conversation that the template cannot write, or not with a right mask."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class ChatTemplate(Template):
    """The Jinja template of a tokenizer.

    Args:
        source: the Jinja code.
        variables: names of special tokens that it may use, `eos_token` and others.
        controls: every special token of the tokenizer.
    """

    name = "chat"

    def __init__(self, source: str, variables: dict[str, str], controls: dict[str, Control], reader: Tokenizer) -> None:
        self._source = source
        self._variables = variables
        self._controls = controls
        self._reader = reader
        self._marks_answers = GENERATION.search(source) is not None
        names = sorted(controls, key=len, reverse=True)
        self._cut = re.compile("(" + "|".join(map(re.escape, names)) + ")" if names else "((?!))")

    @property
    def fingerprint(self) -> str:
        settings = {name: dataclasses.astuple(control) for name, control in self._controls.items()}
        text = json.dumps([self._source, self._variables, settings, super().fingerprint], sort_keys=True)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    def prompt(self, instruction: str, *, context: str = "", answer_start: str = "") -> Segment:
        messages, private = self._shield([Turn("user", instruction, context)])
        try:
            text = self._render(messages, asks=True)
        except UnfitError as error:
            raise ConfigError(f"template: {error}; use another one than 'chat', such as {', '.join(TEMPLATES)}") from error
        asked = self._without_opening(self._parts(text, private))
        return Segment((*asked, *filled(answer_start.rstrip())), supervised=False)

    def segments(self, example: Example) -> list[Segment]:
        try:
            return self.word(example.turns)
        except UnfitError as error:
            raise RowError(error.reason, f"{example.source}: {error}") from error

    def word(self, turns: Sequence[Turn]) -> list[Segment]:
        """The segments of a conversation; see `Template.segments`. Raises UnfitError."""
        messages, private = self._shield(turns)
        text, answers = self._marked(messages) if self._marks_answers else self._continued(messages)
        segments: list[Segment] = []
        at = 0
        for start, end in answers:
            asked = self._parts(text[at:start], private)
            segments.append(Segment(asked if segments else self._without_opening(asked), supervised=False))
            segments.append(Segment(self._parts(text[start:end], private), supervised=True))
            at = end
        if text[at:].strip():
            raise UnfitError("more after the last answer", f"the chat template writes {_shown(text[at:])} after the last "
                             "answer, where nothing teaches a model to stop")
        segments[-1] = Segment((*segments[-1].parts, Mark.END), supervised=True)  # `render` writes an end once
        return [segment for segment in segments if segment.parts]

    def _continued(self, messages: list[Message]) -> tuple[str, list[tuple[int, int]]]:
        """The whole text, and each answer's place: from the end of its prompt to the end of its turn."""
        whole = self._render(messages)
        answers = []
        for at, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            asked = self._render(messages[:at], asks=True)
            told = whole if at == len(messages) - 1 else self._render(messages[:at + 1])
            if not told.startswith(asked):
                raise UnfitError("not how a prompt goes on", f"the chat template asks for turn {at + 1} with "
                                 f"{_shown(asked, end=True)}, and the turn that it writes does not begin there; a model would "
                                 "be asked otherwise than trained")
            if not whole.startswith(told):
                raise UnfitError("rewritten by the chat template", f"the chat template writes turn {at + 1} otherwise once "
                                 "more was said (it drops reasoning, perhaps), so that no mask is right; cut the row to one "
                                 "exchange, or use a template such as chatml")
            answers.append((len(asked), self._turn_end(told, len(asked))))
        return whole, answers

    def _marked(self, messages: list[Message]) -> tuple[str, list[tuple[int, int]]]:
        """The whole text, and what is in generation blocks, with the special token that follows at once."""
        (text,), (places,) = self._rendered(messages, return_assistant_tokens_mask=True)
        answers = []
        for start, end in places:
            closing = None if self._ends_special(text[start:end]) else self._cut.match(text, end)
            answers.append((start, self._turn_end(text[:closing.end() if closing else end], start)))
        if not answers:
            raise UnfitError("no answer", "no {% generation %} block of the chat template came to be used")
        return text, answers

    def _turn_end(self, text: str, start: int) -> int:
        """Where the turn that begins at `start` ends: without white space after the special token that ends it."""
        stripped = text[start:].rstrip()
        return start + len(stripped) if self._ends_special(stripped) else len(text)

    def _ends_special(self, text: str) -> bool:
        return text.rstrip().endswith(tuple(self._controls))

    def _parts(self, text: str, private: str) -> tuple[Part, ...]:
        parts: list[Part] = []
        pieces = self._cut.split(text)
        for at, piece in enumerate(pieces):
            if at % 2:
                parts.append(self._mark(piece))
                continue
            if at and self._controls[pieces[at - 1]].rstrip:
                piece = piece.lstrip()
            if at < len(pieces) - 1 and self._controls[pieces[at + 1]].lstrip:
                piece = piece.rstrip()
            parts += filled(piece.replace(private, "") if private else piece)
        return tuple(parts)

    def _mark(self, token: str) -> Part:
        index = self._reader.special(token)
        opens = [index] == self._reader.begin and index != self._reader.end_of_text
        return Mark.BEGIN if opens else Special(token)

    def _without_opening(self, parts: tuple[Part, ...]) -> tuple[Part, ...]:
        """What follows the opening token, which `render` writes in front of every document."""
        first = parts[0] if parts else None
        opens = first is Mark.BEGIN or isinstance(first, Special) and [self._reader.special(first.token)] == self._reader.begin
        return parts[1:] if opens else parts

    def _shield(self, turns: Sequence[Turn]) -> tuple[list[Message], str]:
        """Messages without the strings of special tokens, and the character that breaks them; "" if there was none."""
        messages = [{"role": turn.role, "content": said(turn)} for turn in turns]
        if not any(self._cut.search(message["content"]) for message in messages):
            return messages, ""
        taken = set(self._source).union(*(message["content"] for message in messages))
        private = next((chr(code) for code in PRIVATE if chr(code) not in taken), None)
        if private is None:
            raise UnfitError("all private characters", "the row has every one of Unicode's private characters")
        for message in messages:
            message["content"] = self._cut.sub(lambda found: found[0][0] + private + found[0][1:], message["content"])
        return messages, private

    def _render(self, messages: list[Message], *, asks: bool = False) -> str:
        return self._rendered(messages, add_generation_prompt=asks)[0][0]

    def _rendered(self, messages: list[Message], **options: Any) -> tuple[list[str], list[Any]]:
        try:
            return render_jinja_template([messages], chat_template=self._source, date_string=DATE, **self._variables, **options)
        except (TemplateError, TypeError, ValueError) as error:
            raise UnfitError("refused by the chat template", f"the chat template cannot write it: {error}") from error


def load(path: str | Path) -> ChatTemplate:
    """The chat template of a tokenizer (see `tokenizer.load`); ConfigError if it has none, or one that cannot train."""
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    settings = read_settings(folder)
    source = find_source(folder, settings)
    variables = {key: text for key in settings if key.endswith("_token") and isinstance(settings[key], str | dict)
                 and (text := token_string(settings, key)) is not None}
    reader = tokenizer.load(path)
    template = ChatTemplate(source, variables, special_tokens(path, reader), reader)
    try:
        asked, answer = template.word([Turn("user", "ask"), Turn("assistant", "say")])
    except (UnfitError, ValueError) as error:
        raise ConfigError(f"template: {error}; that is the chat template of {folder}: correct it, or use one of "
                          f"{', '.join(TEMPLATES)}") from error
    if asked != template.prompt("ask") or isinstance(answer.parts[0], Special):
        raise ConfigError(f"template: the chat template of {folder} does not open the assistant's turn where it is asked to "
                          f"(add_generation_prompt), it writes {_shown(asked.text, end=True)} and then {_shown(answer.text)}; "
                          f"correct it, or use one of {', '.join(TEMPLATES)}")
    if "strftime_now" in source and "date_string" not in source:
        log.get().warning(f"the chat template of {folder} writes the day's date: documents differ from day to day")
    return template


def find_source(folder: Path, settings: dict[str, Any]) -> str:
    """The Jinja code of a folder, found as transformers does: chat_template.jinja, else tokenizer_config.json."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    found = settings.get("chat_template")
    if isinstance(found, list):
        named = {entry["name"]: entry["template"] for entry in found}
        if "default" not in named:
            raise ConfigError(f"template: {folder}/tokenizer_config.json has the chat templates {', '.join(named)} and none "
                              "that is named default; write the one that is meant to chat_template.jinja beside it")
        found = named["default"]
    if not found:
        raise ConfigError(f"template: {folder} has no chat template (no chat_template.jinja, no \"chat_template\" in "
                          f"tokenizer_config.json); use one of {', '.join(TEMPLATES)}")
    return found


def special_tokens(path: Path, reader: Tokenizer) -> dict[str, Control]:
    """The special tokens of a tokenizer, none of which comes out of text."""
    file = path / "tokenizer.json" if path.is_dir() else path
    if file.suffix == ".json" and file.is_file():
        added = json.loads(file.read_text(encoding="utf-8"))["added_tokens"]
        return {token["content"]: Control(token["lstrip"], token["rstrip"]) for token in added if token["special"]}
    from megatron_ft.data.tokenizer_sentencepiece import read_model

    found = {}
    for piece in read_model(path / "tokenizer.model" if path.is_dir() else path).pieces:
        if piece.type not in (piece.NORMAL, piece.BYTE, piece.UNUSED):
            try:
                reader.special(piece.piece)
            except DataError:
                continue  # text that has a piece of its own
            found[piece.piece] = Control()
    return found


def _shown(text: str, *, end: bool = False) -> str:
    return repr("..." + text[-60:] if end and len(text) > 60 else text if len(text) <= 60 else text[:60] + "...")
