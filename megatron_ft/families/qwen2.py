"""Qwen2, Qwen2.5 and Qwen2.5-Coder: Hugging Face `qwen2`, LLaMA's decoder with biases on queries, keys and values."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from megatron_ft.families import llama
from megatron_ft.families.architecture import Architecture
from megatron_ft.families.hf_config import ConfigReader

NAME = "qwen2"
HF_MODEL_TYPES = ("qwen2",)
RULES = llama.RULES

_ABSENT = {"hidden_size": 4096, "intermediate_size": 22016, "num_hidden_layers": 32, "num_attention_heads": 32,
           "num_key_value_heads": 32, "vocab_size": 151936, "max_position_embeddings": 32768}
"""What transformers takes a key to be that is not there."""
_WINDOW_ABSENT, _MAX_WINDOW_LAYERS_ABSENT = 4096, 28


def _preset(layers: int, hidden: int, heads: int, groups: int, ffn: int, *, vocabulary: int = 152064,
            tied: bool = False) -> dict[str, Any]:
    return {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "vocab_size": vocabulary, "hidden_size": hidden,
            "intermediate_size": ffn, "num_hidden_layers": layers, "num_attention_heads": heads,
            "num_key_value_heads": groups, "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "rope_theta": 1e6,
            "use_sliding_window": False, "hidden_act": "silu", "tie_word_embeddings": tied, "bos_token_id": 151643,
            "eos_token_id": 151643}


_SMALL = {"vocabulary": 151936, "tied": True}

PRESETS = {
    "qwen2.5-coder-0.5b": _preset(24, 896, 14, 2, 4864, **_SMALL),
    "qwen2.5-coder-1.5b": _preset(28, 1536, 12, 2, 8960, **_SMALL),
    "qwen2.5-coder-3b": _preset(36, 2048, 16, 2, 11008, **_SMALL),
    "qwen2.5-coder-7b": _preset(28, 3584, 28, 4, 18944),
    "qwen2.5-coder-14b": _preset(48, 5120, 40, 8, 13824),
    "qwen2.5-coder-32b": _preset(64, 5120, 40, 8, 27648),
}
"""Published sizes, as Hugging Face configs."""


def architecture(hf: Mapping[str, Any], *, where: str = "config.json") -> Architecture:
    """Read a qwen2 config; ConfigError for any key or value whose meaning is not implemented."""
    reader = ConfigReader(hf, where)
    reader.only("use_mrope", False)
    read = llama.read_shared(reader, family=NAME, absent=_ABSENT, linear_bias=False, qkv_bias=True)
    read = dataclasses.replace(read, window=_window(reader, read.layers))
    reader.finish()
    return read


def _window(reader: ConfigReader, layers: int) -> int | None:
    """As transformers has it: with use_sliding_window the layers from max_window_layers on have the window."""
    used, window = reader.flag("use_sliding_window", False), reader.integer_or_none("sliding_window", _WINDOW_ABSENT)
    first = int(reader.number("max_window_layers", _MAX_WINDOW_LAYERS_ABSENT))
    full = min(layers, first) if used and window else layers
    listed = reader.take("layer_types")
    if listed not in (None, ["full_attention"] * full + ["sliding_attention"] * (layers - full)):
        raise reader.refusal("layer_types", listed, f"{full} x 'full_attention', then {layers - full} x 'sliding_attention' as "
                             "use_sliding_window, sliding_window and max_window_layers say")
    if 0 < full < layers:
        raise reader.refusal("max_window_layers", full, f"0 or num_hidden_layers, which is {layers}, or use_sliding_window "
                             f"false: a window on the last {layers - full} layers only is not implemented")
    return None if full else window


def hf_config(architecture: Architecture) -> dict[str, Any]:
    """The config that `architecture` reads back as the same model, in the spelling that transformers 4 and 5 read."""
    a = architecture
    return {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], **llama.shared_hf_config(a),
            "use_sliding_window": a.window is not None, "sliding_window": a.window,
            "max_window_layers": a.layers if a.window is None else 0}
