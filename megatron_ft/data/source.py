"""Which documents a run reads: config entries `[TAG=] [WEIGHT] [START:END] PREFIX` and the ranges that they open.

A TAG names a validation loss: letters, digits, `_`, `.`, `+`, `-`, then `=` and a space. The space tells it from a prefix with
a `=` in it (`lr=3/mix`); a prefix that begins like a tag and has a space there is written `./TAG= PREFIX`.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from megatron_ft.data.indexed import Dataset, open_dataset, with_suffix
from megatron_ft.data.pairs import Pair, is_pair, open_pair, pair_of_half
from megatron_ft.errors import ConfigError, DataError

NUMBER = r"[-+]?[\d.]+(?:[eE][-+]?\d+)?"
TAG = r"[\w.+-]+"
ENTRY = re.compile(rf"(?:(?P<tag>{TAG})=\s+)?(?:(?P<weight>{NUMBER})\s+)?(?:(?P<start>{NUMBER}):(?P<end>{NUMBER})\s+)?"
                   r"(?P<prefix>\S.*)")


@dataclasses.dataclass(frozen=True)
class Entry:
    """A range of a dataset, as a config names it."""

    prefix: str
    start: float = 0.0
    end: float = 1.0
    weight: float | None = None
    """Share of an epoch's documents, relative to the other entries' weights; None: each document once."""
    tag: str = ""
    """Name of the validation loss that its documents count in; empty: `tags_of` finds one."""

    def __str__(self) -> str:
        tag = f"{self.tag}= " if self.tag else ""
        weight = "" if self.weight is None else f"{self.weight:g} "
        return f"{tag}{weight}{self.start:g}:{self.end:g} {self.prefix}"


def parse_entry(text: str) -> Entry:
    """Read one entry; ConfigError if it is none.

    >>> parse_entry("0:0.95 data/mix")
    Entry(prefix='data/mix', start=0.0, end=0.95, weight=None, tag='')
    >>> parse_entry("0.7 mix")
    Entry(prefix='mix', start=0.0, end=1.0, weight=0.7, tag='')
    >>> parse_entry("code= 0.95:1 lr=3/mix")
    Entry(prefix='lr=3/mix', start=0.95, end=1.0, weight=None, tag='code')
    """
    match = ENTRY.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"data: '{text}' is no entry; write PREFIX, or START:END PREFIX as in '0:0.95 data/mix'")
    try:
        weight = float(match["weight"]) if match["weight"] else None
        entry = Entry(match["prefix"], float(match["start"] or 0), float(match["end"] or 1), weight, match["tag"] or "")
    except ValueError as error:
        raise ConfigError(f"data: '{text}': {error}; write START:END PREFIX as in '0:0.95 data/mix'") from error
    if weight is not None and not 0 < weight < math.inf:
        raise ConfigError(f"data: '{text}' has weight {weight:g}; a weight is a share of the documents and above 0: "
                          "give one, or leave the entry out")
    if not 0 <= entry.start < entry.end <= 1:
        raise ConfigError(f"data: '{text}': the range must be 0 <= START < END <= 1, "
                          f"found {entry.start:g}:{entry.end:g}")
    return entry


def tags_of(entries: Sequence[Entry]) -> list[str]:
    """The tag of each validation entry: its own, else as much of the end of its prefix as no other entry has.

    Entries of one prefix are told apart by their ranges.

    >>> tags_of([parse_entry(text) for text in ("code= a/mix", "b/mix", "c/mix", "0:0.5 c/chat", "0.5:1 c/chat")])
    ['code', 'b/mix', 'c/mix', 'chat 0:0.5', 'chat 0.5:1']
    """
    given = {entry.tag for entry in entries}
    others = list({entry.prefix for entry in entries if not entry.tag})
    prefixes = Counter(entry.prefix for entry in entries if not entry.tag)
    tags = []
    for entry in entries:
        tag = entry.tag or _shortest_end(entry.prefix, taken=given, others=[name for name in others if name != entry.prefix])
        is_part = not entry.tag and prefixes[entry.prefix] > 1
        tags.append(f"{tag} {entry.start:g}:{entry.end:g}" if is_part else tag)
    return tags


def _shortest_end(prefix: str, *, taken: set[str], others: Sequence[str]) -> str:
    parts = Path(prefix).parts
    for length in range(1, len(parts) + 1):
        end = parts[-length:]
        if str(Path(*end)) not in taken and not any(Path(other).parts[-length:] == end for other in others):
            return str(Path(*end))
    return prefix


@dataclasses.dataclass(frozen=True)
class View:
    """Documents first:last of a dataset."""

    dataset: Dataset | Pair
    entry: Entry
    first: int
    last: int


def by_tag(views: Sequence[View]) -> dict[str, list[View]]:
    """The views of each validation tag, in the order of the entries."""
    found: dict[str, list[View]] = {}
    for view, tag in zip(views, tags_of([view.entry for view in views]), strict=True):
        found.setdefault(tag, []).append(view)
    return found


def _nobody_knows() -> int:
    raise ConfigError("data.end_of_text: is not set, and a dataset pair does not say which id ends an answer")


def open_views(train: Sequence[str], valid: Sequence[str] = (), *,
               end_of_text: Callable[[], int] = _nobody_knows) -> tuple[list[View], list[View]]:
    """Open the datasets of a run's training and validation entries.

    No two entries may share a document (DataError names both), and all must come from one tokenizer. Training entries
    have a weight all or none; validation reads every document once.

    Args:
        end_of_text: gives the id that closes an answer; asked where a dataset pair is opened, which does not say it.
    """
    train_entries, valid_entries = [parse_entry(text) for text in train], [parse_entry(text) for text in valid]
    _refuse_tags(train_entries)
    _check_weights("data.train", train_entries)
    _check_weights("data.valid", valid_entries)
    _refuse_unequal_weights(valid_entries)
    entries = [*train_entries, *valid_entries]
    datasets = {prefix: _open(prefix, end_of_text) for prefix in dict.fromkeys(entry.prefix for entry in entries)}
    views = [_view(datasets[entry.prefix], entry) for entry in entries]
    _refuse_overlap(views)
    _refuse_other_tokenizers(views)
    return views[:len(train)], views[len(train):]


def _open(prefix: str, end_of_text: Callable[[], int]) -> Dataset | Pair:
    pair = pair_of_half(prefix)
    if pair is not None and is_pair(pair):
        raise DataError(f"data: '{prefix}' is one half of a dataset pair; name the pair: '{pair}'")
    if re.match(f"{TAG}=", prefix) and not (is_pair(prefix) or with_suffix(Path(prefix), ".bin").is_file()):
        raise DataError(f"data: '{prefix}': there is no such dataset; if what is before the = is a tag, write a space after "
                        f"it: '{prefix.partition('=')[0]}= {prefix.partition('=')[2]}'")
    return open_pair(prefix, end_of_text=end_of_text()) if is_pair(prefix) else open_dataset(prefix)


def range_of(entry: Entry, documents: int) -> tuple[int, int]:
    """The first document of an entry's range and the one after its last, of a dataset of `documents`.

    Ranges that meet, as 0:0.95 and 0.95:1 do, are cut at the same document: the same product is rounded.

    >>> range_of(parse_entry("0:0.95 mix"), 30), range_of(parse_entry("0.95:1 mix"), 30)
    ((0, 28), (28, 30))
    """
    return round(entry.start * documents), round(entry.end * documents)


def _view(dataset: Dataset | Pair, entry: Entry) -> View:
    view = View(dataset, entry, *range_of(entry, dataset.documents))
    if view.first == view.last:
        raise DataError(f"data: '{entry}' holds none of the dataset's {dataset.documents} documents; widen the range")
    return view


def _refuse_tags(train: list[Entry]) -> None:
    for entry in train:
        if entry.tag:
            raise ConfigError(f"data.train: '{entry}' has the tag {entry.tag}, which names a validation loss; leave it out, or "
                              f"write './{entry.tag}= ...' if it is part of the prefix")


def _check_weights(field: str, entries: list[Entry]) -> None:
    with_weight = [entry for entry in entries if entry.weight is not None]
    without = [entry for entry in entries if entry.weight is None]
    if with_weight and without:
        raise ConfigError(f"{field}: '{with_weight[0]}' has a weight and '{without[0]}' has none; "
                          "give every entry a weight or none (without weights each document is read once per epoch)")


def _refuse_unequal_weights(valid: list[Entry]) -> None:
    for entry in valid[1:]:
        if entry.weight != valid[0].weight:
            raise ConfigError(f"data.valid: '{valid[0]}' and '{entry}' have different weights, {valid[0].weight:g} and "
                              f"{entry.weight:g}; validation reads every document once: leave the weights out")


def _refuse_overlap(views: list[View]) -> None:
    """By content, so that a copy under another name counts as the same dataset."""
    for index, one in enumerate(views):
        for other in views[index + 1:]:
            same = one.dataset.content == other.dataset.content
            shared = min(one.last, other.last) - max(one.first, other.first)
            if same and shared > 0:
                raise DataError(f"data: '{one.entry}' and '{other.entry}' share {shared} documents; what is validated "
                                "on must not be trained on, and nothing is read twice: separate the ranges")


def _refuse_other_tokenizers(views: list[View]) -> None:
    """By the tokenizers' fingerprints; of a dataset pair only the end-of-text id can be compared."""
    known = [view for view in views if view.dataset.tokenizer is not None]
    for view in known[1:]:
        one, other = known[0].dataset.tokenizer, view.dataset.tokenizer
        if one != other:
            raise DataError(f"data: '{known[0].entry}' and '{view.entry}' were made with different tokenizers "
                            f"({one} and {other}); tokenize both with the model's own")
    for view in views[1:]:
        one, other = views[0].dataset.end_of_text, view.dataset.end_of_text
        if one != other:
            raise DataError(f"data: answers of '{views[0].entry}' end with id {one}, those of '{view.entry}' with id {other}; "
                            "tokenize both with the model's own tokenizer, or correct data.end_of_text")
