"""Generates answers with transformers: batches of similar length, padded on the left, on CPU or CUDA."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields

import torch
from transformers import GenerationConfig

from megatron_ft import log
from megatron_ft.data.templates import Segment
from megatron_ft.errors import EvaluationError
from megatron_ft.evaluation.encoding import PromptEncoder
from megatron_ft.evaluation.model_folder import Model
from megatron_ft.evaluation.sampling import SeededSampling, TextEnds, row_seed


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


def generate(model: Model, requests: Sequence[Request], sampling: Sampling, *, batch_size: int,
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
        for batch in batches(rows, batch_size):
            for row, completion in zip(batch, _complete(model, batch, sampling), strict=True):
                keep(row.request, completion)
                report.tokens += completion.tokens
                report.by_length += completion.finish == "length"
            bar.update(len(batch))
            bar.set_postfix_str(f"{report.tokens / (time.monotonic() - begun):.0f} tokens/s")
    report.seconds = time.monotonic() - begun
    return report


def batches(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    """Rows of similar length together, longest first (so that too large a batch fails at once).

    Rows that get less room than others are batched only with their equals, so that a row's room never depends on the
    rows beside it.
    """
    batch: list[Row] = []
    for row in sorted(rows, key=lambda row: (row.room, -len(row.ids))):
        if batch and (len(batch) == size or row.room != batch[0].room):
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
    """Run one batch."""
    width = max(len(row.ids) for row in batch)
    pad = model.tokenizer.pad_token_id if model.tokenizer.pad_token_id is not None else model.end_ids[0]
    ids = torch.tensor([[pad] * (width - len(row.ids)) + row.ids for row in batch], device=model.device)
    mask = torch.tensor([[0] * (width - len(row.ids)) + [1] * len(row.ids) for row in batch], device=model.device)

    def ended(index: int, new: list[int]) -> bool:
        return batch[index].request.is_complete(_text(model, batch[index].ids, new))

    ends = TextEnds(len(batch), width, ended)
    processors = []
    if sampling.temperature > 0:
        seeds = [row_seed(sampling.seed, row.request.key, row.request.sample) for row in batch]
        processors = [SeededSampling(seeds, sampling.temperature, sampling.top_p)]
    config = GenerationConfig(do_sample=False, max_new_tokens=batch[0].room, pad_token_id=pad,
                              eos_token_id=list(model.end_ids))
    model.network.generation_config = config  # the model's own would fill what this one leaves open
    try:
        with torch.inference_mode():
            out = model.network.generate(input_ids=ids, attention_mask=mask, generation_config=config,
                                         logits_processor=processors, stopping_criteria=[ends])
    except torch.cuda.OutOfMemoryError as error:
        raise EvaluationError(f"a batch of {len(batch)} prompts of {width} tokens does not fit into the GPU's memory; "
                              "lower --batch-size or --max-new-tokens") from error
    return [_completion(model, row, new, ends.lengths[index])
            for index, (row, new) in enumerate(zip(batch, out[:, width:].tolist(), strict=True))]


def _completion(model: Model, row: Row, new: list[int], stopped: int | None) -> Completion:
    """One row's answer, without what was padded after its end."""
    end = next((place for place, number in enumerate(new) if number in model.end_ids), None)
    if end is not None and (stopped is None or end < stopped):
        return Completion(_text(model, row.ids, new[:end]), end + 1, "end")
    written = new[:stopped]
    return Completion(_text(model, row.ids, written), len(written), "length" if stopped is None else "stop")


def _text(model: Model, prompt: list[int], new: list[int]) -> str:
    """What new tokens add to the text; decoded with the prompt, as SentencePiece drops a leading space otherwise."""
    options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    before, whole = (model.tokenizer.decode(ids, **options) for ids in (prompt, prompt + new))
    return whole[len(before):] if whole.startswith(before) else model.tokenizer.decode(new, **options)
