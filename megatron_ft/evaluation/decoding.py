"""Decodes a batch token by token: a prompt is computed once for all its samples, and rows that are over leave the batch.

That needs a model whose whole memory of a text is the keys and values of its tokens; any other is left to transformers'
own `generate` (`decoding_by_generate`).
"""

# B rows of a batch, P its prompts, W the longest prompt, V vocabulary

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from megatron_ft.evaluation.sampling import SeededSampling

CHECK_EVERY = 8  # tokens of a row between two looks at its text
LEAVE_AT = 0.75  # rows leave when no more than this share of the batch is still being written, as moving the cache costs too
PLAIN_LAYERS = (DynamicLayer, DynamicSlidingWindowLayer)


@dataclass(frozen=True)
class Prompt:
    """A prompt and the samples that are wanted of it."""

    ids: Sequence[int]
    seeds: Sequence[int]
    """One for each sample."""


@dataclass(frozen=True)
class Rules:
    """How tokens are chosen and when a row is over."""

    room: int
    """The most tokens that a row may get."""
    end_ids: Sequence[int]
    temperature: float
    top_p: float
    is_complete: Callable[[int, Sequence[int]], bool]
    """Of a row and its last CHECK_EVERY tokens, after which it is asked again: whether whatever follows would be cut off."""
    wrote: Callable[[int], None]
    """Told after every step how many tokens it gave."""


@dataclass
class Written:
    """What a row has got so far."""

    ids: list[int] = field(default_factory=list)
    finish: str = "length"
    """end (an end-of-text token, which is the last of `ids`), stop (the rest would be cut off), or length."""

    def take(self, row: int, token: int, rules: Rules) -> bool:
        """Add a token; whether the row is over now."""
        self.ids.append(token)
        if token in rules.end_ids:
            self.finish = "end"
        elif len(self.ids) % CHECK_EVERY == 0 and rules.is_complete(row, self.ids[-CHECK_EVERY:]):
            self.finish = "stop"
        return self.finish != "length" or len(self.ids) == rules.room


def decode(network: PreTrainedModel, prompts: Sequence[Prompt], rules: Rules) -> Iterator[list[tuple[int, Written]]]:
    """What a model writes after each prompt: after every token the rows that are over now, with their numbers.

    Rows are numbered through all prompts, sample by sample.
    """
    lengths = [len(prompt.ids) for prompt in prompts]
    owner = [number for number, prompt in enumerate(prompts) for _ in prompt.seeds]
    rows = [Written() for _ in owner]
    sampling = SeededSampling([seed for prompt in prompts for seed in prompt.seeds], rules.temperature, rules.top_p, rules.room)
    cache, logits_PV, mask_PW = _prefill(network, prompts, max(lengths))
    spread = torch.tensor(owner, device=network.device)
    if len(rows) != len(prompts):
        cache.batch_select_indices(spread)
    logits_BV, mask_BW = logits_PV[spread], mask_PW[spread]
    position_B1 = torch.tensor([[lengths[number]] for number in owner], device=network.device)
    alive = torch.arange(len(rows))
    over: set[int] = set()
    for step in range(rules.room):
        token_B = sampling.choose(logits_BV, alive, step)
        ended = [row for row, token in zip(alive.tolist(), token_B.tolist(), strict=True)
                 if row not in over and rows[row].take(row, token, rules)]
        rules.wrote(len(rows) - len(over))
        over.update(ended)
        yield [(row, rows[row]) for row in ended]
        left = [place for place, row in enumerate(alive.tolist()) if row not in over]
        if not left:
            return
        if len(left) <= LEAVE_AT * len(alive):
            kept = torch.tensor(left, device=network.device)
            cache.batch_select_indices(kept)
            mask_BW, position_B1, token_B, alive = mask_BW[kept], position_B1[kept], token_B[kept], alive[left]
        mask_BW = torch.cat([mask_BW, mask_BW.new_ones(len(alive), 1)], dim=1)
        logits_BV = _logits(network, token_B[:, None], mask_BW, position_B1, cache)
        position_B1 = position_B1 + 1


def has_plain_cache(network: PreTrainedModel) -> bool:
    """Whether `decode` serves: keys and values are all that a model remembers, and padded rows are told their positions."""
    takes = _arguments(network)
    if not {"attention_mask", "position_ids"} <= takes or not {"cache", "past_key_values"} & takes:
        return False
    if network._is_stateful:
        return False
    return all(type(layer) in PLAIN_LAYERS for layer in DynamicCache(config=network.config).layers)


def _prefill(network: PreTrainedModel, prompts: Sequence[Prompt], width: int) -> tuple[DynamicCache, Tensor, Tensor]:
    """The prompts' keys and values, the logits that follow each, and the mask; prompts are padded on the left."""
    ids_PW = torch.tensor([[0] * (width - len(each.ids)) + list(each.ids) for each in prompts], device=network.device)
    mask_PW = torch.tensor([[0] * (width - len(each.ids)) + [1] * len(each.ids) for each in prompts], device=network.device)
    position_PW = (mask_PW.cumsum(-1) - 1).clamp(min=0)
    cache = DynamicCache(config=network.config)
    return cache, _logits(network, ids_PW, mask_PW, position_PW, cache), mask_PW


def _logits(network: PreTrainedModel, ids_BT: Tensor, mask_BW: Tensor, position_BT: Tensor, cache: DynamicCache) -> Tensor:
    """The logits after the last token, [B, V]."""
    takes = _arguments(network)
    options = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}
    options["cache" if "cache" in takes else "past_key_values"] = cache  # renamed in transformers 5
    with torch.inference_mode():
        out = network(input_ids=ids_BT, attention_mask=mask_BW, position_ids=position_BT, use_cache=True, **options)
    return out.logits[:, -1]


def _arguments(network: PreTrainedModel) -> set[str]:
    return set(inspect.signature(type(network).forward).parameters)
