"""Decoding gives what transformers' own `generate` gives, for every family and whatever is beside a row in its batch."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    DynamicCache,
    GenerationConfig,
    GPTBigCodeConfig,
    GPTBigCodeForCausalLM,
    JambaConfig,
    JambaForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Mamba2Config,
    Mamba2ForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Starcoder2Config,
    Starcoder2ForCausalLM,
)

from megatron_ft.evaluation import decoding, decoding_by_generate
from megatron_ft.evaluation.decoding import Prompt, Rules, Written

VOCABULARY, END, ROOM, WINDOW = 97, 3, 24, 5
GROUPED = {"vocab_size": VOCABULARY, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3,
           "num_attention_heads": 6, "max_position_embeddings": 128, "initializer_range": 0.6, "bos_token_id": 1,
           "eos_token_id": END}
BIGCODE = {"vocab_size": VOCABULARY, "n_positions": 128, "n_embd": 24, "n_layer": 3, "n_head": 6, "n_inner": 40,
           "initializer_range": 0.6, "bos_token_id": 1, "eos_token_id": END}
STATEFUL = {"vocab_size": VOCABULARY, "hidden_size": 24, "num_hidden_layers": 2, "initializer_range": 0.6, "eos_token_id": END,
            "bos_token_id": 1, "pad_token_id": END}
PLAIN: dict[str, Callable[[], PreTrainedModel]] = {
    "gpt_bigcode": lambda: GPTBigCodeForCausalLM(GPTBigCodeConfig(**BIGCODE, multi_query=True)),
    "gpt_bigcode with all heads": lambda: GPTBigCodeForCausalLM(GPTBigCodeConfig(**BIGCODE, multi_query=False)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**GROUPED, num_key_value_heads=2)),
    "llama with a tied head": lambda: LlamaForCausalLM(LlamaConfig(**GROUPED, num_key_value_heads=6, tie_word_embeddings=True)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**GROUPED, num_key_value_heads=2, sliding_window=WINDOW)),
    "starcoder2": lambda: Starcoder2ForCausalLM(Starcoder2Config(**GROUPED, num_key_value_heads=3, sliding_window=WINDOW)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**GROUPED, num_key_value_heads=3, use_sliding_window=True,
                                                  sliding_window=WINDOW, max_window_layers=1)),
}
OTHER: dict[str, Callable[[], PreTrainedModel]] = {
    "mamba": lambda: MambaForCausalLM(MambaConfig(**STATEFUL, state_size=7, expand=2, conv_kernel=4)),
    "mamba2": lambda: Mamba2ForCausalLM(Mamba2Config(**STATEFUL, state_size=8, expand=2, num_heads=6, head_dim=8, n_groups=2,
                                                     chunk_size=4)),
    "jamba": lambda: JambaForCausalLM(JambaConfig(
        **STATEFUL, num_attention_heads=4, num_key_value_heads=2, intermediate_size=40, num_experts=2, attn_layer_period=2,
        attn_layer_offset=1, expert_layer_period=2, expert_layer_offset=1, use_mamba_kernels=False, mamba_d_state=7)),
    "bloom": lambda: BloomForCausalLM(BloomConfig(vocab_size=VOCABULARY, hidden_size=24, n_layer=2, n_head=4, eos_token_id=END,
                                                  initializer_range=0.6)),
}


pytestmark = pytest.mark.usefixtures("one_thread")


def made(name: str) -> PreTrainedModel:
    torch.manual_seed(2)
    network = {**PLAIN, **OTHER}[name]().eval()
    network.generation_config = GenerationConfig()
    return network


def prompts(lengths: Sequence[int], seeds: int = 1) -> list[Prompt]:
    draw = random.Random(7)
    return [Prompt([draw.randrange(4, VOCABULARY) for _ in range(length)], [100 * length + sample for sample in range(seeds)])
            for length in lengths]


def one_by_one(asked: list[Prompt]) -> list[Prompt]:
    return [Prompt(prompt.ids, [seed]) for prompt in asked for seed in prompt.seeds]


def rules(temperature: float = 0.0, over: Callable[[int, Sequence[int]], bool] = lambda row, new: False) -> Rules:
    return Rules(ROOM, (END,), temperature, 0.9, over, lambda count: None)


def decoded(network: PreTrainedModel, asked: list[Prompt], chosen: Rules) -> list[Written]:
    decode = decoding.decode if decoding.has_plain_cache(network) else decoding_by_generate.decode
    rows = dict(row for ended in decode(network, asked, chosen) for row in ended)
    assert sorted(rows) == list(range(sum(len(prompt.seeds) for prompt in asked)))
    return [rows[row] for row in sorted(rows)]


def generated(network: PreTrainedModel, ids: Sequence[int]) -> list[int]:
    """What transformers writes after one prompt, without padding and alone."""
    plain = GenerationConfig(do_sample=False, max_new_tokens=ROOM, eos_token_id=END, pad_token_id=END)
    inputs = torch.tensor([list(ids)])
    with torch.inference_mode():
        return network.generate(inputs, attention_mask=torch.ones_like(inputs), generation_config=plain)[0, len(ids):].tolist()


@pytest.mark.parametrize("name", PLAIN)
def test_a_padded_batch_writes_what_generate_writes_alone(name: str) -> None:
    """Prompts shorter and longer than the window, of all lengths at once, and rows that leave at different times."""
    network, asked = made(name), prompts([2, 13, 7, 31, 4, 13])
    assert decoding.has_plain_cache(network)
    expected = [generated(network, prompt.ids) for prompt in asked]
    written = decoded(network, asked, rules())
    assert [row.ids for row in written] == expected
    assert [row.finish for row in written] == ["end" if END in ids else "length" for ids in expected]
    assert len({tuple(ids) for ids in expected}) == len(expected)


@pytest.mark.parametrize("name", ["mistral", "starcoder2", "qwen2"])
def test_these_models_have_a_window_shorter_than_the_prompts(name: str) -> None:
    """Else the test above would compare full attention with full attention."""
    windows = [layer.sliding_window for layer in DynamicCache(config=made(name).config).layers if layer.is_sliding]
    assert windows and set(windows) == {WINDOW}


@pytest.mark.parametrize("name", PLAIN)
def test_samples_do_not_depend_on_those_beside_them_nor_on_who_leaves(name: str) -> None:
    network, asked = made(name), prompts([9, 2, 17], seeds=5)
    leaves = {row: 8 * (1 + row % 4 // 2) for row in range(0, 15, 2)}
    counts: dict[int, int] = {}

    def over(row: int, new: Sequence[int]) -> bool:
        counts[row] = counts.get(row, 0) + len(new)
        return counts[row] >= leaves.get(row, ROOM + 1)

    together = decoded(network, asked, rules(0.9, over))
    for number, single in enumerate(one_by_one(asked)):
        (alone,) = decoded(network, [single], rules(0.9))
        kept = together[number]
        assert kept.ids == alone.ids[:len(kept.ids)]
        assert kept.finish == ("stop" if len(alone.ids) > len(kept.ids) else alone.finish)
    assert len({tuple(row.ids) for row in together}) > 9
    assert {"stop", "length"} <= {row.finish for row in together}


@pytest.mark.parametrize("name", OTHER)
def test_a_model_without_a_plain_cache_is_decoded_by_generate(name: str) -> None:
    network, asked = made(name), prompts([2, 13, 7, 13, 4, 7])
    assert not decoding.has_plain_cache(network)
    expected = [generated(network, prompt.ids) for prompt in asked]
    written = decoded(network, asked, rules())
    assert [row.ids for row in written] == expected
    assert [row.finish for row in written] == ["end" if END in ids else "length" for ids in expected]


@pytest.mark.parametrize("name", ["mamba", "jamba"])
def test_its_samples_have_their_own_numbers_and_end_when_they_are_complete(name: str) -> None:
    network, asked = made(name), prompts([9, 2], seeds=4)
    together = decoded(network, asked, rules(0.9, lambda row, new: row == 5))
    for number, single in enumerate(one_by_one(asked)):
        (alone,) = decoded(network, [single], rules(0.9))
        assert together[number].ids == alone.ids[:8 if number == 5 else ROOM]
    assert together[5].finish == "stop"
    assert len({tuple(row.ids) for row in together}) == 8


def test_both_roads_draw_the_same_tokens() -> None:
    network, asked = made("llama"), prompts([9, 2, 9], seeds=3)
    by_generate = dict(row for ended in decoding_by_generate.decode(network, asked, rules(0.9)) for row in ended)
    assert [by_generate[row] for row in range(9)] == decoded(network, asked, rules(0.9))
