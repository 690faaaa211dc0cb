"""The rows of a chunk: each is a JSON object or a reason why it is none."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import orjson

from megatron_ft.data.example import RowError
from megatron_ft.data.input_files import LONGEST_ROW_BYTES, OVERSIZED, Chunk

FIRST_SHOWN = 5
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Dropped:
    """How many rows were left out, by reason, and where the first ones were."""

    def __init__(self, by_reason: dict[str, dict[str, Any]] | None = None) -> None:
        self.by_reason: dict[str, dict[str, Any]] = by_reason or {}

    def add(self, reason: str, source: str) -> None:
        """Count one row."""
        entry = self.by_reason.setdefault(reason, {"rows": 0, "first": []})
        entry["rows"] += 1
        if len(entry["first"]) < FIRST_SHOWN:
            entry["first"].append(source)

    def merge(self, other: dict[str, dict[str, Any]]) -> None:
        """Count the rows that another has counted."""
        for reason, counted in other.items():
            entry = self.by_reason.setdefault(reason, {"rows": 0, "first": []})
            entry["rows"] += counted["rows"]
            entry["first"] = (entry["first"] + counted["first"])[:FIRST_SHOWN]

    @property
    def rows(self) -> int:
        """All of them."""
        return sum(entry["rows"] for entry in self.by_reason.values())


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of an input file."""

    source: str
    """`file:number`, the number from 1; in a text file it is the line's."""
    value: dict[str, Any] | None
    """The object; None where `error` says why there is none."""
    line: bytes | None
    """The line as it stands in a text file, with its line break if it has one; None for a row of a table."""
    error: RowError | None = None

    def to_line(self) -> bytes:
        """The row as a line of JSONL: of a text file byte for byte, but always with a line break."""
        if self.line is not None:
            return self.line if self.line.endswith(b"\n") else self.line + b"\n"
        return orjson.dumps(self.value, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_PASSTHROUGH_SUBCLASS, default=str)


def rows_of(chunk: Chunk) -> Iterator[Row]:
    """The rows of a chunk in order; blank lines are passed over."""
    if chunk.is_table:
        from megatron_ft.data.input_tables import parse_table  # pyarrow is loaded where there are tables

        for number, value in enumerate(parse_table(chunk.data), start=chunk.first):
            yield Row(f"{chunk.path}:{number}", value, None)
        return
    for number, line in enumerate(chunk.data.split(b"\n"), start=chunk.first):
        if not line or line.isspace():
            continue
        source = f"{chunk.path}:{number}"
        try:
            yield Row(source, parse(line, source), line)
        except RowError as error:
            yield Row(source, None, line, error)


def parse(line: bytes, source: str) -> dict[str, Any]:
    r"""The object in a line of JSONL; RowError says what is wrong.

    >>> parse(b'{"prompt": "1 + 1?"}', "data.jsonl:1")
    {'prompt': '1 + 1?'}
    """
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        value = _parse_slowly(line, source)
    if not isinstance(value, dict):
        raise RowError("not an object", f"{source}: holds a JSON {json_type(value)} where an object is needed, as in "
                     '{"inputs": "...", "outputs": "..."}')
    return value


def json_type(value: Any) -> str:
    """JSON's name for the type of a value."""
    names = {dict: "object", list: "array", str: "string", bool: "boolean", int: "number", float: "number"}
    return names.get(type(value), "null")


def _parse_slowly(line: bytes, source: str) -> Any:
    """What the fast parser refuses: with a message that says where, or after all (NaN, an escaped lone surrogate)."""
    if line.startswith(OVERSIZED) and line[len(OVERSIZED):].strip().isdigit():
        size = int(line[len(OVERSIZED):])
        raise RowError("row too large", f"{source}: is a line of {size:,} bytes, at most {LONGEST_ROW_BYTES:,} are read")
    if source.endswith(":1"):
        line = line.removeprefix(BYTE_ORDER_MARK)
    try:
        return json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise RowError("invalid UTF-8", f"{source}: byte {error.start + 1} ({line[error.start]:#04x}) is not UTF-8"
                     ) from error
    except json.JSONDecodeError as error:
        raise RowError("invalid JSON", f"{source}: is no JSON: {error.msg} at column {error.colno}") from error
    except (ValueError, RecursionError) as error:  # a number of 4300 digits, ten thousand brackets
        raise RowError("invalid JSON", f"{source}: is no JSON that can be read: {error}") from error
