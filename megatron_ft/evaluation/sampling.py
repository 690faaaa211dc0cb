"""How the next token is chosen, row by row, so that no row depends on its neighbours."""

# B rows of a batch, V vocabulary, K its most likely tokens

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

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


class SeededSampling:
    """Draws each row's next token with the row's own random numbers.

    The generators are on the CPU, so that the draws are the same on every device.
    """

    def __init__(self, seeds: Sequence[int], temperature: float, top_p: float, tokens: int) -> None:
        """Args:
            tokens: the most that a row will draw.
        """
        self.temperature, self.top_p = temperature, top_p
        self._drawn_BT = torch.stack([torch.rand(tokens, generator=torch.Generator().manual_seed(seed)) for seed in seeds])

    def choose(self, logits_BV: Tensor, rows: Tensor, step: int) -> Tensor:
        """The tokens of some rows at a step, [B]; the likeliest at temperature 0."""
        if self.temperature == 0:
            return logits_BV.argmax(-1)
        order_BK, share_BK = nucleus((logits_BV.float() / self.temperature).softmax(-1), self.top_p)
        drawn_B1 = self._drawn_BT[rows, step, None].to(logits_BV.device)
        reached_BK = share_BK.cumsum(-1)
        place_B1 = torch.searchsorted(reached_BK, drawn_B1 * reached_BK[:, -1:], right=True)
        last_B1 = (share_BK > 0).sum(-1, keepdim=True) - 1  # rounding may put a draw behind the last share
        return order_BK.gather(-1, place_B1.minimum(last_B1)).squeeze(-1)
