"""How much faster are many samples of many prompts than transformers' generate, prompt by prompt?

    python benchmarks/generate.py --benchmark humanevalpack/python.jsonl --tokenizer TOKENIZER_DIR [--problems 164]

The model is small and random, so that it runs everywhere, and writes as many tokens as it may. The plain loop asks generate for
all samples of one prompt at once (num_return_sequences). Both have to draw from the distribution that temperature and top-p
make: how likely the model finds what was drawn, and whether it is inside top-p, is compared with what is expected. That this
would notice a wrong temperature and a wrong top-p is shown on plain loops with these.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import (
    AutoTokenizer,
    GPTBigCodeConfig,
    GPTBigCodeForCausalLM,
    PreTrainedTokenizerBase,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from megatron_ft.data import templates
from megatron_ft.data.templates import Segment
from megatron_ft.evaluation import benchmark, prompts, scenarios
from megatron_ft.evaluation.batching import Completion, Request, Sampling
from megatron_ft.evaluation.completing import OneDevice
from megatron_ft.evaluation.generation import generate
from megatron_ft.evaluation.model_folder import Model

SURENESS = 4.0  # weight of the last norm
SCORED = 100  # samples whose tokens are compared with the distribution
ROUNDING = 0.001  # share of tokens at the edge of top-p, which a batch of another size may put on its other side


def main() -> None:
    """Generate with both and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--benchmark", type=Path, required=True)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--problems", type=int, default=164)
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=256)
    args = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(args.tokenizer)
    model = Model(tokenizer, (tokenizer.eos_token_id,), 2048, make_network(len(tokenizer), tokenizer.eos_token_id))
    template = templates.get("octocoder")
    asked = [prompts.prompt(scenarios.task(problem, "synthesize", "python"), template)
             for problem in benchmark.read(args.benchmark).problems[:args.problems]]
    sampling = Sampling(0.8, 0.95, args.max_new_tokens, seed=1)

    with Stopwatch() as ours:
        together(model, asked, sampling, args.samples, args.batch_size)
    with Stopwatch() as theirs:
        their_ids = [plain(model, prompt.text, sampling, args.samples) for prompt in asked]
    report("plain loop's time / ours", theirs.seconds / ours.seconds, "x", at_least=2.0)
    report("the same of CPU time, which a busy machine does not stretch", theirs.cpu_s / ours.cpu_s, "x")
    report("seconds for all samples", ours.seconds, "s")

    some = asked[:max(1, SCORED // args.samples)]
    our_ids = together(replace(model, tokenizer=Numbers(tokenizer)), some, sampling, args.samples, args.batch_size)
    for name, written in (("ours", our_ids), ("the plain loop", their_ids)):
        scores = scored(model, some, written, sampling)
        report(f"likelihood of {name}, standard errors from what is expected", abs(scores.from_expected), "", at_most=3.0)
        report(f"tokens of {name} outside of top-p", scores.outside, "", at_most=ROUNDING)
    hot, wide = replace(sampling, temperature=0.9), replace(sampling, top_p=1.0)
    scores = scored(model, some, [plain(model, prompt.text, hot, args.samples) for prompt in some], sampling)
    report("likelihood at temperature 0.9, which has to be noticed", abs(scores.from_expected), "", at_least=3.0)
    scores = scored(model, some, [plain(model, prompt.text, wide, args.samples) for prompt in some], sampling)
    report("tokens outside at top-p 1, which have to be noticed", scores.outside, "", at_least=10 * ROUNDING)


class Stopwatch:
    """Seconds by the clock and of the CPU."""

    def __enter__(self) -> Stopwatch:
        self._begun = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds, self.cpu_s = time.perf_counter() - self._begun[0], time.process_time() - self._begun[1]


def together(model: Model, asked: list[Segment], sampling: Sampling, samples: int, batch_size: int) -> list[list[list[int]]]:
    """All samples of every prompt by our engine; their tokens if the model's tokenizer writes numbers."""
    done: dict[tuple[str, int], Completion] = {}
    requests = [Request(str(number), sample, prompt, lambda text: False)
                for number, prompt in enumerate(asked) for sample in range(samples)]
    generate(OneDevice(model, batch_size, 2**20), requests, sampling,
             lambda request, completion: done.update({(request.key, request.sample): completion}))
    if not isinstance(model.tokenizer, Numbers):
        return []
    return [[[*map(int, each.text.split()), *(model.end_ids if each.finish == "end" else ())]
             for each in (done[str(number), sample] for sample in range(samples))] for number in range(len(asked))]


class Numbers:
    """A tokenizer that writes tokens as numbers, so that what was drawn can be read from a completion's text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer

    def __getattr__(self, name: str) -> object:
        return getattr(self._tokenizer, name)

    def __call__(self, *args: object, **options: object) -> object:
        return self._tokenizer(*args, **options)

    def decode(self, ids: list[int], **_: object) -> str:
        return "".join(f" {number}" for number in ids)


def make_network(vocabulary: int, end: int) -> GPTBigCodeForCausalLM:
    """A small random model that is as sure of the next token as a trained one: a few have most of the probability."""
    torch.manual_seed(0)
    network = GPTBigCodeForCausalLM(GPTBigCodeConfig(
        vocab_size=vocabulary, n_positions=2048, n_embd=192, n_layer=4, n_head=6, n_inner=768, multi_query=True,
        initializer_range=0.1, bos_token_id=end, eos_token_id=end)).eval()
    with torch.no_grad():
        network.transformer.ln_f.weight.fill_(SURENESS)
    return network


def plain(model: Model, text: str, sampling: Sampling, samples: int) -> list[list[int]]:
    """All samples of one prompt by transformers' generate."""
    ids, (end,) = model.tokenizer(text, return_tensors="pt"), model.end_ids
    with torch.inference_mode():
        out = model.network.generate(**ids, do_sample=True, temperature=sampling.temperature, top_p=sampling.top_p, top_k=0,
                                     num_return_sequences=samples, max_new_tokens=sampling.max_new_tokens, pad_token_id=end)
    rows = out[:, ids["input_ids"].shape[1]:].tolist()
    return [row[:row.index(end) + 1] if end in row else row for row in rows]


class Scores(NamedTuple):
    """How samples fit the distribution that they should be from, as transformers' own temperature and top-p make it."""

    from_expected: float
    """The sum of log probabilities, less what is expected of it, in standard errors: a random walk with known steps."""
    outside: float
    """Share of tokens that have probability 0 there."""


def scored(model: Model, asked: list[Segment], written: list[list[list[int]]], sampling: Sampling) -> Scores:
    """Of the samples of some prompts."""
    walked = variance = 0.0
    outside = tokens = 0
    for prompt, samples in zip(asked, written, strict=False):
        before = model.tokenizer(prompt.text)["input_ids"]
        for new in samples:
            with torch.inference_mode():
                logits_TV = model.network(torch.tensor([before + new]), logits_to_keep=len(new) + 1).logits[0, :-1]
            warped_TV = TopPLogitsWarper(sampling.top_p)(None, TemperatureLogitsWarper(sampling.temperature)(None, logits_TV))
            share_TV = warped_TV.softmax(-1)
            log_TV = share_TV.log().masked_fill(share_TV == 0, 0.0)
            expected_T = (share_TV * log_TV).sum(-1)
            chosen_T = share_TV[torch.arange(len(new)), torch.tensor(new)]
            inside_T = chosen_T > 0
            walked += float((chosen_T.log() - expected_T)[inside_T].sum())
            variance += float(((share_TV * log_TV**2).sum(-1) - expected_T**2)[inside_T].sum())
            outside += int((~inside_T).sum())
            tokens += len(new)
    return Scores(walked / math.sqrt(variance), outside / tokens)


def report(figure: str, value: float, unit: str, *, at_least: float | None = None, at_most: float | None = None) -> None:
    """Print one figure, and whether it is what is asked of it."""
    holds = (at_least is None or value >= at_least) and (at_most is None or value <= at_most)
    print(json.dumps({"benchmark": "generate", "figure": figure, "value": round(value, 4), "unit": unit,
                      "target": at_least if at_least is not None else at_most, "holds": holds}), flush=True)


if __name__ == "__main__":
    main()
