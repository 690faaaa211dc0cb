"""Small inputs, and what a command made of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

COMMIT = {"old_contents": "x = 1\n" * 30, "new_contents": "x = 2\n" * 30, "subject": "Set the default of x to two",
          "new_file": "lib/values.py", "lang": "Python"}


def commit(**changes: Any) -> dict[str, Any]:
    """A commit that every rule keeps, but for what is changed."""
    return COMMIT | changes


def write_rows(path: Path, rows: list[Any]) -> Path:
    """A JSONL file of the rows."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def read_rows(path: Path) -> list[Any]:
    """The rows of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
