"""JSONL, line by line: each row becomes an example or a reason why not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from megatron_ft.data import kinds
from megatron_ft.data.example import Example
from megatron_ft.data.rows import parse
from megatron_ft.errors import DataError


def stream_lines(path: str | Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a file with their numbers from 1, as bytes; memory holds one line at a time."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: there is no such file; --input takes JSONL files")
    with open(path, "rb") as stream:
        yield from enumerate(stream, start=1)


def read_row(line: bytes, source: str, *, kind: str | None = None) -> Example | None:
    r"""The example in one line of JSONL; None for a blank line; RowError says what is wrong.

    Args:
        kind: one of `kinds.KINDS`; None: whichever the row's keys say.

    >>> read_row(b'{"prompt": "1 + 1?", "completion": "2"}\n', "data.jsonl:1") == Example.pair(
    ...     "1 + 1?", "2", source="data.jsonl:1")
    True
    """
    if not line.strip():
        return None
    return kinds.to_example(parse(line, source), kind=kind, source=source)
