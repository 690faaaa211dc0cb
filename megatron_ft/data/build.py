"""Rows into a dataset: chunks are rendered by one process or several and written in the order of the input.

How far it has come is saved every few seconds, so that the same command goes on there after a kill.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
import itertools
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from megatron_ft import log
from megatron_ft.data import inputs as input_finder
from megatron_ft.data.chunk import Block, Recipe, choose_encoder, complete, draft_chunk, reference, render_chunk, wording
from megatron_ft.data.example import Segment
from megatron_ft.data.indexed import with_suffix
from megatron_ft.data.input_files import Chunk, InputFile, Position
from megatron_ft.data.inputs import Shard
from megatron_ft.data.manifest import Manifest, describe_file, versions
from megatron_ft.data.parallel import ordered_map, require_workers
from megatron_ft.data.partial import Partial, partial_output
from megatron_ft.data.rows import Dropped
from megatron_ft.data.writer import Extent, Writer
from megatron_ft.errors import DataError

SAVE_EVERY_S = 5.0
SAMPLED_FILES = 4
SAMPLED_EXAMPLES = 64  # of each


def build(inputs: Sequence[str | Path], output: str | Path, recipe: Recipe, *, workers: int = 1,
          shard: Shard = Shard(), split: str = "train", encoder: Literal["auto", "reference"] = "auto") -> Manifest:  # noqa: B008
    """Write OUTPUT.bin, .idx and .json; they appear under their names when all is done.

    The .bin and .idx depend on inputs and recipe alone, not on `workers`, the encoder or interruptions; those of all
    shards, merged in order, are those of the whole.

    Args:
        inputs: see `inputs.find`.
        split: of `datasets` folders.
        encoder: reference forbids the fast one.
    """
    require_workers(workers)
    recipe = complete(recipe)
    files = input_finder.find([str(path) for path in inputs], split=split)
    with partial_output(Path(output)) as partial:
        if not partial.is_finished:
            _Build(files, recipe, shard, partial).run(workers, encoder)
        partial.publish()
    return Manifest.read(with_suffix(Path(output), ".json"))


@dataclasses.dataclass
class _Progress:
    """How far a build has come."""

    part: int = 0
    """The part that is being read."""
    position: Position | None = None
    """Where in it the next row is; None: at its begin."""
    extent: Extent = Extent()
    counts: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    kinds: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    dropped: Dropped = dataclasses.field(default_factory=Dropped)
    ends: dict[int, tuple[int, str]] = dataclasses.field(default_factory=dict)
    """Of each part that was begun the row it was read up to and the digest there."""
    input_bytes: int = 0

    def to_json(self) -> dict[str, Any]:
        """For `from_json`."""
        return vars(self) | {"position": self.position and vars(self.position), "extent": vars(self.extent),
                             "dropped": self.dropped.by_reason, "ends": list(self.ends.items())}

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> _Progress:
        """What `to_json` gave."""
        return cls(**saved | {
            "position": Position(**saved["position"]), "extent": Extent(**saved["extent"]),
            "counts": collections.Counter(saved["counts"]), "kinds": collections.Counter(saved["kinds"]),
            "dropped": Dropped(saved["dropped"]), "ends": {part: tuple(end) for part, end in saved["ends"]}})

    def add(self, part: int, block: Block) -> None:
        """Count a block that has been written."""
        self.part, self.position = part, block.end
        self.ends[part] = (block.end.row, block.digest)
        self.counts.update(block.counts)
        self.kinds.update(block.kinds)
        self.input_bytes += block.input_bytes
        for omission in block.omissions:
            self.dropped.add(omission.reason, omission.source)


class _Build:
    """One dataset in the making."""

    def __init__(self, files: Sequence[InputFile], recipe: Recipe, shard: Shard, partial: Partial) -> None:
        self._recipe, self._shard, self._partial = recipe, shard, partial
        self._parts = input_finder.parts(files, shard)
        self._reader = reference(recipe.tokenizer)
        self._template = wording(recipe)
        self._bytes = sum(file.bytes for file in files) // shard.count

    def run(self, workers: int, encoder: str) -> None:
        """Write the three files into the partial folder."""
        progress, digest = self._find_place()
        has_tables = any(part.file.is_table for part in self._parts)
        if workers > 1:  # `tokenizers` must not start threads in a process that is going to be forked
            os.environ["TOKENIZERS_PARALLELISM"] = "false"
        sample = self._sample()
        is_fast = encoder == "auto" and choose_encoder(sample, self._recipe)
        read: collections.deque[int] = collections.deque()
        blocks = ordered_map(functools.partial(render_chunk, recipe=self._recipe, fast=is_fast),
                             self._chunks(progress, digest, read), workers=workers, fork=not has_tables)
        with (Writer(self._partial.prefix, vocabulary=self._reader.vocabulary, after=progress.extent) as writer,
              log.progress(total=self._bytes, unit="B", label="tokenize", scale=True, initial=progress.input_bytes) as bar):
            self._write(blocks, read, writer, progress, bar)
            if not progress.counts["documents"] and self._shard.count == 1:
                raise self._no_documents(progress)
            writer.finish()
        self._manifest(progress).write(with_suffix(self._partial.prefix, ".json"))

    def _write(self, blocks: Iterable[Block], read: collections.deque[int], writer: Writer, progress: _Progress,
               bar: log.tqdm) -> None:
        saved_at = time.monotonic()
        try:
            for block in blocks:
                for omission in block.omissions:
                    if omission.fatal is not None:
                        raise DataError(omission.fatal)
                documents = block.documents
                writer.add(documents.ids, documents.lengths, documents.modes, segments=documents.segments)
                progress.add(read.popleft(), block)
                bar.update(block.input_bytes)
                if time.monotonic() - saved_at >= SAVE_EVERY_S:
                    self._save(writer, progress)
                    saved_at = time.monotonic()
        except BaseException:
            if self._partial.state() is not None:  # it was long enough to keep; short work is done again as fast
                self._save(writer, progress)
                log.get().info("what is done is kept: the same command goes on after %d documents", writer.extent.documents)
            raise

    def _save(self, writer: Writer, progress: _Progress) -> None:
        progress.extent = writer.sync()
        self._partial.save({"key": self._key(), "on_bad_row": self._recipe.on_bad_row, "progress": progress.to_json()})

    def _find_place(self) -> tuple[_Progress, Any]:
        """Where an interrupted build of the same dataset stopped, with the digest of what it had read; or the beginning."""
        state = self._partial.state()
        if state is not None:
            if fault := self._fault_of(state):
                log.get().warning("--output: an interrupted build of %s is thrown away, because %s", self._partial.output,
                                  fault)
            else:
                progress = _Progress.from_json(state["progress"])
                part = self._parts[progress.part]
                digest = part.file.digest(part.begin, progress.position)
                if digest.hexdigest() == progress.ends[progress.part][1]:
                    log.get().info("going on after row %d of %s: %d documents are there already", progress.position.row,
                                   part.file.path, progress.extent.documents)
                    return progress, digest
                log.get().warning("--output: an interrupted build of %s is thrown away, because %s has changed since",
                                  self._partial.output, part.file.path)
            self._partial.clear()
        return _Progress(), None

    def _fault_of(self, state: dict[str, Any]) -> str:
        """Why a saved state is not one of this build; empty if it is."""
        now = self._key()
        different = [name for name in now if state["key"].get(name) != now[name]]
        if state["on_bad_row"] == "skip" and self._recipe.on_bad_row == "stop":
            different.append("on_bad_row")
        return f"it had another {', '.join(different)}" if different else ""

    def _key(self) -> dict[str, Any]:
        """What a build must share with an interrupted one to go on with it."""
        recipe = self._recipe.describe()
        del recipe["on_bad_row"], recipe["tokenizer"]
        parts = [[part.file.path, dataclasses.asdict(part.begin), part.end and dataclasses.asdict(part.end)]
                 for part in self._parts]
        return recipe | {"tokenizer": self._reader.fingerprint, "template's text": self._template.fingerprint,
                         "input": parts, "versions of libraries": versions()}

    def _chunks(self, progress: _Progress, digest: Any, read: collections.deque[int]) -> Iterator[Chunk]:
        for number in range(progress.part, len(self._parts)):
            is_begun = number == progress.part and progress.position is not None
            for chunk in self._parts[number].chunks(after=progress.position if is_begun else None,
                                                    digest=digest if is_begun else None):
                read.append(number)
                yield chunk

    def _sample(self) -> list[list[Segment]]:
        """The first examples of some parts, spread over all of them; the log says what kind of rows they are."""
        found: list[list[Segment]] = []
        for number in range(0, len(self._parts), -(-len(self._parts) // SAMPLED_FILES) or 1):
            for chunk in itertools.islice(self._parts[number].chunks(), 1):
                examples, drafts, _ = draft_chunk(chunk, self._recipe, self._template)
                kinds_found = collections.Counter(example.kind for example in examples).most_common()
                named = ", ".join(kind for kind, _ in kinds_found)
                log.get().info("%s: %s", chunk.path, f"rows of the kind {named}" if named else "no example in the first rows")
                found += drafts[:SAMPLED_EXAMPLES]
        return found

    def _no_documents(self, progress: _Progress) -> DataError:
        reasons = {reason: entry["rows"] for reason, entry in progress.dropped.by_reason.items()}
        files = ", ".join(part.file.path for part in self._parts)
        return DataError(f"{files}: no document came of {progress.counts['rows']} rows (dropped: {reasons}); look at the "
                         "first of them")

    def _manifest(self, progress: _Progress) -> Manifest:
        nothing = hashlib.sha256().hexdigest()
        ends = [progress.ends.get(number, (part.begin.row, nothing)) for number, part in enumerate(self._parts)]
        counts = {name: progress.counts[name] for name in ("rows", "documents", "tokens", "supervised", "truncated")}
        return Manifest(
            recipe=self._recipe.describe() | {"shard": f"{self._shard.index}/{self._shard.count}"},
            template=self._recipe.template, template_fingerprint=self._template.fingerprint,
            tokenizer={"fingerprint": self._reader.fingerprint, "vocabulary": self._reader.vocabulary,
                       "end_of_text": self._reader.end_of_text},
            counts=counts, kinds=dict(progress.kinds), dropped=progress.dropped.by_reason, versions=versions(),
            inputs=[{"path": part.file.path, "bytes": part.file.bytes, "sha256": digest, "rows": [part.begin.row, row]}
                    for part, (row, digest) in zip(self._parts, ends, strict=True)],
            bin_file=describe_file(with_suffix(self._partial.prefix, ".bin")),
            idx_file=describe_file(with_suffix(self._partial.prefix, ".idx")))
