"""How the next token is chosen, and when an answer is over, row by row, so that no row depends on its neighbours."""

# B rows of a batch, V vocabulary, K its most likely tokens

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor, StoppingCriteria

CHECK_EVERY = 8  # steps between two looks at the text; each decodes what was written
FEW = 256


def row_seed(seed: int, key: str, sample: int) -> int:
    """The seed of one sample of one task: the same in every batch, on every day.

    >>> row_seed(1, "Python/0/synthesize", 0) == row_seed(1, "Python/0/synthesize", 0) != row_seed(1, "Python/0/fixdocs", 0)
    True
    """
    return int.from_bytes(hashlib.sha256(f"{seed}/{key}/{sample}".encode()).digest()[:7], "big")


def nucleus(probabilities_BV: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """The most likely tokens, likeliest first, and their probabilities, zero once those before reach `top_p`.

    Only the first FEW tokens are put in order where they are enough, as they nearly always are.

    >>> nucleus(torch.tensor([[0.5, 0.125, 0.375]]), 0.75)
    (tensor([[0, 2, 1]]), tensor([[0.5000, 0.3750, 0.0000]]))
    """
    ordered_BK, order_BK = probabilities_BV.topk(min(FEW, probabilities_BV.shape[-1]), dim=-1)
    if bool((ordered_BK.sum(-1) < top_p).any()):
        ordered_BK, order_BK = probabilities_BV.sort(descending=True, dim=-1)
    before_BK = ordered_BK.cumsum(-1) - ordered_BK
    return order_BK, ordered_BK.masked_fill(before_BK >= top_p, 0.0)


class SeededSampling(LogitsProcessor):
    """Draws each row's next token with the row's own generator and leaves a greedy search no other choice.

    The generators are on the CPU, so that the draws are the same on every device.
    """

    def __init__(self, seeds: Sequence[int], temperature: float, top_p: float) -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.temperature = temperature
        self.top_p = top_p

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        order_BK, share_BK = nucleus((scores.float() / self.temperature).softmax(-1), self.top_p)
        drawn_B1 = torch.stack([torch.rand(1, generator=generator) for generator in self.generators]).to(scores.device)
        reached_BK = share_BK.cumsum(-1)
        place_B1 = torch.searchsorted(reached_BK, drawn_B1 * reached_BK[:, -1:], right=True)
        last_B1 = (share_BK > 0).sum(-1, keepdim=True) - 1  # rounding may put a draw behind the last share
        token_B1 = order_BK.gather(-1, place_B1.minimum(last_B1))
        return torch.full_like(scores, -torch.inf).scatter(-1, token_B1, 0.0)


class TextEnds(StoppingCriteria):
    """Ends a row as soon as nothing that it could still write would count."""

    def __init__(self, rows: int, prompt_tokens: int, is_complete: Callable[[int, list[int]], bool]) -> None:
        self.prompt_tokens = prompt_tokens
        self.is_complete = is_complete
        self.lengths: list[int | None] = [None] * rows
        """New tokens of each row when it was complete; None if it never was."""

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: object) -> Tensor:
        written = input_ids.shape[1] - self.prompt_tokens
        if written % CHECK_EVERY == 0:
            for row, ids in enumerate(input_ids[:, self.prompt_tokens:].tolist()):
                if self.lengths[row] is None and self.is_complete(row, ids):
                    self.lengths[row] = written
        return torch.tensor([length is not None for length in self.lengths], device=input_ids.device)
