"""Several datasets into one: the .bin byte for byte, the .idx anew, the manifest summed. Memory does not grow with them.

The shards of one build give what the build gives without shards, whatever order they are named in.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from megatron_ft import log
from megatron_ft.data.indexed import with_suffix
from megatron_ft.data.manifest import Manifest, describe_file
from megatron_ft.data.merge_sources import Source, damaged, find, in_order
from megatron_ft.data.partial import Partial, partial_output
from megatron_ft.data.rows import Dropped
from megatron_ft.data.writer import Extent, write_index
from megatron_ft.errors import ConfigError

BLOCK_BYTES = 1 << 22


def merge(inputs: Sequence[str | Path], output: str | Path) -> Manifest:
    """Write OUTPUT.bin, .idx and .json; they appear under their names when all is done.

    Args:
        inputs: prefixes, or globs of them. Shards of one build must be all there, and are put into their order; other
            datasets follow one another as they are named.
    """
    sources = in_order([Source.open(prefix) for prefix in find(inputs)])
    with partial_output(Path(output)) as partial:
        if partial.is_finished:
            _require_same(_finished_manifest(partial), sources, partial)
        else:
            if partial.state() is not None:
                raise ConfigError(f"--output: {partial.folder} is an interrupted preprocess/tokenize_sft.py of {output}; let "
                                  "it finish, remove the folder, or name another output")
            _write(sources, partial.prefix)
        partial.publish()
    return Manifest.read(with_suffix(Path(output), ".json"))


def _write(sources: list[Source], prefix: Path) -> None:
    """The three files, from sources whose every byte is compared with its hash."""
    described = [(source.path(".idx"), source.manifest.idx_file) for source in sources]
    copied = [(source.path(".bin"), source.manifest.bin_file) for source in sources]
    total = sum(file["bytes"] for _, file in described + copied)
    digest = hashlib.sha256()
    with log.progress(total=total, unit="B", label="merge", scale=True) as bar:
        for path, file in described:
            collections.deque(_verified_blocks(path, file, bar), maxlen=0)
        with open(with_suffix(prefix, ".bin"), "wb") as stream:
            for path, file in copied:
                for block in _verified_blocks(path, file, bar):
                    stream.write(block)
                    digest.update(block)
            stream.flush()
            os.fsync(stream.fileno())
    extent = Extent(*(sum(getattr(source.extent, field.name) for source in sources) for field in dataclasses.fields(Extent)))
    index = with_suffix(prefix, ".idx")
    write_index(index, sources[0].dtype, extent,
                lambda column: itertools.chain.from_iterable(source.blocks(column) for source in sources))
    manifest = dataclasses.replace(
        _joined(sources), bin_file={"bytes": extent.tokens * sources[0].dtype.itemsize, "sha256": digest.hexdigest()},
        idx_file=describe_file(index))
    manifest.write(with_suffix(prefix, ".json"))


def _verified_blocks(path: Path, described: dict[str, Any], bar: log.tqdm) -> Iterator[bytes]:
    """The bytes of a file; DataError after the last of them if they are not those that its manifest describes."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(BLOCK_BYTES):
            digest.update(block)
            yield block
            bar.update(len(block))
    if digest.hexdigest() != described["sha256"]:
        raise damaged(path)


def _joined(sources: list[Source]) -> Manifest:
    """The manifest of all together, its own two files left blank; a log line for what differs."""
    manifests = [source.manifest for source in sources]
    counts: collections.Counter[str] = collections.Counter()
    kinds: collections.Counter[str] = collections.Counter()
    dropped = Dropped()
    for manifest in manifests:
        counts.update(manifest.counts)
        kinds.update(manifest.kinds)
        dropped.merge(manifest.dropped)
    recipe = _common_fields([manifest.recipe for manifest in manifests])
    recipe |= {name: manifests[0].recipe[name] for name in ("tokenizer",) if name in manifests[0].recipe} | {"shard": "0/1"}
    versions = _common_fields([manifest.versions for manifest in manifests])
    for name, value in (recipe | versions).items():
        if str(value).startswith(MIXED):
            log.get().info("--input: the datasets differ in %s: %s", name, value)
    return Manifest(
        recipe=recipe, template=_common([manifest.template for manifest in manifests]),
        template_fingerprint=_common([manifest.template_fingerprint for manifest in manifests]),
        tokenizer=manifests[0].tokenizer, counts=dict(counts), kinds=dict(kinds), dropped=dropped.by_reason,
        inputs=[stretch for manifest in manifests for stretch in manifest.inputs], versions=versions, bin_file={}, idx_file={})


MIXED = "mixed ("


def _common(values: Sequence[Any]) -> Any:
    """The value, if there is but one; else all of them, as text.

    >>> _common([1, 1]), _common(["plain", "mixed (alpaca, plain)"])
    (1, 'mixed (alpaca, plain)')
    """
    if all(value == values[0] for value in values):
        return values[0]
    names = [name for value in map(str, values)
             for name in (value[len(MIXED):-1].split(", ") if value.startswith(MIXED) else [value])]
    return f"{MIXED}{', '.join(sorted(set(names)))})"


def _common_fields(all_fields: Sequence[dict[str, Any]]) -> dict[str, Any]:
    names = dict.fromkeys(name for fields in all_fields for name in fields)
    return {name: _common([fields.get(name) for fields in all_fields]) for name in names}


def _finished_manifest(partial: Partial) -> Manifest:
    """Of a dataset whose process was killed while it moved the files to their place."""
    path = with_suffix(partial.prefix, ".json")
    return Manifest.read(path if path.exists() else with_suffix(partial.output, ".json"))


def _require_same(finished: Manifest, sources: list[Source], partial: Partial) -> None:
    if dataclasses.replace(_joined(sources), bin_file=finished.bin_file, idx_file=finished.idx_file) != finished:
        raise ConfigError(f"--output: {partial.folder} holds another finished dataset, whose process was killed while it moved "
                          "the files to their place; run that command again, or remove the folder and the files that are "
                          f"there already ({partial.output}.*)")
