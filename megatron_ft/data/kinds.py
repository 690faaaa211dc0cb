"""The kinds of rows that instruction data comes in; each becomes the same thing, an `Example`.

A row's kind is what its keys say, row by row, so files of several kinds may be mixed; a row that fits two kinds is
refused until --kind says which is meant. That a row is a bare text is never concluded, --kind has to say it: a dialogue
whose markers are misspelt would else be learnt as one text.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any

from megatron_ft.data.example import Example, Role, RowError, Turn
from megatron_ft.data.rows import json_type
from megatron_ft.errors import ConfigError

Row = dict[str, Any]

PAIRS = (("inputs", "outputs"), ("inputs", "targets"), ("prompt", "completion"), ("question", "answer"))
MESSAGE_KEYS = (("role", "content"), ("from", "value"))
ROLES: dict[str, Role] = {"system": "system", "user": "user", "human": "user", "prompter": "user",
                          "assistant": "assistant", "gpt": "assistant", "bot": "assistant", "model": "assistant"}
MARKER = re.compile(r"### ?(Human|Assistant):")


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind of row."""

    description: str
    keys: tuple[tuple[str, ...], ...]
    """Sets of keys; a row of this kind has all of one of them."""
    example: Row
    read: Callable[[Row, str], tuple[Turn, ...]]
    """The turns of a row that has the keys."""
    is_detected: bool = True
    """False: rows are of this kind only where --kind says so."""


def detect(row: Row, source: str) -> str:
    """The kind that a row's keys say; a RowError for none and for several.

    >>> detect({"instruction": "Add.", "input": "1, 2", "output": "3", "id": 7}, "data.jsonl:1")
    'alpaca'
    """
    found = [name for name, kind in KINDS.items() if kind.is_detected and _fits(row, kind)]
    if len(found) > 1:  # tables that were joined have null where a row had no such column
        found = [name for name in found if _fits({key: row[key] for key in row if row[key] is not None}, KINDS[name])]
    if len(found) == 1:
        return found[0]
    if found:
        raise RowError("ambiguous kind", f"{source}: fits the kinds {' and '.join(found)}; say which is meant with --kind")
    others = ", ".join(f"{name} ({_keys_text(kind)}{'' if kind.is_detected else f', with --kind {name}'})"
                       for name, kind in KINDS.items() if name != "pairs")
    raise RowError("keys missing", f"{source}: has the keys {_found(row)} where one of the pairs "
                   f"{_keys_text(KINDS['pairs'])} is needed, or the keys of another kind: {others}")


def check(kind: str | None) -> None:
    """Raise ConfigError for a kind that does not exist; None (detect it) is fine."""
    if kind is not None and kind not in KINDS:
        raise ConfigError(f"--kind: '{kind}' is unknown; use one of {', '.join(KINDS)}, or leave it out: it is then "
                          "detected row by row")


def to_example(row: Row, *, kind: str | None, source: str) -> Example:
    """The example in a row; its `kind` is the one it was read as.

    >>> to_example({"question": "1 + 1?", "answer": "2"}, kind=None, source="f:1") == Example.pair("1 + 1?", "2", source="f:1")
    True
    """
    name = kind or detect(row, source)
    if kind and not _fits(row, KINDS[kind]):
        raise RowError("keys missing", f"{source}: has the keys {_found(row)} where --kind {kind} needs "
                       f"{_keys_text(KINDS[kind])}")
    return Example(KINDS[name].read(row, source), source, name)


def read_pair(row: Row, source: str) -> tuple[Turn, ...]:
    """An instruction and its answer.

    >>> [turn.text for turn in read_pair({"prompt": "1 + 1?", "completion": "2"}, "f:1")]
    ['1 + 1?', '2']
    """
    asked, answered = next(pair for pair in PAIRS if pair[0] in row and pair[1] in row)
    return Turn("user", _text(row, asked, source)), Turn("assistant", _text(row, answered, source))


def read_alpaca(row: Row, source: str) -> tuple[Turn, ...]:
    """An instruction, what it is about (`input`: may be empty, null or absent) and the answer.

    >>> read_alpaca({"instruction": "Add.", "input": "1, 2", "output": "3"}, "f:1")[0].context
    '1, 2'
    """
    context = "" if row.get("input") is None else _text(row, "input", source, may_be_empty=True)
    return (Turn("user", _text(row, "instruction", source), context if context.strip() else ""),
            Turn("assistant", _text(row, "output", source)))


def read_commit(row: Row, source: str) -> tuple[Turn, ...]:
    r"""A commit of one file: its subject (else its message's first line), the file before (may be empty) and after.

    >>> read_commit({"old_contents": "", "new_contents": "x = 1\n", "message": "Add x\n\nIt was missing."}, "f:1")
    (Turn(role='user', text='Add x', context=''), Turn(role='assistant', text='x = 1\n', context=''))
    """
    key = "message" if row.get("subject") in (None, "") and "message" in row else "subject"
    subject = _text(row, key, source).strip().partition("\n")[0].strip()
    return (Turn("user", subject, _text(row, "old_contents", source, may_be_empty=True)),
            Turn("assistant", _text(row, "new_contents", source)))


def read_chat(row: Row, source: str) -> tuple[Turn, ...]:
    """Messages with roles, under `messages` or ShareGPT's `conversations`.

    A content may be a list of text parts, which are joined. An empty system message is no system message.

    >>> [turn.role for turn in read_chat({"conversations": [{"from": "human", "value": "Hi"},
    ...                                                     {"from": "gpt", "value": "Hello."}]}, "f:1")]
    ['user', 'assistant']
    """
    key = "messages" if row.get("messages") is not None or "conversations" not in row else "conversations"
    messages = row[key]
    if not isinstance(messages, list):
        raise _wrong_type(f"'{key}'", messages, source, needed="an array")
    return _checked([_message(message, f"turn {number} of '{key}'", source) for number, message in enumerate(messages, 1)],
                    source)


def read_dialogue(row: Row, source: str) -> tuple[Turn, ...]:
    """One text with `### Human:` and `### Assistant:` in it; what stands before the first is a system prompt.

    >>> [turn.text for turn in read_dialogue({"text": "### Human: Hi### Assistant: Hello.### Human: 1 + 1?### Assistant: 2"},
    ...                                      "f:1")]
    ['Hi', 'Hello.', '1 + 1?', '2']
    """
    opening, *rest = MARKER.split(_text(row, "text", source))
    turns = [Turn("system", opening.strip())] if opening.strip() else []
    for speaker, text in zip(rest[::2], rest[1::2], strict=True):
        if not text.strip():
            raise RowError("a turn is empty", f"{source}: turn {len(turns) + 1} of 'text' ({speaker}) is empty")
        turns.append(Turn(ROLES[speaker.lower()], text.strip()))
    return _checked(turns, source)


def read_text(row: Row, source: str) -> tuple[Turn, ...]:
    """A text that nobody asks for: a source file, say.

    >>> read_text({"content": "x = 1", "path": "a.py"}, "f:1")
    (Turn(role='assistant', text='x = 1', context=''),)
    """
    key = "text" if row.get("text") is not None or "content" not in row else "content"
    return (Turn("assistant", _text(row, key, source)),)


def _message(message: Any, place: str, source: str) -> Turn:
    if not isinstance(message, dict):
        raise _wrong_type(place, message, source, needed="an object")
    keys = next((keys for keys in MESSAGE_KEYS if keys[0] in message and keys[1] in message), None)
    if keys is None:
        raise RowError("turn keys missing", f"{source}: {place} has the keys {_found(message)} where "
                       f"{' or '.join('/'.join(keys) for keys in MESSAGE_KEYS)} are needed")
    role, content = message[keys[0]], message[keys[1]]
    if not isinstance(role, str):
        raise _wrong_type(f"'{keys[0]}' in {place}", role, source)
    if role not in ROLES:
        raise RowError("unknown role", f"{source}: {place} has the role '{_shown(role)}'; known are {', '.join(ROLES)}")
    what = f"'{keys[1]}' in {place}"
    if content is None:
        raise RowError("a turn without content", f"{source}: {what} is null (a tool call?), which is no text")
    text = _string(_joined(content, what, source) if isinstance(content, list) else content, what, source)
    if not text.strip() and ROLES[role] != "system":
        raise RowError("a turn is empty", f"{source}: {what} is empty")
    return Turn(ROLES[role], text)


def _joined(parts: list[Any], what: str, source: str) -> str:
    for part in parts:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            named = part.get("type") if isinstance(part, dict) else json_type(part)
            raise RowError("content is not text", f"{source}: {what} has a part of type '{_shown(str(named))}' where "
                           '{"type": "text", "text": "..."} is needed; only text can be trained on')
    return "".join(part["text"] for part in parts)


def _checked(turns: list[Turn], source: str) -> tuple[Turn, ...]:
    """The turns without an empty system prompt; RowError unless user and assistant alternate up to an answer."""
    first = 1 if turns and turns[0].role == "system" else 0
    said = turns[first:]
    if not said:
        raise RowError("no turns", f"{source}: holds no turn of user and assistant")
    if said[0].role == "assistant":
        raise RowError("begins with the assistant", f"{source}: turn {first + 1} is the assistant's, and nothing was asked yet")
    for number, (before, turn) in enumerate(zip(said, said[1:], strict=False), first + 2):
        if turn.role == "system":
            raise RowError("system prompt inside", f"{source}: turn {number} is a system prompt; only the first turn can be")
        if turn.role == before.role:
            raise RowError("two turns of one side", f"{source}: turns {number - 1} and {number} are both the {turn.role}'s")
    if said[0].role == "system":
        raise RowError("system prompt inside", f"{source}: turn 2 is a system prompt; only the first turn can be")
    if said[-1].role == "user":
        raise RowError("ends with the user", f"{source}: turn {len(turns)}, the last, is the user's and has no answer")
    return tuple(said if first and not turns[0].text.strip() else turns)


def _text(row: Row, key: str, source: str, *, may_be_empty: bool = False) -> str:
    text = _string(row[key], f"'{key}'", source)
    if not may_be_empty and not text.strip():
        raise RowError(f"'{key}' is empty", f"{source}: '{key}' is empty")
    return text


def _string(text: Any, what: str, source: str) -> str:
    """A string that is text, or a RowError."""
    if not isinstance(text, str):
        raise _wrong_type(what, text, source)
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise RowError("lone surrogate", f"{source}: {what} has a lone surrogate (\\u{ord(text[error.start]):04x}) at "
                           f"character {error.start + 1}, which is no text") from error
    return text


def _wrong_type(what: str, value: Any, source: str, *, needed: str = "a string") -> RowError:
    return RowError("wrong type", f"{source}: {what} is a JSON {json_type(value)} where {needed} is needed")


def _fits(row: Row, kind: Kind) -> bool:
    for keys in kind.keys:
        for key in keys:
            if key not in row:
                break
        else:
            return kind.read is not read_dialogue or (isinstance(row["text"], str) and "###" in row["text"]
                                                      and MARKER.search(row["text"]) is not None)
    return False


def _keys_text(kind: Kind) -> str:
    sets: Sequence[str] = ["/".join(keys) for keys in kind.keys]
    return ", ".join(sets) + (" with '### Human:' and '### Assistant:'" if kind.read is read_dialogue else "")


def _found(row: Row) -> str:
    return _shown(", ".join(f"'{key}'" for key in list(row)[:8])) or "none"


def _shown(text: str) -> str:
    """Text for a message: whatever JSON holds can be printed."""
    return text.encode("utf-8", "replace").decode()[:200]


KINDS: dict[str, Kind] = {
    "pairs": Kind("an instruction and its answer", PAIRS,
                  {"inputs": "What is 1 + 1?", "outputs": "2"}, read_pair),
    "alpaca": Kind("an instruction, perhaps an input that it is about, and the answer", (("instruction", "output"),),
                   {"instruction": "Add the numbers.", "input": "1, 2", "output": "3"}, read_alpaca),
    "chat": Kind("messages with roles, any number of turns, perhaps after a system prompt; also ShareGPT's",
                 (("messages",), ("conversations",)),
                 {"messages": [{"role": "user", "content": "What is 1 + 1?"}, {"role": "assistant", "content": "2"}]},
                 read_chat),
    "dialogue": Kind("one text with the markers of OASST and Guanaco", (("text",),),
                     {"text": "### Human: What is 1 + 1?### Assistant: 2"}, read_dialogue),
    "commits": Kind("a file before and after a commit, and the commit's message",
                    (("old_contents", "new_contents", "subject"), ("old_contents", "new_contents", "message")),
                    {"old_contents": "x = 1\n", "new_contents": "x = 2\n", "subject": "Set x to 2"}, read_commit),
    "text": Kind("a bare text, such as a source file", (("text",), ("content",)), {"text": "x = 1\n"}, read_text,
                 is_detected=False),
}
