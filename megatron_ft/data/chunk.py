"""A chunk of rows into documents: what one preprocessing process does at a time."""

from __future__ import annotations

import collections
import dataclasses
import functools
from typing import Any, Literal

import numpy as np

from megatron_ft import log
from megatron_ft.data import kinds, templates, tokenizer, tokenizer_fast
from megatron_ft.data.example import Example, RowError, Segment
from megatron_ft.data.fim import Fim
from megatron_ft.data.input_files import Chunk, Position
from megatron_ft.data.render import Document, Documents, LossOn, tokenize
from megatron_ft.data.rows import rows_of
from megatron_ft.data.templates import Template
from megatron_ft.data.tokenizer import Tokenizer
from megatron_ft.errors import ConfigError, DataError

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
    fim: Fim | None = None
    """What becomes of bare texts; None: they stay as they are."""

    def describe(self) -> dict[str, Any]:
        """For a manifest: the fields, each a string or a number; those of `fim` only if there is one."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "fim"}
        return fields | (self.fim.describe() if self.fim else {})


def complete(recipe: Recipe) -> Recipe:
    """The recipe with what it leaves to be found; ConfigError or DataError if it contradicts itself or the tokenizer."""
    kinds.check(recipe.kind)
    is_text = recipe.kind == "text"
    if is_text and not isinstance(templates.TEMPLATES.get(recipe.template), templates.Plain):
        raise ConfigError(f"--template: '{recipe.template}' words instructions and answers, and --kind text has neither; use "
                          "plain")
    if recipe.fim is None:
        return recipe
    if not is_text:
        kind = f"is {recipe.kind}" if recipe.kind else "is not given"
        raise ConfigError(f"--fim-rate: {recipe.fim.rate} of the texts are to be cut, but --kind {kind}; only bare texts are "
                          "(--kind text): make them and the instructions two datasets, and name both in data.train, with "
                          "weights")
    if recipe.fim.loss == "middle" and recipe.loss_on == "all":
        raise ConfigError("--fim-loss: 'middle' contradicts --loss-on all; leave one of them out")
    return dataclasses.replace(recipe, fim=recipe.fim.complete(reference(recipe.tokenizer), recipe.tokenizer))


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
    documents, truncated = _apply_long_rule(documents, examples, omissions, recipe, reader)
    counts = {"rows": rows, "documents": len(documents), "tokens": len(documents.ids),
              "supervised": int(documents.supervised.sum()), "truncated": truncated}
    return Block(documents, counts, dict(collections.Counter(example.kind for example in examples)),
                 sorted(omissions, key=lambda omission: omission.number), chunk.input_bytes, chunk.end, chunk.digest)


def draft_chunk(chunk: Chunk, recipe: Recipe,
                template: Template) -> tuple[list[Example], list[list[Segment]], list[Omission]]:
    """The examples in a chunk, each as worded by the template, and the rows that are none.

    An example that is cut for fill-in-the-middle says so in its kind: "text as PSM".
    """
    examples, drafts, omissions = [], [], []
    for row in rows_of(chunk):
        try:
            if row.error is not None:
                raise row.error
            example = kinds.to_example(row.value, kind=recipe.kind, source=row.source)
            filling = recipe.fim and recipe.fim.cut(example.bare_text)
            if filling:
                example = dataclasses.replace(example, kind=f"{example.kind} as {filling.order}")
            drafts.append(recipe.fim.segments(filling) if filling else template.segments(example))
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


def _apply_long_rule(documents: Documents, examples: list[Example], omissions: list[Omission], recipe: Recipe,
                     reader: Tokenizer) -> tuple[Documents, int]:
    """What stays, and how many were cut; the others join the omissions."""
    if recipe.max_length is None or not (documents.tokens > recipe.max_length).any():
        return documents, 0
    kept, truncated = [], 0
    for example, document in zip(examples, documents, strict=True):
        is_long = len(document.ids) > recipe.max_length
        shortened = _shortened(document, example, recipe, reader) if is_long and recipe.on_long == "truncate" else None
        if is_long and shortened is None:
            omissions.append(_too_long(example.source, len(document.ids), recipe))
            continue
        truncated += is_long
        kept.append(shortened or document)
    return Documents.join(kept), truncated


def _shortened(document: Document, example: Example, recipe: Recipe, reader: Tokenizer) -> Document | None:
    """The document in at most --max-length tokens; None if nothing is left of its answer.

    The end of a text that is cut for fill-in-the-middle is where its middle is. So it is the text that loses its end.
    """
    if recipe.fim is None or recipe.fim.cut(example.bare_text) is None:
        document = document.cut(recipe.max_length)
        return document if document.supervised else None
    characters = len(example.bare_text)
    while len(document.ids) > recipe.max_length:
        characters = characters * recipe.max_length // len(document.ids)  # never as many as before
        if characters == 0:
            return None
        (document,) = tokenize([recipe.fim.segments(recipe.fim.cut(example.bare_text, characters))], reader,
                               loss_on=recipe.loss_on)
    return document


def _too_long(source: str, tokens: int, recipe: Recipe) -> Omission:
    if recipe.on_long == "truncate":
        return Omission(NO_ANSWER, source, None)
    message = (f"{source}: the document has {tokens} tokens, --max-length is {recipe.max_length}; "
               "drop or cut such rows with --on-long=drop or truncate (they are counted)")
    return Omission(TOO_LONG, source, message if recipe.on_long == "stop" else None)
