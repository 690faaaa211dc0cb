"""How the next token is chosen, and when an answer is over, row by row, so that no row depends on its neighbours."""

# B rows of a batch, V vocabulary, T tokens so far (padded prompt and answer)

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor, StoppingCriteria

CHECK_EVERY = 8  # steps between two looks at the text; each decodes what was written


def row_seed(seed: int, task_id: str, sample: int) -> int:
    """The seed of one sample of one problem: the same in every batch, on every day.

    >>> row_seed(1, "Python/0", 0) == row_seed(1, "Python/0", 0) != row_seed(1, "Python/0", 1)
    True
    """
    return int.from_bytes(hashlib.sha256(f"{seed}/{task_id}/{sample}".encode()).digest()[:7], "big")


def nucleus(probabilities_BV: Tensor, top_p: float) -> Tensor:
    """Zero outside the smallest set of most likely tokens whose probabilities reach `top_p`.

    >>> nucleus(torch.tensor([[0.5, 0.125, 0.375]]), 0.75)
    tensor([[0.5000, 0.0000, 0.3750]])
    """
    ordered_BV, order_BV = probabilities_BV.sort(descending=True, dim=-1)
    before_BV = ordered_BV.cumsum(-1) - ordered_BV
    ordered_BV = ordered_BV.masked_fill(before_BV >= top_p, 0.0)
    return torch.zeros_like(probabilities_BV).scatter(-1, order_BV, ordered_BV)


class SeededSampling(LogitsProcessor):
    """Makes an argmax a sample: every row divides its probabilities by exponential noise of its own generator.

    argmax(p / e) with e ~ Exp(1) is a draw from p (the exponential race), so generation can stay greedy.
    """

    def __init__(self, seeds: Sequence[int], temperature: float, top_p: float, device: torch.device) -> None:
        self.generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]
        self.temperature = temperature
        self.top_p = top_p

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        probabilities_BV = nucleus((scores.float() / self.temperature).softmax(-1), self.top_p)
        noise_BV = torch.stack([torch.empty_like(row).exponential_(generator=generator)
                                for row, generator in zip(probabilities_BV, self.generators, strict=True)])
        return probabilities_BV.log() - noise_BV.log()


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
