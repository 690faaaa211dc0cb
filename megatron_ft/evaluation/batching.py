"""What is asked of a model, and in which batches: rows of similar length together, as many as the budget of tokens allows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from megatron_ft.data.templates import Segment
from megatron_ft.errors import EvaluationError

Wrote = Callable[[int], None]
"""Told of tokens as they are written: how many more there are."""


@dataclass(frozen=True)
class Request:
    """One sample that is wanted."""

    key: str
    """Of the task that it answers."""
    sample: int
    prompt: Segment
    is_complete: Callable[[str], bool]
    """Whether whatever follows an answer would be cut off. Goes to other processes, so no closure."""


@dataclass(frozen=True)
class Completion:
    """What a model wrote after a prompt."""

    text: str
    tokens: int
    """Tokens written, the one that ended it included."""
    finish: str
    """end (end-of-text), stop (the rest would be cut off), or length."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen."""

    temperature: float
    top_p: float
    max_new_tokens: int
    seed: int


@dataclass(frozen=True)
class Row:
    """A request with its prompt's tokens and the tokens that it may get."""

    request: Request
    ids: list[int]
    room: int


def batches(rows: Iterable[Row], size: int, tokens: int) -> Iterator[list[Row]]:
    """Rows of similar length together, longest first (so that too large a batch fails at once), samples of a prompt in turn.

    A batch has at most `size` rows, which can grow to at most `tokens` positions together. Rows that get less room than
    others are batched only with their equals, so that a row's room never depends on the rows beside it.
    """
    batch: list[Row] = []
    for row in sorted(rows, key=lambda row: (row.room, -len(row.ids), row.request.key, row.request.sample)):
        if batch:
            positions = (len(batch) + 1) * (len(batch[0].ids) + batch[0].room)
            if len(batch) == size or positions > tokens or row.room != batch[0].room:
                yield batch
                batch = []
        batch.append(row)
    if batch:
        yield batch


def row_of(request: Request, ids: list[int], positions: int | None, max_new_tokens: int) -> Row:
    """A request as it is batched; EvaluationError where its prompt fills the model's positions."""
    room = max_new_tokens if positions is None else min(max_new_tokens, positions - len(ids))
    if room < 1:
        raise EvaluationError(f"{request.key}: its prompt has {len(ids)} tokens and the model {positions} "
                              "positions, so that no answer fits; leave the problem out with --problems or --limit")
    return Row(request, ids, room)
