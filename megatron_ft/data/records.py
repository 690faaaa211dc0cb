"""JSONL, line by line: each row becomes an example or a reason why not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from megatron_ft.data.example import Example
from megatron_ft.data.rows import RowError, json_type, parse
from megatron_ft.errors import DataError

KEYS = (("inputs", "outputs"), ("inputs", "targets"), ("prompt", "completion"))


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
    if not line.strip():
        return None
    row = parse(line, source)
    inputs_key, outputs_key = _keys(row, source)
    return Example.pair(_text(row, inputs_key, source), _text(row, outputs_key, source), source=source)


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
        raise RowError("wrong type", f"{source}: '{key}' is a JSON {json_type(text)} where a string is needed")
    if not text.strip():
        raise RowError(f"'{key}' is empty", f"{source}: '{key}' is empty")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RowError("lone surrogate", f"{source}: '{key}' has a lone surrogate (\\u{ord(text[error.start]):04x}) at "
                     f"character {error.start + 1}, which is no text") from error
    return text
