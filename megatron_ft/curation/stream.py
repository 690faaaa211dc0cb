"""Input files as one stream of chunks through a function, in order, by several processes, with a progress bar."""

from __future__ import annotations

import collections
import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, TypeVar

from megatron_ft import log
from megatron_ft.data import inputs as input_finder
from megatron_ft.data.example import RowError
from megatron_ft.data.input_files import Chunk
from megatron_ft.data.parallel import ordered_map, require_workers
from megatron_ft.data.rows import Row, rows_of
from megatron_ft.errors import DataError

Result = TypeVar("Result")
OnBadRow = Literal["stop", "skip"]


class Source:
    """The rows that some --input arguments name."""

    def __init__(self, inputs: Sequence[str], *, split: str = "train") -> None:
        self.files = input_finder.find([str(name) for name in inputs], split=split)
        self._ends: dict[str, tuple[int, str]] = {}

    def map(self, function: Callable[[Chunk], Result], *, workers: int, label: str) -> Iterator[Result]:
        """What the function gives of each chunk, in the order of the input, whoever does the work.

        Args:
            function: picklable, if there are several workers.
            label: of the progress bar.
        """
        require_workers(workers)
        sizes: collections.deque[int] = collections.deque()
        with log.progress(total=sum(file.bytes for file in self.files), unit="B", label=label, scale=True) as bar:
            for result in ordered_map(function, self.chunks(sizes.append), workers=workers):
                yield result
                bar.update(sizes.popleft())

    def describe(self) -> list[dict[str, Any]]:
        """Of each file {"path", "bytes", "sha256", "rows"}, the hash of its text without compression, once all is read."""
        nothing = hashlib.sha256().hexdigest()
        found = [(file, *self._ends.get(file.path, (0, nothing))) for file in self.files]
        return [{"path": file.path, "bytes": file.bytes, "sha256": digest, "rows": rows} for file, rows, digest in found]

    def chunks(self, began: Callable[[int], object] = lambda size: None) -> Iterator[Chunk]:
        """The chunks as they are; `began` hears the size on disk of each."""
        for part in input_finder.parts(self.files):
            for chunk in part.chunks():
                began(chunk.input_bytes)
                self._ends[chunk.path] = (chunk.end.row, chunk.digest)
                yield chunk


class BadRows:
    """Stops at the first bad row of a chunk, or collects all of them."""

    def __init__(self, on_bad_row: OnBadRow) -> None:
        self._on_bad_row = on_bad_row
        self.found: list[tuple[str, str]] = []
        """(reason, source) of each."""

    def add(self, error: RowError, source: str) -> None:
        """Take one."""
        if self._on_bad_row == "stop":
            raise DataError(str(error)) from error  # a RowError does not survive the way between processes
        self.found.append((error.reason, source))


def good_rows(chunk: Chunk, bad: BadRows) -> Iterator[Row]:
    """The rows of a chunk that are JSON objects; the others go to `bad`."""
    for row in rows_of(chunk):
        if row.error is not None:
            bad.add(row.error, row.source)
        else:
            yield row
