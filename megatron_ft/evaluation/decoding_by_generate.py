"""Decodes with transformers' own `generate`, for models that remember a text in another way than keys and values.

State-space and hybrid models (Mamba, Jamba) carry a state that padding would change, and others (Bloom) find their positions
by themselves, so only prompts of one length run together; a prompt is computed once for each of its samples, and rows that
are over wait for the last. The tokens are chosen by the same rules and numbers as in `decoding`.
"""

# B rows of a batch, T tokens so far, V vocabulary

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, PreTrainedModel, StoppingCriteria

from megatron_ft.evaluation.decoding import Prompt, Rules, Written
from megatron_ft.evaluation.sampling import SeededSampling


def decode(network: PreTrainedModel, prompts: Sequence[Prompt], rules: Rules) -> Iterator[list[tuple[int, Written]]]:
    """As `decoding.decode`, but the rows of one length come all at once, when the last of them is over."""
    by_length: dict[int, list[tuple[int, Sequence[int], int]]] = defaultdict(list)
    numbered = [(prompt.ids, seed) for prompt in prompts for seed in prompt.seeds]
    for row, (ids, seed) in enumerate(numbered):
        by_length[len(ids)].append((row, ids, seed))
    for length, same in by_length.items():
        numbers, prompt_ids, seeds = zip(*same, strict=True)
        ids_BT = torch.tensor([list(ids) for ids in prompt_ids], device=network.device)
        steps = _Steps(numbers, length, SeededSampling(seeds, rules.temperature, rules.top_p, rules.room), rules)
        plain = GenerationConfig(do_sample=False, max_new_tokens=rules.room, pad_token_id=rules.end_ids[0])
        with torch.inference_mode():
            network.generate(ids_BT, attention_mask=torch.ones_like(ids_BT), generation_config=plain,
                             logits_processor=[_Chosen(steps)], stopping_criteria=[_Over(steps)])
        yield [(row, steps.rows[row]) for row in numbers]


class _Steps:
    """What `generate` asks after every step."""

    def __init__(self, numbers: Sequence[int], length: int, sampling: SeededSampling, rules: Rules) -> None:
        self.rows = {row: Written() for row in numbers}
        self._length, self._sampling, self._rules = length, sampling, rules
        self._over = [False] * len(numbers)

    def choose(self, ids_BT: Tensor, scores_BV: Tensor) -> Tensor:
        """The next tokens, [B]."""
        return self._sampling.choose(scores_BV, torch.arange(len(ids_BT)), ids_BT.shape[1] - self._length)

    def take(self, ids_BT: Tensor) -> list[bool]:
        """Note the last tokens; which rows are over."""
        self._rules.wrote(self._over.count(False))
        self._over = [over or written.take(row, token, self._rules) for (row, written), token, over
                      in zip(self.rows.items(), ids_BT[:, -1].tolist(), self._over, strict=True)]
        return self._over


class _Chosen(LogitsProcessor):
    """Leaves `generate`, which takes the likeliest token, only the one that was drawn."""

    def __init__(self, steps: _Steps) -> None:
        self._steps = steps

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        token_B = self._steps.choose(input_ids, scores)
        return torch.full_like(scores, -torch.inf).scatter(1, token_B[:, None], 0.0)


class _Over(StoppingCriteria):
    def __init__(self, steps: _Steps) -> None:
        self._steps = steps

    def __call__(self, input_ids: Tensor, scores: object, **_: object) -> Tensor:
        return torch.tensor(self._steps.take(input_ids), device=input_ids.device)
