"""A tiny random StarCoder-like model with a tiny tokenizer, as a Hugging Face folder."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPTBigCodeConfig, GPTBigCodeForCausalLM, PreTrainedTokenizerFast

POSITIONS = 160
TEXT = ["def double(x):\n    return x * 2\n", "Question: Write a Python function\n\nAnswer:\n", "    if x > 1:\n"] * 3


def write(folder: Path, *, seed: int = 0) -> Path:
    """Write the folder; the weights are large enough for the likeliest tokens to differ from place to place."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(TEXT, trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>").save_pretrained(folder)
    torch.manual_seed(seed)
    model = GPTBigCodeForCausalLM(GPTBigCodeConfig(
        vocab_size=304, n_positions=POSITIONS, n_embd=24, n_layer=2, n_head=3, n_inner=56, multi_query=True,
        eos_token_id=0, bos_token_id=0, initializer_range=0.4))
    model.save_pretrained(folder)
    return folder
