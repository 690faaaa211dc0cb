"""A plain training loop with transformers and torch alone: what megatron_ft's training is compared with.

It takes documents as token ids with marks and knows nothing of megatron-core or of this project's loader. A step's loss is the
sum over supervised tokens divided once by their number, as ours is.

    D documents of a batch, n longest of them, T tokens in a packed row
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

IGNORED = -100
Document = tuple[np.ndarray, np.ndarray]
"""Token ids, and which of them are supervised."""


@dataclasses.dataclass(frozen=True)
class Inputs:
    """One forward pass."""

    ids: Tensor
    labels: Tensor
    """The token after each, IGNORED where it is not supervised."""
    positions: Tensor
    mask: Tensor
    """Of padded batches [D, n], 1 where there is a token; of packed rows [1, 1, T, T], True where attention may look."""


def padded(documents: Sequence[Document]) -> Inputs:
    """Documents as the rows of a batch, padded at the end to the longest."""
    size = len(documents), max(len(ids) for ids, _ in documents)
    ids, labels, mask = np.zeros(size, np.int64), np.full(size, IGNORED, np.int64), np.zeros(size, np.int64)
    for row, (tokens, supervised) in enumerate(documents):
        ids[row, :len(tokens)], mask[row, :len(tokens)] = tokens, 1
        labels[row, :len(tokens) - 1] = np.where(supervised[1:], tokens[1:], IGNORED)
    positions = np.broadcast_to(np.arange(size[1]), size).copy()
    return Inputs(*map(torch.from_numpy, (ids, labels, positions, mask)))


def packed(documents: Sequence[Document], row_tokens: int) -> Inputs:
    """Documents laid end to end in one row; a mask keeps them apart."""
    alone = [padded([document]) for document in documents]
    lengths = [inputs.ids.shape[1] - 1 for inputs in alone]  # of a document of n tokens, n - 1 predict something
    rest = row_tokens - sum(lengths)
    place = torch.repeat_interleave(torch.arange(len(lengths) + 1), torch.tensor([*lengths, rest]))
    mask = (place[:, None] == place[None]).tril()[None, None]

    def laid_end_to_end(name: str, filler: int) -> Tensor:
        parts = [getattr(inputs, name)[:, :length] for inputs, length in zip(alone, lengths, strict=True)]
        return torch.cat([*parts, torch.full((1, rest), filler)], dim=1)

    return Inputs(laid_end_to_end("ids", 0), laid_end_to_end("labels", IGNORED), laid_end_to_end("positions", 0), mask)


def optimizer_of(model: torch.nn.Module, *, lr: float, weight_decay: float, betas: tuple[float, float],
                 epsilon: float) -> torch.optim.AdamW:
    """AdamW that decays matrices only."""
    matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() == 1]
    return torch.optim.AdamW([{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}],
                             lr=lr, betas=betas, eps=epsilon)


def train(hf: Path, steps: Sequence[Sequence[Inputs]], *, rates: Sequence[float], weight_decay: float = 0.05,
          betas: tuple[float, float] = (0.9, 0.95), epsilon: float = 1e-8,
          clip_norm: float = 1.0) -> tuple[list[float], list[float], list[float]]:
    """Loss, gradient norm and seconds of each step, in fp32 on the CPU, without dropout.

    Args:
        steps: of each optimizer step its forward passes, whose gradients add up.
        rates: learning rate of each step.
    """
    model = AutoModelForCausalLM.from_pretrained(hf, dtype=torch.float32, attn_implementation="sdpa").eval()
    adamw = optimizer_of(model, lr=rates[0], weight_decay=weight_decay, betas=betas, epsilon=epsilon)
    losses, norms, seconds = [], [], []
    for passes, rate in zip(steps, rates, strict=True):
        started = time.perf_counter()
        count = sum(int((inputs.labels != IGNORED).sum()) for inputs in passes)
        total = 0.0
        for inputs in passes:
            logits = model(input_ids=inputs.ids, attention_mask=inputs.mask, position_ids=inputs.positions).logits
            loss_sum = cross_entropy(logits.flatten(0, 1), inputs.labels.flatten(), ignore_index=IGNORED, reduction="sum")
            (loss_sum / count).backward()
            total += loss_sum.item()
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm)))
        for group in adamw.param_groups:
            group["lr"] = rate
        adamw.step()
        adamw.zero_grad()
        losses.append(total / count)
        seconds.append(time.perf_counter() - started)
    return losses, norms, seconds
