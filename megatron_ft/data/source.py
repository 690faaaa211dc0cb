"""Which documents a run reads: config entries `[WEIGHT] [START:END] PREFIX` and the ranges that they open."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from megatron_ft.data.indexed import Dataset, open_dataset
from megatron_ft.errors import ConfigError, DataError

ENTRY = re.compile(r"(?:(?P<weight>[\d.]+)\s+)?(?:(?P<start>[\d.]+):(?P<end>[\d.]+)\s+)?(?P<prefix>\S.*)")


@dataclasses.dataclass(frozen=True)
class Entry:
    """A range of a dataset, as a config names it."""

    prefix: str
    start: float = 0.0
    end: float = 1.0

    def __str__(self) -> str:
        return f"{self.start:g}:{self.end:g} {self.prefix}"


def parse_entry(text: str) -> Entry:
    """Read one entry; ConfigError if it is none.

    >>> parse_entry("0:0.95 data/mix"), parse_entry("mix")
    (Entry(prefix='data/mix', start=0.0, end=0.95), Entry(prefix='mix', start=0.0, end=1.0))
    """
    match = ENTRY.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"data: '{text}' is no entry; write PREFIX, or START:END PREFIX as in '0:0.95 data/mix'")
    try:
        weight = float(match["weight"] or 1)
        entry = Entry(match["prefix"], float(match["start"] or 0), float(match["end"] or 1))
    except ValueError as error:
        raise ConfigError(f"data: '{text}': {error}; write START:END PREFIX as in '0:0.95 data/mix'") from error
    if weight != 1:
        raise ConfigError(f"data: '{text}' has weight {weight:g}; every document is read once per epoch, "
                          "so only 1 works")
    if not 0 <= entry.start < entry.end <= 1:
        raise ConfigError(f"data: '{text}': the range must be 0 <= START < END <= 1, "
                          f"found {entry.start:g}:{entry.end:g}")
    return entry


@dataclasses.dataclass(frozen=True)
class View:
    """Documents first:last of a dataset."""

    dataset: Dataset
    entry: Entry
    first: int
    last: int


def open_views(train: Sequence[str], valid: Sequence[str] = ()) -> tuple[list[View], list[View]]:
    """Open the datasets of a run's training and validation entries.

    No two entries may share a document (DataError names both), and all must come from one tokenizer.
    """
    entries = [parse_entry(text) for text in (*train, *valid)]
    datasets = {prefix: open_dataset(prefix) for prefix in dict.fromkeys(entry.prefix for entry in entries)}
    views = [_view(datasets[entry.prefix], entry) for entry in entries]
    _refuse_overlap(views)
    _refuse_other_tokenizers(views)
    return views[:len(train)], views[len(train):]


def _view(dataset: Dataset, entry: Entry) -> View:
    view = View(dataset, entry, round(entry.start * dataset.documents), round(entry.end * dataset.documents))
    if view.first == view.last:
        raise DataError(f"data: '{entry}' holds none of the dataset's {dataset.documents} documents; widen the range")
    return view


def _refuse_overlap(views: list[View]) -> None:
    """By content, so that a copy under another name counts as the same dataset."""
    for index, one in enumerate(views):
        for other in views[index + 1:]:
            same = one.dataset.manifest.bin_file == other.dataset.manifest.bin_file
            shared = min(one.last, other.last) - max(one.first, other.first)
            if same and shared > 0:
                raise DataError(f"data: '{one.entry}' and '{other.entry}' share {shared} documents; what is validated "
                                "on must not be trained on, and nothing is read twice: separate the ranges")


def _refuse_other_tokenizers(views: list[View]) -> None:
    for view in views[1:]:
        one, other = views[0].dataset.manifest.tokenizer, view.dataset.manifest.tokenizer
        if one != other:
            raise DataError(f"data: '{views[0].entry}' and '{view.entry}' were made with different tokenizers "
                            f"({one} and {other}); tokenize both with the model's own")
