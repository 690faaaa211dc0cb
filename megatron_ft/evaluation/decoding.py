"""Decodes a batch token by token: a prompt is computed once for all its samples, and rows that are over leave the batch."""

# B rows of a batch, P its prompts, W the longest prompt, V vocabulary

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from megatron_ft.evaluation.sampling import SeededSampling

CHECK_EVERY = 8  # steps between two looks at the text; each decodes what was written
LEAVE_AT = 0.75  # rows leave when no more than this share of the batch is still being written, as moving the cache costs too


@dataclass(frozen=True)
class Prompt:
    """A prompt and the samples that are wanted of it."""

    ids: Sequence[int]
    seeds: Sequence[int]
    """One for each sample."""


@dataclass
class Written:
    """What a row has got so far."""

    ids: list[int] = field(default_factory=list)
    finish: str = "length"
    """end (an end-of-text token, which is the last of `ids`), stop (the rest would be cut off), or length."""


def decode(network: PreTrainedModel, prompts: Sequence[Prompt], *, room: int, end_ids: Sequence[int], temperature: float,
           top_p: float, is_complete: Callable[[int, list[int]], bool]) -> list[Written]:
    """What a model writes after each prompt, sample by sample, in their order.

    Args:
        room: the most tokens that a row may get.
        is_complete: whether whatever follows the new tokens of a row (its number, its tokens) would be cut off.
    """
    lengths = [len(prompt.ids) for prompt in prompts]
    owner = [number for number, prompt in enumerate(prompts) for _ in prompt.seeds]
    rows = [Written() for _ in owner]
    sampling = SeededSampling([seed for prompt in prompts for seed in prompt.seeds], temperature, top_p, room)
    cache, logits_PV, mask_PW = _prefill(network, prompts, max(lengths))
    alive = torch.arange(len(rows))
    spread = torch.tensor(owner, device=network.device)
    if len(rows) != len(prompts):
        cache.batch_select_indices(spread)
    logits_BV, mask_BW = logits_PV[spread], mask_PW[spread]
    position_B1 = torch.tensor([[lengths[number]] for number in owner], device=network.device)
    for step in range(room):
        token_B = sampling.choose(logits_BV, alive, step)
        over = _note(rows, alive.tolist(), token_B.tolist(), end_ids, is_complete)
        left = [place for place, row in enumerate(alive.tolist()) if row not in over]
        if not left or step == room - 1:
            break
        if len(left) <= LEAVE_AT * len(alive):
            kept = torch.tensor(left, device=network.device)
            cache.batch_select_indices(kept)
            mask_BW, position_B1, token_B, alive = mask_BW[kept], position_B1[kept], token_B[kept], alive[left]
        mask_BW = torch.cat([mask_BW, mask_BW.new_ones(len(alive), 1)], dim=1)
        logits_BV = _logits(network, token_B[:, None], mask_BW, position_B1, cache)
        position_B1 = position_B1 + 1
    return rows


def _prefill(network: PreTrainedModel, prompts: Sequence[Prompt], width: int) -> tuple[DynamicCache, Tensor, Tensor]:
    """The prompts' keys and values, the logits that follow each, and the mask; prompts are padded on the left."""
    ids_PW = torch.tensor([[0] * (width - len(each.ids)) + list(each.ids) for each in prompts], device=network.device)
    mask_PW = torch.tensor([[0] * (width - len(each.ids)) + [1] * len(each.ids) for each in prompts], device=network.device)
    position_PW = (mask_PW.cumsum(-1) - 1).clamp(min=0)
    cache = DynamicCache(config=network.config)
    return cache, _logits(network, ids_PW, mask_PW, position_PW, cache), mask_PW


def _logits(network: PreTrainedModel, ids_BT: Tensor, mask_BW: Tensor, position_BT: Tensor, cache: DynamicCache) -> Tensor:
    """The logits after the last token, [B, V]."""
    options = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(type(network).forward).parameters else {}
    with torch.inference_mode():
        out = network(input_ids=ids_BT, attention_mask=mask_BW, position_ids=position_BT, past_key_values=cache, use_cache=True,
                      **options)
    return out.logits[:, -1]


def _note(rows: list[Written], alive: list[int], tokens: list[int], end_ids: Sequence[int],
          is_complete: Callable[[int, list[int]], bool]) -> set[int]:
    """Give each row its token unless it was over; the rows that are over now."""
    over = set()
    for row, token in zip(alive, tokens, strict=True):
        written = rows[row]
        if written.finish == "length":
            written.ids.append(token)
            if token in end_ids:
                written.finish = "end"
            elif len(written.ids) % CHECK_EVERY == 0 and is_complete(row, written.ids):
                written.finish = "stop"
        if written.finish != "length":
            over.add(row)
    return over
