"""Generates answers with transformers: batches of similar length, padded on the left, on CPU or CUDA."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields

import torch

from megatron_ft import log
from megatron_ft.data.templates import Segment
from megatron_ft.errors import EvaluationError
from megatron_ft.evaluation.decoding import Prompt, decode
from megatron_ft.evaluation.encoding import PromptEncoder
from megatron_ft.evaluation.model_folder import Model
from megatron_ft.evaluation.sampling import row_seed

PROMPT_END = 16  # tokens of a prompt before which its text does not matter to what follows


@dataclass(frozen=True)
class Request:
    """One sample that is wanted."""

    key: str
    """Of the task that it answers."""
    sample: int
    prompt: Segment
    is_complete: Callable[[str], bool]
    """Whether whatever follows an answer would be cut off."""


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


@dataclass
class Report:
    """Figures of one generation."""

    samples: int = 0
    tokens: int = 0
    seconds: float = 0.0
    capped: int = 0
    """Samples that got fewer than max_new_tokens, because the model has no more positions."""
    by_length: int = 0
    """Samples that ended because their tokens were used up."""

    def __add__(self, other: Report) -> Report:
        return Report(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))

    def as_dict(self) -> dict[str, float]:
        """For the summary."""
        rate = round(self.tokens / self.seconds, 1) if self.seconds else 0.0
        return {**asdict(self), "seconds": round(self.seconds, 2), "tokens_per_s": rate}


def generate(model: Model, requests: Sequence[Request], sampling: Sampling, *, batch_size: int, batch_tokens: int,
             keep: Callable[[Request, Completion], None]) -> Report:
    """A completion for every request, handed to `keep` as soon as its batch is done, longest prompts first."""
    encoder = PromptEncoder(model.tokenizer)
    rows = [_row(request, encoder.encode(request.prompt), model.positions, sampling.max_new_tokens) for request in requests]
    report = Report(samples=len(rows), capped=sum(row.room < sampling.max_new_tokens for row in rows))
    if report.capped:
        log.get().warning(f"{report.capped} of {len(rows)} prompts leave fewer than --max-new-tokens "
                          f"{sampling.max_new_tokens} of the model's {model.positions} positions; they get the rest")
    begun = time.monotonic()
    with log.progress(total=len(rows), unit="sample", label="generate") as bar:
        for batch in batches(rows, batch_size, batch_tokens):
            for row, completion in zip(batch, _complete(model, batch, sampling), strict=True):
                keep(row.request, completion)
                report.tokens += completion.tokens
                report.by_length += completion.finish == "length"
            bar.update(len(batch))
            bar.set_postfix_str(f"{report.tokens / (time.monotonic() - begun):.0f} tokens/s")
    report.seconds = time.monotonic() - begun
    return report


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


def _row(request: Request, ids: list[int], positions: int | None, max_new_tokens: int) -> Row:
    room = max_new_tokens if positions is None else min(max_new_tokens, positions - len(ids))
    if room < 1:
        raise EvaluationError(f"{request.key}: its prompt has {len(ids)} tokens and the model {positions} "
                              "positions, so that no answer fits; leave the problem out with --problems or --limit")
    return Row(request, ids, room)


def _complete(model: Model, batch: list[Row], sampling: Sampling) -> list[Completion]:
    """Run one batch; rows of one prompt stand together in it."""
    prompts = [Prompt(each[0].ids, [row_seed(sampling.seed, row.request.key, row.request.sample) for row in each])
               for each in (list(same) for _, same in itertools.groupby(batch, key=lambda row: row.ids))]

    def is_complete(index: int, new: list[int]) -> bool:
        return batch[index].request.is_complete(_text(model, batch[index].ids, new))

    try:
        written = decode(model.network, prompts, room=batch[0].room, end_ids=model.end_ids, temperature=sampling.temperature,
                         top_p=sampling.top_p, is_complete=is_complete)
    except torch.cuda.OutOfMemoryError as error:
        raise EvaluationError(f"a batch of {len(batch)} answers to prompts of up to {len(batch[0].ids)} tokens does not fit "
                              "into the GPU's memory; lower --batch-tokens or --max-new-tokens") from error
    return [Completion(_text(model, row.ids, each.ids[:-1] if each.finish == "end" else each.ids), len(each.ids), each.finish)
            for row, each in zip(batch, written, strict=True)]


def _text(model: Model, prompt: list[int], new: list[int]) -> str:
    """What new tokens add to the text; decoded after the prompt's end, as SentencePiece drops a leading space otherwise."""
    options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    before, whole = (model.tokenizer.decode(ids, **options) for ids in (prompt[-PROMPT_END:], prompt[-PROMPT_END:] + new))
    return whole[len(before):] if whole.startswith(before) else model.tokenizer.decode(new, **options)
