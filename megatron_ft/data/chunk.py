"""A stretch of an input file into documents: what one preprocessing process does at a time."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from megatron_ft.data import templates, tokenizer
from megatron_ft.data.example import Example
from megatron_ft.data.records import read_row, stream_lines
from megatron_ft.data.rows import RowError
from megatron_ft.data.render import Documents, render
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
    """What a chunk gave."""

    documents: Documents
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
    documents, long_ones, truncated = _apply_long_rule(render(examples, template, reader), examples, recipe)
    omissions += long_ones
    counts = {"rows": rows, "documents": len(documents), "tokens": len(documents.ids),
              "supervised": int(documents.supervised.sum()), "truncated": truncated}
    return Block(documents, counts, input_bytes=sum(map(len, chunk.lines)),
                 omissions=sorted(omissions, key=lambda omission: int(omission.source.rpartition(":")[2])))


def _apply_long_rule(documents: Documents, examples: list[Example],
                     recipe: Recipe) -> tuple[Documents, list[Omission], int]:
    """What stays, what does not, and how many were cut."""
    if recipe.max_length is None or not (documents.tokens > recipe.max_length).any():
        return documents, [], 0
    kept, omissions, truncated = [], [], 0
    for example, document in zip(examples, documents, strict=True):
        is_long = len(document.ids) > recipe.max_length
        if is_long and recipe.on_long == "truncate":
            document = document.cut(recipe.max_length)
        if is_long and (recipe.on_long != "truncate" or not document.supervised):
            omissions.append(_too_long(example.source, len(document.ids), recipe))
            continue
        truncated += is_long
        kept.append(document)
    return Documents.join(kept), omissions, truncated


@functools.lru_cache(maxsize=1)
def _tools(recipe: Recipe) -> tuple[Template, Tokenizer]:
    return templates.get(recipe.template), tokenizer.load(recipe.tokenizer)


def _too_long(source: str, tokens: int, recipe: Recipe) -> Omission:
    if recipe.on_long == "truncate":
        return Omission("no answer within --max-length", source, None)
    message = (f"{source}: the document has {tokens} tokens, --max-length is {recipe.max_length}; "
               "drop or cut such rows with --on-long=drop or truncate (they are counted)")
    return Omission("longer than --max-length", source, message if recipe.on_long == "stop" else None)

