"""JSONL files into a dataset: chunks are rendered by one process or several and written in the order of the input."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import hashlib
import itertools
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from megatron_ft import cli, log
from megatron_ft.data import templates, tokenizer
from megatron_ft.data.chunk import Block, Chunk, Recipe, cut_into_chunks, render_chunk
from megatron_ft.data.indexed import Writer, with_suffix
from megatron_ft.data.manifest import Manifest, describe_file, versions
from megatron_ft.data.rows import Dropped
from megatron_ft.errors import ConfigError, DataError

SUFFIXES = (".bin", ".idx", ".json")  # the manifest comes last: it says that the dataset is whole
CHUNKS_AHEAD = 3  # per process: enough to keep it busy, few enough to keep memory flat


def build(inputs: Sequence[str | Path], output: str | Path, recipe: Recipe, *, workers: int = 1) -> Manifest:
    """Write OUTPUT.bin, .idx and .json; they appear under their names when all is done.

    The .bin and .idx depend on inputs and recipe alone, not on `workers`.
    """
    files, output = [Path(path) for path in inputs], Path(output)
    _check(files, output, workers)
    templates.get(recipe.template)
    reader = tokenizer.load(recipe.tokenizer)
    digests = [hashlib.sha256() for _ in files]
    chunks = itertools.chain.from_iterable(map(cut_into_chunks, files, digests))
    size = sum(path.stat().st_size for path in files)
    with _beside(output) as partial:
        with (Writer(partial, vocabulary=reader.vocabulary) as writer,
              log.progress(total=size, unit="B", label="tokenize", scale=True) as bar):
            counts, dropped = _write(_blocks(chunks, recipe, workers), writer, bar)
            writer.finish()
        if not counts["documents"]:
            reasons = {reason: entry["rows"] for reason, entry in dropped.by_reason.items()}
            raise DataError(f"{', '.join(map(str, files))}: no document came of {counts['rows']} rows "
                            f"(dropped: {reasons}); look at the first of them")
        manifest = Manifest(
            template=recipe.template,
            tokenizer={"fingerprint": reader.fingerprint, "vocabulary": reader.vocabulary,
                       "end_of_text": reader.end_of_text},
            counts=dict(counts), dropped=dropped.by_reason, versions=versions(),
            inputs=[{"path": str(path), "bytes": path.stat().st_size, "sha256": digest.hexdigest()}
                    for path, digest in zip(files, digests, strict=True)],
            bin_file=describe_file(with_suffix(partial, ".bin")),
            idx_file=describe_file(with_suffix(partial, ".idx")))
        manifest.write(with_suffix(partial, ".json"))
    return manifest


def _check(files: list[Path], output: Path, workers: int) -> None:
    if workers < 1:
        raise ConfigError(f"--workers: {workers} processes do nothing; use 1 or more")
    for suffix in SUFFIXES:
        cli.require_absent(with_suffix(output, suffix), option="--output")
    for path in files:
        if not path.is_file():
            raise DataError(f"--input: {path} is no file; name JSONL files")
    if len({path.resolve() for path in files}) < len(files):
        raise ConfigError("--input: names a file twice, so its rows would be in the dataset twice; name each once")


def _write(blocks: Iterable[Block], writer: Writer, bar: log.tqdm) -> tuple[collections.Counter[str], Dropped]:
    counts: collections.Counter[str] = collections.Counter()
    dropped = Dropped()
    for block in blocks:
        for omission in block.omissions:
            if omission.fatal is not None:
                raise DataError(omission.fatal)
            dropped.add(omission.reason, omission.source)
        documents = block.documents
        writer.add(documents.ids, documents.lengths, documents.modes, segments=documents.segments)
        counts.update(block.counts)
        bar.update(block.input_bytes)
    return counts, dropped


def _blocks(chunks: Iterable[Chunk], recipe: Recipe, workers: int) -> Iterator[Block]:
    """Every chunk's block, in order; at most a few chunks per process are in memory."""
    if workers == 1:
        yield from (render_chunk(chunk, recipe) for chunk in chunks)
        return
    # spawn: a fork of a process in which `tokenizers` has threads can hang; each process then needs no threads inside.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context, initializer=_use_one_thread) as pool:
        pending: collections.deque[concurrent.futures.Future[Block]] = collections.deque()
        try:
            for chunk in chunks:
                pending.append(pool.submit(render_chunk, chunk, recipe))
                if len(pending) >= CHUNKS_AHEAD * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except concurrent.futures.process.BrokenProcessPool as error:
            raise DataError(f"--workers: one of {workers} processes was killed, most often by the memory limit; "
                            "use fewer") from error


def _use_one_thread() -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # read by `tokenizers` when it first encodes a batch


@contextlib.contextmanager
def _beside(output: Path) -> Iterator[Path]:
    """A prefix in a hidden folder beside `output`; its files move to `output` when the block ends well."""
    output.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{output.name}.", suffix=".partial", dir=output.parent))
    try:
        yield folder / output.name
        for suffix in SUFFIXES:
            with_suffix(folder / output.name, suffix).rename(with_suffix(output, suffix))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
