"""How much faster are many samples of many prompts than transformers' generate, prompt by prompt?

    python benchmarks/generate.py --benchmark humanevalpack/python.jsonl --tokenizer TOKENIZER_DIR [--problems 164]

The model is small and random, so that it runs everywhere, and writes as many tokens as it may. The plain loop asks generate for
all samples of one prompt at once (num_return_sequences). Both sample at the same temperature and top-p; that they sample
from the same distribution is seen in how likely the model finds what each has written.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoTokenizer, GPTBigCodeConfig, GPTBigCodeForCausalLM

from megatron_ft.data import templates
from megatron_ft.evaluation import benchmark, prompts, scenarios
from megatron_ft.evaluation.batching import Completion, Request, Sampling
from megatron_ft.evaluation.completing import OneDevice
from megatron_ft.evaluation.generation import generate
from megatron_ft.evaluation.model_folder import Model

SURENESS = 4.0  # weight of the last norm
SCORED = 400  # samples whose likelihood is compared


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
    network = make_network(len(tokenizer), tokenizer.eos_token_id)
    model = Model(tokenizer, (tokenizer.eos_token_id,), 2048, network)
    template = templates.get("octocoder")
    asked = [prompts.prompt(scenarios.task(problem, "synthesize", "python"), template)
             for problem in benchmark.read(args.benchmark).problems[:args.problems]]
    sampling = Sampling(0.8, 0.95, args.max_new_tokens, seed=1)

    ours: dict[tuple[str, int], Completion] = {}
    requests = [Request(str(number), sample, prompt, lambda text: False)
                for number, prompt in enumerate(asked) for sample in range(args.samples)]
    begun = time.perf_counter()
    generate(OneDevice(model, args.batch_size, 2**20), requests, sampling,
             lambda request, done: ours.update({(request.key, request.sample): done}))
    our_s = time.perf_counter() - begun
    begun = time.perf_counter()
    theirs = [plain(model, prompt.text, sampling, args.samples) for prompt in asked]
    their_s = time.perf_counter() - begun

    some = min(len(asked), SCORED // args.samples)
    encoded = [tokenizer(prompt.text)["input_ids"] for prompt in asked[:some]]
    our_scores = [likelihood(network, ids, tokenizer(ours[str(number), sample].text)["input_ids"], sampling)
                  for number, ids in enumerate(encoded) for sample in range(args.samples)]
    their_scores = [likelihood(network, ids, tokenizer(text)["input_ids"], sampling)
                    for ids, texts in zip(encoded, theirs, strict=False) for text in texts]
    apart = abs(statistics.mean(our_scores) - statistics.mean(their_scores))
    spread = math.sqrt(sum(statistics.variance(scores) / len(scores) for scores in (our_scores, their_scores)))
    report("plain loop's time / ours", their_s / our_s, "x", target=2.0, holds=their_s >= 2.0 * our_s)
    report("seconds for all samples", our_s, "s", target=None, holds=True)
    report("likelihoods apart, in standard errors", apart / spread, "", target=3.0, holds=apart <= 3.0 * spread)


def make_network(vocabulary: int, end: int) -> GPTBigCodeForCausalLM:
    """A small random model that is as sure of the next token as a trained one: a few have most of the probability."""
    torch.manual_seed(0)
    network = GPTBigCodeForCausalLM(GPTBigCodeConfig(
        vocab_size=vocabulary, n_positions=2048, n_embd=192, n_layer=4, n_head=6, n_inner=768, multi_query=True,
        initializer_range=0.1, bos_token_id=end, eos_token_id=end)).eval()
    with torch.no_grad():
        network.transformer.ln_f.weight.fill_(SURENESS)
    return network


def plain(model: Model, text: str, sampling: Sampling, samples: int) -> list[str]:
    """All samples of one prompt by transformers' generate."""
    ids = model.tokenizer(text, return_tensors="pt")
    with torch.inference_mode():
        out = model.network.generate(**ids, do_sample=True, temperature=sampling.temperature, top_p=sampling.top_p, top_k=0,
                                     num_return_sequences=samples, max_new_tokens=sampling.max_new_tokens,
                                     pad_token_id=model.end_ids[0])
    return model.tokenizer.batch_decode(out[:, ids["input_ids"].shape[1]:], skip_special_tokens=True)


def likelihood(network: GPTBigCodeForCausalLM, prompt: list[int], written: list[int], sampling: Sampling) -> float:
    """Mean log probability of the written tokens at the sampling's temperature."""
    with torch.inference_mode():
        logits_TV: Tensor = network(torch.tensor([prompt + written])).logits[0, len(prompt) - 1:-1]
    share_TV = (logits_TV / sampling.temperature).log_softmax(-1)
    return float(share_TV[torch.arange(len(written)), torch.tensor(written)].mean()) if written else 0.0


def report(figure: str, value: float, unit: str, *, target: float | None, holds: bool) -> None:
    """Print one figure."""
    print(json.dumps({"benchmark": "generate", "figure": figure, "value": round(value, 4), "unit": unit, "target": target,
                      "holds": holds}), flush=True)


if __name__ == "__main__":
    main()
