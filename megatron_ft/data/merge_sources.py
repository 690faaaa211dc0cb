"""Which datasets are merged, and in which order; what does not belong together is refused before anything is written."""

from __future__ import annotations

import dataclasses
import glob
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from megatron_ft import log
from megatron_ft.data.indexed import DTYPES, HEADER, MAGIC, VERSION, with_suffix
from megatron_ft.data.inputs import Shard
from megatron_ft.data.manifest import Manifest
from megatron_ft.data.pairs import is_pair, pair_of_half
from megatron_ft.data.partial import SUFFIXES
from megatron_ft.data.writer import AT_ONCE, COLUMNS, LENGTHS, MODES, SEGMENTS, Extent
from megatron_ft.errors import ConfigError, DataError

FREE_AMONG_SHARDS = {"shard", "tokenizer", "on_bad_row"}
"""What shards of one build may differ in: a tokenizer's path is not its content, and the others change no document."""


def find(inputs: Sequence[str | Path]) -> list[Path]:
    """The prefixes that some --input arguments name: prefixes, globs, and files of datasets, as a shell's glob gives them.

    ConfigError where an argument names nothing or is given twice.
    """
    found: dict[Path, str] = {}
    for text in map(str, inputs):
        if text in found.values():
            raise ConfigError(f"--input: names {text} twice, so its documents would be in the dataset twice; name it once")
        names = [text]
        if glob.has_magic(text) and not with_suffix(Path(text), ".json").exists():
            names = sorted(name for pattern in (text, f"{text}.json") for name in glob.glob(pattern, recursive=True)  # noqa: PTH207 - absolute patterns
                           if name.endswith(SUFFIXES))
            if not names:
                raise DataError(f"--input: no dataset matches '{text}'; quote the pattern and check where it is relative to "
                                f"({Path.cwd()})")
        for name in names:
            suffix = next((suffix for suffix in SUFFIXES if name.endswith(suffix) and Path(name).is_file()), "")
            found.setdefault(Path(name.removesuffix(suffix)), text)
    return list(found)


@dataclasses.dataclass(frozen=True)
class Source:
    """A dataset to be merged. Its files are compared with the hashes in its manifest when they are read."""

    prefix: Path
    manifest: Manifest
    dtype: np.dtype
    extent: Extent

    @classmethod
    def open(cls, prefix: Path) -> Source:
        """Look at the manifest and the index's header."""
        pair = prefix if is_pair(prefix) else pair_of_half(prefix)
        if pair is not None and is_pair(pair):
            raise DataError(f"--input: '{prefix}' is a dataset pair of OctoPack's Megatron, or half of one, and cannot be "
                            f"merged: nothing says which tokenizer made it; name it in data.train as it is ('{pair}')")
        present = [with_suffix(prefix, suffix).is_file() for suffix in SUFFIXES]
        if not any(present):
            raise DataError(f"--input: there is no dataset '{prefix}'; name what --output of preprocess/tokenize_sft.py named")
        manifest = Manifest.read(with_suffix(prefix, ".json"))
        for suffix, described in ((".bin", manifest.bin_file), (".idx", manifest.idx_file)):
            path = with_suffix(prefix, suffix)
            size = path.stat().st_size if path.is_file() else None
            if size != described["bytes"]:
                found = "is missing" if size is None else f"has {size} bytes"
                raise DataError(f"{path}: {found} where {prefix.name}.json says {described['bytes']} bytes; the copy is "
                                "incomplete or of another dataset: copy it again or make it again")
        return cls(prefix, manifest, *_read_header(with_suffix(prefix, ".idx"), manifest))

    @property
    def shard(self) -> Shard:
        """Which part of a build it is."""
        return Shard.parse(self.manifest.recipe.get("shard", "0/1"))

    def path(self, suffix: str) -> Path:
        """One of its files."""
        return with_suffix(self.prefix, suffix)

    def blocks(self, column: str) -> Iterator[np.ndarray]:
        """The entries of one of the writer's COLUMNS."""
        sequences = self.extent.segments
        at = {LENGTHS: HEADER.size, SEGMENTS: HEADER.size + 12 * sequences,
              MODES: HEADER.size + 12 * sequences + 8 * (self.extent.documents + 1)}
        with open(self.path(".idx"), "rb") as stream:
            stream.seek(at[column])
            if column == SEGMENTS:
                yield from _differences(stream, self.extent.documents)
                return
            for first in range(0, sequences, AT_ONCE):
                yield np.fromfile(stream, COLUMNS[column], min(AT_ONCE, sequences - first))


def _read_header(path: Path, manifest: Manifest) -> tuple[np.dtype, Extent]:
    """The type of the ids, and how much there is."""
    with open(path, "rb") as stream:
        head = stream.read(HEADER.size)
    fields = HEADER.unpack(head) if len(head) == HEADER.size else (b"", 0, 0, 0, 0)
    magic, version, code, sequences, starts = fields
    if magic != MAGIC or version != VERSION or code not in DTYPES:
        raise damaged(path)
    dtype = np.dtype(DTYPES[code])
    extent = Extent(manifest.bin_file["bytes"] // dtype.itemsize, sequences, starts - 1)
    if manifest.counts and manifest.counts["documents"] != extent.documents:
        raise DataError(f"{path}: holds {extent.documents} documents where {path.with_suffix('.json').name} counts "
                        f"{manifest.counts['documents']}; make the dataset again")
    return dtype, extent


def _differences(stream: Any, documents: int) -> Iterator[np.ndarray]:
    """Segments of each document, from the document starts that the stream holds next."""
    last = np.fromfile(stream, np.int64, 1)
    for first in range(0, documents, AT_ONCE):
        starts = np.concatenate([last, np.fromfile(stream, np.int64, min(AT_ONCE, documents - first))])
        yield np.diff(starts)
        last = starts[-1:]


def in_order(sources: list[Source]) -> list[Source]:
    """The datasets as they are to follow one another; DataError if they do not belong together."""
    first = sources[0]
    for other in sources[1:]:
        ours, theirs = ({**source.manifest.tokenizer, "bytes per id": source.dtype.itemsize} for source in (first, other))
        if ours != theirs:
            raise DataError(f"--input: '{first.prefix}' and '{other.prefix}' were made with different tokenizers "
                            f"({ours} and {theirs}); tokenize both with the model's own")
    if not any(source.extent.documents for source in sources):
        raise DataError(f"--input: none of {', '.join(str(source.prefix) for source in sources)} holds a document; look at "
                        "the rows that were dropped (preprocess/inspect_dataset.py)")
    if any(source.shard.count > 1 for source in sources):
        return _shards_in_order(sources)
    by_content: dict[str, Source] = {}
    for source in sources:
        same = by_content.setdefault(source.manifest.bin_file["sha256"], source)
        if same is not source and source.extent.documents:
            raise DataError(f"--input: '{same.prefix}' and '{source.prefix}' hold the same documents, which would be in the "
                            "dataset twice; name one of them (to read it more often, give it a weight in data.train)")
    return sources


def _shards_in_order(sources: list[Source]) -> list[Source]:
    first = next(source for source in sources if source.shard.count > 1)
    for other in sources:
        if other.shard.count == 1:
            raise DataError(f"--input: '{other.prefix}' is a whole dataset and '{first.prefix}' is shard "
                            f"{_name(first.shard)}; merge the shards of a build alone, and what comes of them with others")
        if different := _differing(first, other):
            raise DataError(f"--input: '{first.prefix}' and '{other.prefix}' are shards of different builds "
                            f"({different}); merge the shards of one build")
    _require_each_once(sources, first.shard.count)
    ordered = sorted(sources, key=lambda source: source.shard.index)
    _require_unbroken(ordered)
    if ordered != sources:
        log.get().info("--input: put into the order of the shards: %s", ", ".join(str(source.prefix) for source in ordered))
    return ordered


def _differing(one: Source, other: Source) -> str:
    """What tells that two shards are not of one build; empty if nothing does."""
    mine, theirs = ({"number of shards": source.shard.count, "template's text": source.manifest.template_fingerprint[:12]}
                    | {name: value for name, value in source.manifest.recipe.items() if name not in FREE_AMONG_SHARDS}
                    for source in (one, other))
    return "; ".join(f"{name}: {mine.get(name)} and {theirs.get(name)}" for name in mine | theirs
                     if mine.get(name) != theirs.get(name))


def _require_each_once(sources: list[Source], count: int) -> None:
    prefixes: dict[int, list[str]] = {index: [] for index in range(count)}
    for source in sources:
        prefixes[source.shard.index].append(f"'{source.prefix}'")
    faults = [f"shard {index}/{count} is there twice ({' and '.join(found)})" for index, found in prefixes.items()
              if len(found) > 1]
    if missing := [f"{index}/{count}" for index, found in prefixes.items() if not found]:
        faults.append(f"shard{'s' * (len(missing) > 1)} {', '.join(missing)} missing")
    if faults:
        raise DataError(f"--input: {'; '.join(faults)}; all {count} shards of a build must be named, each once (a missing one "
                        "is made by preprocess/tokenize_sft.py --shard)")


def _require_unbroken(ordered: list[Source]) -> None:
    """Each shard must have begun to read where the one before it stopped."""
    read: dict[str, dict[str, Any]] = {}
    for source in ordered:
        for stretch in source.manifest.inputs:
            path, (begin, end) = stretch["path"], stretch["rows"]
            before = read.get(path, {"rows": [0, 0], "bytes": stretch["bytes"]})
            goes_on = path not in read or path == list(read)[-1]
            if begin != before["rows"][1] or not goes_on or before["bytes"] != stretch["bytes"]:
                raise DataError(f"{source.prefix}: as shard {_name(source.shard)} it read {path} ({stretch['bytes']} bytes) "
                                f"from row {begin} to {end}, where the shards before it had read that file "
                                f"({before['bytes']} bytes) up to row {before['rows'][1]}; rows would be missing or double: "
                                "make all shards with the same --input, in the same order, of files that do not change")
            read[path] = stretch


def _name(shard: Shard) -> str:
    return f"{shard.index}/{shard.count}"


def damaged(path: Path) -> DataError:
    """The error for a file that has another hash than its manifest says."""
    return DataError(f"{path}: is not the file that its manifest describes (another hash); it is damaged or was changed: copy "
                     "it again or make the dataset again")
