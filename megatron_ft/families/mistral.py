"""Mistral and Codestral: Hugging Face `mistral`, LLaMA's decoder with an optional sliding window."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from megatron_ft.families import llama
from megatron_ft.families.architecture import Architecture
from megatron_ft.families.hf_config import ConfigReader

NAME = "mistral"
HF_MODEL_TYPES = ("mistral",)
RULES = llama.RULES

_ABSENT = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
           "num_key_value_heads": 8, "vocab_size": 32000, "max_position_embeddings": 131072}
"""What transformers takes a key to be that is not there."""
_WINDOW_ABSENT = 4096
"""The trap of this family: no sliding_window is this one, and null is none."""


def _preset(layers: int, hidden: int, heads: int, ffn: int, *, vocabulary: int = 32768, theta: float = 1e6,
            window: int | None = None) -> dict[str, Any]:
    return {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "vocab_size": vocabulary,
            "hidden_size": hidden, "intermediate_size": ffn, "num_hidden_layers": layers, "num_attention_heads": heads,
            "num_key_value_heads": 8, "max_position_embeddings": 32768, "rms_norm_eps": 1e-5, "rope_theta": theta,
            "sliding_window": window, "hidden_act": "silu", "tie_word_embeddings": False, "bos_token_id": 1,
            "eos_token_id": 2}


PRESETS = {
    "mistral-7b-v0.1": _preset(32, 4096, 32, 14336, vocabulary=32000, theta=1e4, window=4096),
    "mistral-7b-v0.3": _preset(32, 4096, 32, 14336),
    "codestral-22b": _preset(56, 6144, 48, 16384),
}
"""Published sizes, as Hugging Face configs."""


def architecture(hf: Mapping[str, Any], *, where: str = "config.json") -> Architecture:
    """Read a mistral config; ConfigError for any key or value whose meaning is not implemented."""
    reader = ConfigReader(hf, where)
    read = llama.read_shared(reader, family=NAME, absent=_ABSENT, linear_bias=False, qkv_bias=False)
    read = dataclasses.replace(read, window=reader.integer_or_none("sliding_window", _WINDOW_ABSENT))
    reader.finish()
    return read


def hf_config(architecture: Architecture) -> dict[str, Any]:
    """The config that `architecture` reads back as the same model, in the spelling that transformers 4 and 5 read."""
    return {"model_type": "mistral", "architectures": ["MistralForCausalLM"], **llama.shared_hf_config(architecture),
            "sliding_window": architecture.window}
