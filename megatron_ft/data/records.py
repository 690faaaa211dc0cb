"""JSONL, line by line: each row becomes an example or a reason why not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from megatron_ft.data.example import Example
from megatron_ft.errors import DataError

KEYS = (("inputs", "outputs"), ("inputs", "targets"), ("prompt", "completion"))
FIRST_SHOWN = 5

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class RowError(DataError):
    """A row that is no example. `reason` is the short form that rows are counted under."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{message}; drop the row or pass --on-bad-row=skip (skipped rows are counted by reason)")
        self.reason = reason


class Dropped:
    """How many rows were left out, by reason, and where the first ones were."""

    def __init__(self) -> None:
        self.by_reason: dict[str, dict[str, Any]] = {}

    def add(self, reason: str, source: str) -> None:
        """Count one row."""
        entry = self.by_reason.setdefault(reason, {"rows": 0, "first": []})
        entry["rows"] += 1
        if len(entry["first"]) < FIRST_SHOWN:
            entry["first"].append(source)

    @property
    def rows(self) -> int:
        """All of them."""
        return sum(entry["rows"] for entry in self.by_reason.values())


def stream_lines(path: str | Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a file with their numbers from 1, as bytes; memory holds one line at a time."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: there is no such file; --input takes JSONL files")
    with open(path, "rb") as stream:
        yield from enumerate(stream, start=1)


def read_row(line: bytes, source: str) -> Example | None:
    r"""The example in one line of JSONL; None for a blank line; RowError says what is wrong.

    >>> read_row(b'{"prompt": "1 + 1?", "completion": "2"}\n', "data.jsonl:1") == Example.pair(
    ...     "1 + 1?", "2", source="data.jsonl:1")
    True
    """
    if source.endswith(":1"):
        line = line.removeprefix(BYTE_ORDER_MARK)
    if not line.strip():
        return None
    row = _parse(line, source)
    inputs_key, outputs_key = _keys(row, source)
    return Example.pair(_text(row, inputs_key, source), _text(row, outputs_key, source), source=source)


def _parse(line: bytes, source: str) -> dict[str, Any]:
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise RowError("invalid UTF-8", f"{source}: byte {error.start + 1} ({line[error.start]:#04x}) is not UTF-8"
                     ) from error
    except json.JSONDecodeError as error:
        raise RowError("invalid JSON", f"{source}: is no JSON: {error.msg} at column {error.colno}") from error
    except (ValueError, RecursionError) as error:  # a number of 4300 digits, ten thousand brackets
        raise RowError("invalid JSON", f"{source}: is no JSON that can be read: {error}") from error
    if not isinstance(row, dict):
        raise RowError("not an object", f"{source}: holds a JSON {_json_type(row)} where an object is needed, as in "
                     '{"inputs": "...", "outputs": "..."}')
    return row


def _keys(row: dict[str, Any], source: str) -> tuple[str, str]:
    for pair in KEYS:
        if pair[0] in row and pair[1] in row:
            return pair
    wanted = ", ".join("/".join(pair) for pair in KEYS)
    found = ", ".join(f"'{key}'" for key in list(row)[:8]) or "none"
    raise RowError("keys missing", f"{source}: has the keys {found.encode('utf-8', 'replace').decode()} where one "
                 f"of the pairs {wanted} is needed")


def _text(row: dict[str, Any], key: str, source: str) -> str:
    text = row[key]
    if not isinstance(text, str):
        raise RowError("wrong type", f"{source}: '{key}' is a JSON {_json_type(text)} where a string is needed")
    if not text.strip():
        raise RowError(f"'{key}' is empty", f"{source}: '{key}' is empty")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RowError("lone surrogate", f"{source}: '{key}' has a lone surrogate (\\u{ord(text[error.start]):04x}) at "
                     f"character {error.start + 1}, which is no text") from error
    return text


def _json_type(value: Any) -> str:
    names = {dict: "object", list: "array", str: "string", bool: "boolean", int: "number", float: "number"}
    return names.get(type(value), "null")
