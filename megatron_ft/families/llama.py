"""LLaMA 1, 2, 3, Code Llama and DeepSeek-Coder: Hugging Face `llama`, grouped queries, rotary positions, SwiGLU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from megatron_ft.families.architecture import Architecture
from megatron_ft.families.hf_config import ConfigReader, read_heads
from megatron_ft.families.rope import read_rope, rope_hf_config
from megatron_ft.families.rules import QKV, Gated, Ignored, Rows, Same

NAME = "llama"
HF_MODEL_TYPES = ("llama",)

_ABSENT = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
           "vocab_size": 32000, "max_position_embeddings": 2048}
"""What transformers takes a key to be that is not there."""
_UNUSED_KEYS = frozenset({"max_sequence_length"})
"""In the first LLaMA conversions, beside max_position_embeddings, which is what transformers reads."""

_LLAMA31_ROPE = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                 "original_max_position_embeddings": 8192}


def _preset(layers: int, hidden: int, heads: int, groups: int, ffn: int, *, vocabulary: int = 32000,
            positions: int = 2048, epsilon: float = 1e-5, theta: float = 1e4,
            scaling: dict[str, Any] | None = None, tied: bool = False, end_of_text: int = 2) -> dict[str, Any]:
    return {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": vocabulary,
            "hidden_size": hidden, "intermediate_size": ffn, "num_hidden_layers": layers, "num_attention_heads": heads,
            "num_key_value_heads": groups, "max_position_embeddings": positions, "rms_norm_eps": epsilon,
            "rope_theta": theta, "rope_scaling": scaling, "hidden_act": "silu", "tie_word_embeddings": tied,
            "eos_token_id": end_of_text}


_LLAMA3 = {"vocabulary": 128256, "positions": 8192, "theta": 5e5, "end_of_text": 128001}
_LLAMA31 = {**_LLAMA3, "positions": 131072, "scaling": _LLAMA31_ROPE}
_LLAMA32 = {**_LLAMA31, "scaling": {**_LLAMA31_ROPE, "factor": 32.0}, "tied": True}
_CODELLAMA = {"vocabulary": 32016, "positions": 16384, "theta": 1e6}
_DEEPSEEK = {"vocabulary": 32256, "positions": 16384, "epsilon": 1e-6, "theta": 1e5,
             "scaling": {"type": "linear", "factor": 4.0}, "end_of_text": 32014}

PRESETS = {
    "llama-7b": _preset(32, 4096, 32, 32, 11008, epsilon=1e-6),
    "llama-13b": _preset(40, 5120, 40, 40, 13824, epsilon=1e-6),
    "llama-30b": _preset(60, 6656, 52, 52, 17920, epsilon=1e-6),
    "llama-65b": _preset(80, 8192, 64, 64, 22016),
    "llama2-7b": _preset(32, 4096, 32, 32, 11008, positions=4096),
    "llama2-13b": _preset(40, 5120, 40, 40, 13824, positions=4096),
    "llama2-70b": _preset(80, 8192, 64, 8, 28672, positions=4096),
    "llama3-8b": _preset(32, 4096, 32, 8, 14336, **_LLAMA3),
    "llama3-70b": _preset(80, 8192, 64, 8, 28672, **_LLAMA3),
    "llama3.1-8b": _preset(32, 4096, 32, 8, 14336, **_LLAMA31),
    "llama3.1-70b": _preset(80, 8192, 64, 8, 28672, **_LLAMA31),
    "llama3.2-1b": _preset(16, 2048, 32, 8, 8192, **_LLAMA32),
    "llama3.2-3b": _preset(28, 3072, 24, 8, 8192, **_LLAMA32),
    "codellama-7b": _preset(32, 4096, 32, 32, 11008, **_CODELLAMA),
    "codellama-13b": _preset(40, 5120, 40, 40, 13824, **_CODELLAMA),
    "codellama-34b": _preset(48, 8192, 64, 8, 22016, **{**_CODELLAMA, "vocabulary": 32000}),
    "deepseek-coder-1.3b": _preset(24, 2048, 16, 16, 5504, **_DEEPSEEK),
    "deepseek-coder-6.7b": _preset(32, 4096, 32, 32, 11008, **_DEEPSEEK),
    "deepseek-coder-33b": _preset(62, 7168, 56, 8, 19200, **_DEEPSEEK),
}
"""Published sizes, as Hugging Face configs."""


def _biased(architecture: Architecture) -> bool:
    return architecture.linear_bias


RULES = (
    Rows("embedding.word_embeddings.weight", "model.embed_tokens.weight", "vocabulary hidden"),
    Same("decoder.layers.{i}.input_layernorm.weight", "model.layers.{i}.input_layernorm.weight", "hidden"),
    QKV("decoder.layers.{i}.self_attention.linear_qkv.weight",
        ("model.layers.{i}.self_attn.q_proj.weight", "model.layers.{i}.self_attn.k_proj.weight",
         "model.layers.{i}.self_attn.v_proj.weight")),
    QKV("decoder.layers.{i}.self_attention.linear_qkv.bias",
        ("model.layers.{i}.self_attn.q_proj.bias", "model.layers.{i}.self_attn.k_proj.bias",
         "model.layers.{i}.self_attn.v_proj.bias"), columns="", when=lambda a: a.qkv_bias),
    Same("decoder.layers.{i}.self_attention.linear_proj.weight", "model.layers.{i}.self_attn.o_proj.weight",
         "hidden query"),
    Same("decoder.layers.{i}.self_attention.linear_proj.bias", "model.layers.{i}.self_attn.o_proj.bias", "hidden",
         when=_biased),
    Same("decoder.layers.{i}.pre_mlp_layernorm.weight", "model.layers.{i}.post_attention_layernorm.weight", "hidden"),
    Gated("decoder.layers.{i}.mlp.linear_fc1.weight",
          ("model.layers.{i}.mlp.gate_proj.weight", "model.layers.{i}.mlp.up_proj.weight")),
    Gated("decoder.layers.{i}.mlp.linear_fc1.bias",
          ("model.layers.{i}.mlp.gate_proj.bias", "model.layers.{i}.mlp.up_proj.bias"), columns="", when=_biased),
    Same("decoder.layers.{i}.mlp.linear_fc2.weight", "model.layers.{i}.mlp.down_proj.weight", "hidden ffn"),
    Same("decoder.layers.{i}.mlp.linear_fc2.bias", "model.layers.{i}.mlp.down_proj.bias", "hidden", when=_biased),
    Same("decoder.final_layernorm.weight", "model.norm.weight", "hidden"),
    Rows("output_layer.weight", "lm_head.weight", "vocabulary hidden", when=lambda a: not a.tied_head),
    Ignored("lm_head.weight", equals="model.embed_tokens.weight", when=lambda a: a.tied_head),
    Ignored("model.layers.{i}.self_attn.rotary_emb.inv_freq"),
)
"""Mistral's and Qwen2's too: they have the same weights by the same names."""


def architecture(hf: Mapping[str, Any], *, where: str = "config.json") -> Architecture:
    """Read a llama config; ConfigError for any key or value whose meaning is not implemented."""
    reader = ConfigReader(hf, where)
    attention_bias, mlp_bias = reader.flag("attention_bias", False), reader.flag("mlp_bias", False)
    if attention_bias != mlp_bias:
        raise reader.refusal("mlp_bias", mlp_bias,
                             f"{attention_bias} as attention_bias: megatron-core has one switch for both")
    reader.only("pretraining_tp", 1)
    read = read_shared(reader, family=NAME, absent=_ABSENT, linear_bias=attention_bias, qkv_bias=attention_bias)
    reader.finish(_UNUSED_KEYS)
    return read


def read_shared(reader: ConfigReader, *, family: str, absent: Mapping[str, int], linear_bias: bool,
                qkv_bias: bool) -> Architecture:
    """What llama, mistral and qwen2 say with the same keys.

    Args:
        absent: what it means that a key is not there.
    """
    reader.choice("hidden_act", {"silu": "silu"}, "silu")
    return Architecture(
        family=family, layers=reader.integer("num_hidden_layers", absent["num_hidden_layers"]),
        **read_heads(reader, absent=absent), ffn=reader.integer("intermediate_size", absent["intermediate_size"]),
        vocabulary=reader.integer("vocab_size", absent["vocab_size"]),
        positions=reader.integer("max_position_embeddings", absent["max_position_embeddings"]),
        norm="rmsnorm", norm_epsilon=reader.number("rms_norm_eps", 1e-6), activation="silu", gated=True,
        linear_bias=linear_bias, qkv_bias=qkv_bias, tied_head=reader.flag("tie_word_embeddings", False),
        position_embedding="rope", rope=read_rope(reader), hidden_dropout=0.0,
        attention_dropout=reader.number("attention_dropout", 0.0),
        initializer_range=reader.number("initializer_range", 0.02))


def hf_config(architecture: Architecture) -> dict[str, Any]:
    """The config that `architecture` reads back as the same model, in the spelling that transformers 4 and 5 read."""
    biased = architecture.linear_bias
    return {"model_type": "llama", "architectures": ["LlamaForCausalLM"], **shared_hf_config(architecture),
            "attention_bias": biased, "mlp_bias": biased}


def shared_hf_config(architecture: Architecture) -> dict[str, Any]:
    """The keys that llama, mistral and qwen2 share: what `read_shared` reads."""
    a = architecture
    return {"vocab_size": a.vocabulary, "hidden_size": a.hidden, "intermediate_size": a.ffn, "num_hidden_layers": a.layers,
            "num_attention_heads": a.heads, "num_key_value_heads": a.groups, "head_dim": a.head_width,
            "max_position_embeddings": a.positions, "rms_norm_eps": a.norm_epsilon, **rope_hf_config(a.rope),
            "hidden_act": "silu", "attention_dropout": a.attention_dropout, "initializer_range": a.initializer_range,
            "tie_word_embeddings": a.tied_head}
