"""A chunk of rows into documents: what one preprocessing process does at a time."""

from __future__ import annotations

import collections
import dataclasses
import functools
from typing import Literal

import numpy as np

from megatron_ft import log
from megatron_ft.data import kinds, templates, tokenizer, tokenizer_fast
from megatron_ft.data.example import Example, RowError, Segment
from megatron_ft.data.input_files import Chunk, Position
from megatron_ft.data.render import Documents, LossOn, tokenize
from megatron_ft.data.rows import rows_of
from megatron_ft.data.templates import Template
from megatron_ft.data.tokenizer import Tokenizer
from megatron_ft.errors import DataError

NO_ANSWER = "no answer within --max-length"
TOO_LONG = "longer than --max-length"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything but the input that decides what is in a dataset."""

    tokenizer: str
    """Path; see `tokenizer.load`."""
    template: str
    kind: str | None = None
    """What rows are read as; None: each row's keys say."""
    loss_on: LossOn = "answers"
    on_bad_row: Literal["stop", "skip"] = "stop"
    max_length: int | None = None
    """Longest document in tokens, opening and end-of-text tokens included; None: any."""
    on_long: Literal["stop", "drop", "truncate"] = "stop"


@dataclasses.dataclass(frozen=True)
class Omission:
    """A row that gave no document."""

    reason: str
    source: str
    fatal: str | None
    """The message to stop with, where the recipe says stop."""

    @property
    def number(self) -> int:
        """The row's, in its file."""
        return int(self.source.rpartition(":")[2])


@dataclasses.dataclass(frozen=True)
class Block:
    """What a chunk gave."""

    documents: Documents
    counts: dict[str, int]
    """{"rows", "documents", "tokens", "supervised", "truncated"}."""
    kinds: dict[str, int]
    """Rows of each kind."""
    omissions: list[Omission]
    input_bytes: int
    end: Position
    digest: str
    """Where the chunk ended, and the digest there; see `input_files.Chunk`."""


def render_chunk(chunk: Chunk, recipe: Recipe, *, fast: bool) -> Block:
    """The documents of a chunk. Pure, so that any process may do it.

    Args:
        fast: encode by gigatoken. One example of every chunk is encoded by the reference too; DataError if they differ.
    """
    template, reader = wording(recipe), fast_form(recipe.tokenizer) if fast else reference(recipe.tokenizer)
    examples, drafts, omissions = draft_chunk(chunk, recipe, template)
    rows = len(examples) + len(omissions)
    documents = tokenize(drafts, reader, loss_on=recipe.loss_on)
    if isinstance(reader, tokenizer_fast.FastTokenizer):
        _audit(documents, examples, drafts, reader)
    reader.forget()
    documents, truncated = _apply_long_rule(documents, examples, omissions, recipe)
    counts = {"rows": rows, "documents": len(documents), "tokens": len(documents.ids),
              "supervised": int(documents.supervised.sum()), "truncated": truncated}
    return Block(documents, counts, dict(collections.Counter(example.kind for example in examples)),
                 sorted(omissions, key=lambda omission: omission.number), chunk.input_bytes, chunk.end, chunk.digest)


def draft_chunk(chunk: Chunk, recipe: Recipe,
                template: Template) -> tuple[list[Example], list[list[Segment]], list[Omission]]:
    """The examples in a chunk, each as worded by the template, and the rows that are none."""
    examples, drafts, omissions = [], [], []
    for row in rows_of(chunk):
        try:
            if row.error is not None:
                raise row.error
            example = kinds.to_example(row.value, kind=recipe.kind, source=row.source)
            drafts.append(template.segments(example))
        except RowError as error:
            fatal = str(error) if recipe.on_bad_row == "stop" else None
            omissions.append(Omission(error.reason, row.source, fatal))
        else:
            examples.append(example)
    return examples, drafts, omissions


@functools.lru_cache(maxsize=1)
def wording(recipe: Recipe) -> Template:
    """The recipe's template, once the tokenizer is known to have its special tokens; loaded once per process."""
    return templates.get(recipe.template, tokenizer_path=recipe.tokenizer)


@functools.lru_cache(maxsize=1)
def reference(path: str) -> Tokenizer:
    """The tokenizer at a path, as its own library reads it; loaded once per process."""
    return tokenizer.load(path)


@functools.lru_cache(maxsize=1)
def fast_form(path: str) -> Tokenizer:
    """The same tokenizer with gigatoken, if it has that form; made once per process."""
    return tokenizer_fast.accelerate(reference(path))


def choose_encoder(drafts: list[list[Segment]], recipe: Recipe) -> bool:
    """Whether gigatoken gives the reference's ids on some examples of the data; a log line says what encodes."""
    reader = reference(recipe.tokenizer)
    try:
        fast = fast_form(recipe.tokenizer)
        found, expected = tokenize(drafts, fast), tokenize(drafts, reader)
        if not (np.array_equal(found.ids, expected.ids) and np.array_equal(found.lengths, expected.lengths)):
            raise tokenizer_fast.UnsupportedError("gigatoken gives other ids for the first rows")
    except tokenizer_fast.UnsupportedError as error:
        log.get().info("encoding with %s, the reference: %s", reader.library, error)
        return False
    log.get().info("encoding with gigatoken, which gave the ids of %s on the first rows", reader.library)
    return True


def _audit(documents: Documents, examples: list[Example], drafts: list[list[Segment]],
           reader: tokenizer_fast.FastTokenizer) -> None:
    if examples and not np.array_equal(documents[0].ids, tokenize(drafts[:1], reader.reference).ids):
        raise DataError(f"{examples[0].source}: gigatoken gives other ids than the reference tokenizer; build the dataset "
                        "with --encoder reference, and please report the row")


def _apply_long_rule(documents: Documents, examples: list[Example], omissions: list[Omission],
                     recipe: Recipe) -> tuple[Documents, int]:
    """What stays, and how many were cut; the others join the omissions."""
    if recipe.max_length is None or not (documents.tokens > recipe.max_length).any():
        return documents, 0
    kept, truncated = [], 0
    for example, document in zip(examples, documents, strict=True):
        is_long = len(document.ids) > recipe.max_length
        if is_long and recipe.on_long == "truncate":
            document = document.cut(recipe.max_length)
        if is_long and (recipe.on_long != "truncate" or not document.supervised):
            omissions.append(_too_long(example.source, len(document.ids), recipe))
            continue
        truncated += is_long
        kept.append(document)
    return Documents.join(kept), truncated


def _too_long(source: str, tokens: int, recipe: Recipe) -> Omission:
    if recipe.on_long == "truncate":
        return Omission(NO_ANSWER, source, None)
    message = (f"{source}: the document has {tokens} tokens, --max-length is {recipe.max_length}; "
               "drop or cut such rows with --on-long=drop or truncate (they are counted)")
    return Omission(TOO_LONG, source, message if recipe.on_long == "stop" else None)
