"""Runs batches on one device: from rows of prompts to texts, and again with half as many where the memory was too small."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from megatron_ft import log
from megatron_ft.errors import EvaluationError
from megatron_ft.evaluation import decoding, decoding_by_generate
from megatron_ft.evaluation.batching import Completion, Row, Sampling, Wrote, batches
from megatron_ft.evaluation.decoding import Prompt, Rules, Written
from megatron_ft.evaluation.growing_text import GrowingText, is_over, text_of
from megatron_ft.evaluation.model_folder import Model, Outline
from megatron_ft.evaluation.sampling import row_seed


@dataclass(frozen=True)
class OneDevice:
    """A model in this process that answers batch by batch."""

    outline: Model
    batch_size: int
    batch_tokens: int

    def answers(self, rows: Sequence[Row], sampling: Sampling, wrote: Wrote) -> Iterator[tuple[Row, Completion]]:
        """Every row with its completion, as soon as it is over."""
        for batch in batches(rows, self.batch_size, self.batch_tokens):
            for place, completion in complete(self.outline, batch, sampling, wrote):
                yield batch[place], completion


def complete(model: Model, batch: Sequence[Row], sampling: Sampling, wrote: Wrote) -> Iterator[tuple[int, Completion]]:
    """The completions of a batch with their rows' places in it, as soon as they are over.

    A batch that does not fit into the GPU's memory is tried again in halves, less the rows that were over already.
    """
    waiting = [list(range(len(batch)))]
    while waiting:
        places = waiting.pop()
        left = dict.fromkeys(places)
        try:
            for number, completion in _complete(model, [batch[place] for place in places], sampling, wrote):
                del left[places[number]]
                yield places[number], completion
            continue
        except torch.cuda.OutOfMemoryError as error:
            again = list(left)
            if len(again) == 1:
                row = batch[again[0]]
                raise EvaluationError(f"{row.request.key}: its prompt of {len(row.ids)} tokens and one answer of up to "
                                      f"{row.room} do not fit into the GPU's memory; lower --max-new-tokens, or leave the "
                                      "problem out with --problems") from error
        # Out of the except clause, whose traceback holds what the failed batch had in memory.
        torch.cuda.empty_cache()
        log.get().warning(f"{len(again)} answers to prompts of up to {len(batch[0].ids)} tokens do not fit into the GPU's "
                          "memory together; trying in halves (a lower --batch-tokens saves that time)")
        half = len(again) // 2
        waiting += [again[half:], again[:half]]


def _complete(model: Model, batch: Sequence[Row], sampling: Sampling, wrote: Wrote) -> Iterator[tuple[int, Completion]]:
    """Run one batch; rows of one prompt stand together in it."""
    prompts = [Prompt(each[0].ids, [row_seed(sampling.seed, row.request.key, row.request.sample) for row in each])
               for each in (list(same) for _, same in itertools.groupby(batch, key=lambda row: row.ids))]
    decode = decoding.decode if decoding.has_plain_cache(model.network) else decoding_by_generate.decode
    for ended in decode(model.network, prompts, rules_of(model, batch, batch[0].room, sampling, wrote)):
        for number, written in ended:
            yield number, completion_of(model, batch[number], written)


def rules_of(outline: Outline, rows: Sequence[Row], room: int, sampling: Sampling, wrote: Wrote) -> Rules:
    """How these rows are written; each keeps its text, so that a look at it decodes what is new."""
    texts = [GrowingText(outline.tokenizer, row.ids) for row in rows]

    def is_complete(number: int, new: Sequence[int]) -> bool:
        growing = texts[number]
        seen = len(growing.text)
        growing.add(new)
        return is_over(rows[number].request.is_complete, growing.text, seen)

    return Rules(room, outline.end_ids, sampling.temperature, sampling.top_p, is_complete, wrote)


def completion_of(outline: Outline, row: Row, written: Written) -> Completion:
    """What a row's tokens say, without the one that ended it."""
    ids = written.ids[:-1] if written.ids[-1:] and written.ids[-1] in outline.end_ids else written.ids
    return Completion(text_of(outline.tokenizer, row.ids, ids), len(written.ids), written.finish)
