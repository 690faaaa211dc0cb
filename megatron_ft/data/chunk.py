"""A stretch of an input file into documents: what one preprocessing process does at a time."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from megatron_ft.data import templates, tokenizer
from megatron_ft.data.records import RowError, read_row, stream_lines
from megatron_ft.data.render import Document, render
from megatron_ft.data.templates import Template
from megatron_ft.data.tokenizer import Tokenizer

CHUNK_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything but the input that decides what is in a dataset."""

    tokenizer: str
    """Path; see `tokenizer.load`."""
    template: str
    on_bad_row: Literal["stop", "skip"] = "stop"
    max_length: int | None = None
    """Longest document in tokens, opening and end-of-text tokens included; None: any."""
    on_long: Literal["stop", "drop", "truncate"] = "stop"


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Some lines of a file."""

    path: str
    first_line: int
    lines: list[bytes]


@dataclasses.dataclass(frozen=True)
class Omission:
    """A row that gave no document."""

    reason: str
    source: str
    fatal: str | None
    """The message to stop with, where the recipe says stop."""


@dataclasses.dataclass(frozen=True)
class Block:
    """The documents of a chunk, end to end."""

    ids: np.ndarray
    """int32 [tokens]."""
    lengths: np.ndarray
    """int32 [segments]."""
    modes: np.ndarray
    """int8 [segments]."""
    segments: np.ndarray
    """int64 [documents]: segments of each."""
    counts: dict[str, int]
    """{"rows", "documents", "tokens", "supervised", "truncated"}."""
    omissions: list[Omission]
    input_bytes: int


def cut_into_chunks(path: Path, digest: Any) -> Iterator[Chunk]:
    """The lines of a file, about a megabyte at a time; `digest` (of hashlib) is fed with every byte."""
    lines: list[bytes] = []
    first, size = 1, 0
    for number, line in stream_lines(path):
        digest.update(line)
        lines.append(line)
        size += len(line)
        if size >= CHUNK_BYTES:
            yield Chunk(str(path), first, lines)
            lines, first, size = [], number + 1, 0
    if lines:
        yield Chunk(str(path), first, lines)


def render_chunk(chunk: Chunk, recipe: Recipe) -> Block:
    """The documents of a chunk. Pure, so that any process may do it."""
    template, reader = _tools(recipe)
    omissions: list[Omission] = []
    examples = []
    for number, line in enumerate(chunk.lines, start=chunk.first_line):
        source = f"{chunk.path}:{number}"
        try:
            example = read_row(line, source)
        except RowError as error:
            omissions.append(Omission(error.reason, source, str(error) if recipe.on_bad_row == "stop" else None))
            continue
        if example is not None:
            examples.append(example)
    rows = len(examples) + len(omissions)
    documents, truncated = [], 0
    for example, document in zip(examples, render(examples, template, reader), strict=True):
        is_long = recipe.max_length is not None and len(document.ids) > recipe.max_length
        if is_long and recipe.on_long == "truncate":
            document = document.cut(recipe.max_length)
        if is_long and (recipe.on_long != "truncate" or not document.supervised):
            omissions.append(_too_long(example.source, len(document.ids), recipe))
            continue
        truncated += is_long
        documents.append(document)
    return _block(documents, omissions, rows=rows, truncated=truncated, input_bytes=sum(map(len, chunk.lines)))


@functools.lru_cache(maxsize=1)
def _tools(recipe: Recipe) -> tuple[Template, Tokenizer]:
    return templates.get(recipe.template), tokenizer.load(recipe.tokenizer)


def _too_long(source: str, tokens: int, recipe: Recipe) -> Omission:
    if recipe.on_long == "truncate":
        return Omission("no answer within --max-length", source, None)
    message = (f"{source}: the document has {tokens} tokens, --max-length is {recipe.max_length}; "
               "drop or cut such rows with --on-long=drop or truncate (they are counted)")
    return Omission("longer than --max-length", source, message if recipe.on_long == "stop" else None)


def _block(documents: list[Document], omissions: list[Omission], *, rows: int, truncated: int,
           input_bytes: int) -> Block:
    def joined(name: str, dtype: type) -> np.ndarray:
        return np.concatenate([np.empty(0, dtype), *(getattr(document, name) for document in documents)])

    ids = joined("ids", np.int32)
    counts = {"rows": rows, "documents": len(documents), "tokens": len(ids),
              "supervised": sum(document.supervised for document in documents), "truncated": truncated}
    return Block(ids=ids, lengths=joined("lengths", np.int32), modes=joined("modes", np.int8),
                 segments=np.array([len(document.lengths) for document in documents], dtype=np.int64), counts=counts,
                 omissions=sorted(omissions, key=lambda omission: int(omission.source.rpartition(":")[2])),
                 input_bytes=input_bytes)
