"""The rows of a benchmark's file: JSON lines, a JSON list, either of them with gzip, or Parquet."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path

from megatron_ft.errors import DataError

GZIP, PARQUET = b"\x1f\x8b", b"PAR1"
Place = tuple[str, dict]
"""Where a row stands, for errors, and the row."""


def rows(path: Path, data: bytes) -> Iterator[Place]:
    """Every row with its place, by what the file begins with and not by its name; DataError for what is no row."""
    if data.startswith(PARQUET):
        yield from _parquet(path, data)
        return
    if data.startswith(GZIP):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{path}: cannot be unpacked: {error}; was it copied whole?") from error
    if data.lstrip()[:1] == b"[" and _is_list(data):
        yield from _list(path, data)
    else:
        yield from _lines(path, data)


def _is_list(data: bytes) -> bool:
    """Whether a text that begins with a bracket is one list; lines can begin with one by mistake."""
    return data.rstrip()[-1:] == b"]" and data.lstrip()[1:].lstrip()[:1] == b"{"


def _list(path: Path, data: bytes) -> Iterator[Place]:
    try:
        values = json.loads(data)
    except ValueError as error:
        raise DataError(f"{path}: not JSON: {error}") from error
    for number, value in enumerate(values):
        yield _row(f"{path}: row {number}", value)


def _lines(path: Path, data: bytes) -> Iterator[Place]:
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            value = json.loads(line)
        except ValueError as error:
            raise DataError(f"{place}: not JSON: {error}") from error
        yield _row(place, value)


def _row(place: str, value: object) -> Place:
    if not isinstance(value, dict):
        raise DataError(f"{place}: a JSON {type(value).__name__}, not an object with a benchmark's fields")
    return place, value


def _parquet(path: Path, data: bytes) -> Iterator[Place]:
    import pyarrow
    from pyarrow import parquet

    try:
        values = parquet.read_table(io.BytesIO(data)).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be read as Parquet: {error}; was it copied whole?") from error
    for number, value in enumerate(values):
        yield f"{path}: row {number}", value
