"""Every row once: drops rows that are the same as an earlier one, or nearly the same."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from megatron_ft import log
from megatron_ft.curation.exact import FirstRows
from megatron_ft.curation.output import beside, json_line, require_writable, short, show_counts, write_report, writing
from megatron_ft.curation.stream import BadRows, OnBadRow, Source, good_rows
from megatron_ft.curation.texts import ALL, text_key, texts_of
from megatron_ft.data import kinds
from megatron_ft.data.example import RowError
from megatron_ft.data.input_files import Chunk
from megatron_ft.data.rows import Dropped
from megatron_ft.errors import ConfigError

Method = Literal["exact", "near"]
LARGEST_SHOWN = 10
ROW_BITS = 40
"""A position is the number of a file and, in these bits, that of a row in it."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """When two rows are one."""

    method: Method = "exact"
    threshold: float = 0.85
    """Near: least Jaccard similarity of their n-grams."""
    ngram: int = 5
    """Near: words and signs in an n-gram."""
    fields: tuple[str, ...] = ()
    """See `texts.texts_of`."""
    kind: str | None = None
    on_bad_row: OnBadRow = "stop"

    def check(self) -> None:
        """ConfigError for what cannot work."""
        from megatron_ft.curation.near import LOWEST_THRESHOLD

        if self.method == "near" and not LOWEST_THRESHOLD <= self.threshold <= 1:
            raise ConfigError(f"--threshold: {self.threshold:g} is not from {LOWEST_THRESHOLD:g} to 1; below, rows that "
                              "merely share idioms count as one, and each would be compared with a large part of all")
        if self.method == "near" and self.ngram < 1:
            raise ConfigError(f"--ngram: {self.ngram} words are no n-gram; use 1 or more")
        if ALL in self.fields and len(self.fields) > 1:
            raise ConfigError(f"--fields: '{ALL}' stands for all fields and comes with {len(self.fields) - 1} more; "
                              "name it alone")
        if self.fields and self.kind:
            raise ConfigError("--fields: says what is compared, and so does --kind; give one of them")
        kinds.check(self.kind)


@dataclasses.dataclass
class Keyed:
    """The rows of a chunk with what they are compared by."""

    path: str
    numbers: np.ndarray
    """int64 [rows]: of each row its number in the file."""
    lines: list[bytes]
    keys: np.ndarray
    """Exact: uint64 [rows]. Near: all rows' n-grams end to end."""
    ends: np.ndarray
    """Near: int64 [rows], where each row's n-grams end."""
    signatures: np.ndarray
    """Near: uint32 [rows, permutations]."""
    bad: list[tuple[str, str]]


@dataclasses.dataclass(frozen=True)
class Keyer:
    """Makes the keys of a chunk, in any process."""

    recipe: Recipe

    def __call__(self, chunk: Chunk) -> Keyed:
        """The rows that can be compared, in order."""
        bad = BadRows(self.recipe.on_bad_row)
        numbers, lines, texts = [], [], []
        for row in good_rows(chunk, bad):
            try:
                texts.append(texts_of(row, self.recipe.fields, kind=self.recipe.kind))
            except RowError as error:
                bad.add(error, row.source)
                continue
            numbers.append(int(row.source.rpartition(":")[2]))
            lines.append(row.to_line())
        nothing = np.zeros(0, dtype=np.int64)
        keys, ends, signatures = np.fromiter(map(text_key, texts), dtype=np.uint64, count=len(texts)), nothing, nothing
        if self.recipe.method == "near":
            keys, ends, signatures = _near_keys(texts, self.recipe)
        return Keyed(chunk.path, np.array(numbers, dtype=np.int64), lines, keys, ends, signatures, bad.found)


def _near_keys(texts: list[list[str]], recipe: Recipe) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    from megatron_ft.curation.near import bands_for, gram_set, signature  # datasketch brings scipy: a second

    bands, rows = bands_for(recipe.threshold)
    sets = [gram_set(each, recipe.ngram) for each in texts]
    ends = np.cumsum([len(grams) for grams in sets], dtype=np.int64)
    signatures = np.array([signature(grams, bands * rows) for grams in sets], dtype=np.uint32).reshape(-1, bands * rows)
    return np.concatenate(sets) if sets else np.zeros(0, dtype=np.uint64), ends, signatures


def run(inputs: Sequence[str], output: str | Path, recipe: Recipe, *, workers: int = 1, split: str = "train") -> dict[str, Any]:
    """Write every row that is no duplicate of an earlier one to OUTPUT; returns what is in OUTPUT.report.json.

    OUTPUT.duplicates.jsonl has a line for every dropped row: {"dropped", "kept", "similarity"}, rows as file:number.
    The outputs depend on the input and the recipe alone, not on `workers`.
    """
    recipe.check()
    output = Path(output)
    duplicates = beside(output, "duplicates.jsonl")
    require_writable(("--output", output), ("--output", duplicates), ("--output", beside(output, "report.json")))
    source = Source(inputs, split=split)
    paths = [file.path for file in source.files]
    counts = collections.Counter(rows=0, kept=0, identical=0)
    bad, clusters = Dropped(), collections.Counter[int]()
    with writing(output, duplicates) as (kept, dropped), _matcher(recipe, output.parent) as match:
        for chunk in source.map(Keyer(recipe), workers=workers, label="deduplicate"):
            positions = (np.int64(paths.index(chunk.path)) << ROW_BITS) + chunk.numbers
            matches = match(chunk, positions)
            for line, position, (first, similarity) in zip(chunk.lines, positions.tolist(), matches, strict=True):
                if first == position:
                    kept.write(line)
                    counts["kept"] += 1
                else:
                    _write_pair(dropped, _source(position, paths), _source(first, paths), similarity)
                    clusters[first] += 1
                    counts["identical"] += similarity == 1
            counts["rows"] += len(chunk.lines)
            for reason, place in chunk.bad:
                bad.add(reason, place)
    largest = [{"kept": _source(first, paths), "dropped": number} for first, number in clusters.most_common(LARGEST_SHOWN)]
    return write_report(
        output, command="deduplicate", inputs=source.describe(), packages=["datasketch"] if recipe.method == "near" else [],
        counts={"rows": counts["rows"] + bad.rows, "kept": counts["kept"], "dropped": counts["rows"] - counts["kept"],
                "identical": counts["identical"], "clusters": len(clusters), "bad": bad.rows},
        bad_rows=bad.by_reason, recipe=dataclasses.asdict(recipe) | _precision(recipe),
        largest_clusters=largest, duplicates=str(duplicates))


def show(report: dict[str, Any]) -> None:
    """Print how many rows were dropped, and what they were copies of."""
    if report["largest_clusters"]:
        log.table("rows with most duplicates", ["kept row", "duplicates dropped"],
                  [[short(cluster["kept"]), cluster["dropped"]] for cluster in report["largest_clusters"]])
    show_counts(report)


@contextlib.contextmanager
def _matcher(recipe: Recipe, folder: Path) -> Iterator[Any]:
    """A function of (keyed, positions): of each row the position that it is a duplicate of, else its own, and how similar."""
    if recipe.method == "exact":
        table = FirstRows()
        yield lambda chunk, positions: ((first, 1.0) for first in table.first(chunk.keys, positions).tolist())
        return
    from megatron_ft.curation.near import KeptRows

    kept = KeptRows(recipe.threshold, folder=folder)

    def match(chunk: Keyed, positions: np.ndarray) -> Iterator[tuple[int, float]]:
        for position, grams, values in zip(positions.tolist(), np.split(chunk.keys, chunk.ends[:-1]), chunk.signatures,
                                           strict=True) if len(positions) else ():
            found = kept.find(grams, values)
            if found is None:
                kept.add(position, grams, values)
            yield found or (position, 1.0)

    try:
        yield match
    finally:
        kept.close()


def _precision(recipe: Recipe) -> dict[str, Any]:
    if recipe.method == "exact":
        return {}
    from megatron_ft.curation.near import PERMUTATIONS, bands_for, recall

    bands, rows = bands_for(recipe.threshold)
    return {"permutations": min(PERMUTATIONS, bands * rows), "bands": bands, "rows_per_band": rows,
            "found_at_threshold": round(recall(recipe.threshold, recipe.threshold), 4)}


def _source(position: int, paths: list[str]) -> str:
    return f"{paths[position >> ROW_BITS]}:{position & ((1 << ROW_BITS) - 1)}"


def _write_pair(stream: IO[bytes], dropped: str, kept: str, similarity: float) -> None:
    stream.write(json_line({"dropped": dropped, "kept": kept, "similarity": similarity}))
