"""StarCoder and StarCoderBase: Hugging Face `gpt_bigcode`, multi-query (or multi-head) attention, learned positions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from megatron_ft.families.architecture import Architecture
from megatron_ft.families.hf_config import ConfigReader
from megatron_ft.families.rules import Ignored, Rows, Same

NAME = "starcoder"
HF_MODEL_TYPES = ("gpt_bigcode",)

_ACTIVATIONS = {"gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh", "gelu_fast": "gelu_tanh", "gelu": "gelu"}
_RUNTIME_KEYS = frozenset({"inference_runner", "max_batch_size", "max_sequence_length", "pad_key_length",
                           "pre_allocate_kv_cache", "validate_runner_input"})
"""Left in the published config.json files by the first implementation's inference code."""


def _preset(**sizes: int) -> dict[str, Any]:
    return {"model_type": "gpt_bigcode", "architectures": ["GPTBigCodeForCausalLM"], "vocab_size": 49152,
            "n_positions": 8192, **sizes, "n_inner": 4 * sizes["n_embd"], "activation_function": "gelu_pytorch_tanh",
            "layer_norm_epsilon": 1e-5, "multi_query": True, "attn_pdrop": 0.1, "embd_pdrop": 0.1, "resid_pdrop": 0.1,
            "tie_word_embeddings": True, "bos_token_id": 0, "eos_token_id": 0}


PRESETS = {
    "starcoderbase-1b": _preset(n_layer=24, n_embd=2048, n_head=16),
    "starcoderbase-3b": _preset(n_layer=36, n_embd=2816, n_head=22),
    "starcoderbase-7b": _preset(n_layer=42, n_embd=4096, n_head=32),
    "starcoderbase": _preset(n_layer=40, n_embd=6144, n_head=48),
}
"""Published sizes, as Hugging Face configs. The activation is the one that they were trained with (see `notes`)."""

RULES = (
    Rows("embedding.word_embeddings.weight", "transformer.wte.weight", "vocabulary hidden"),
    Same("embedding.position_embeddings.weight", "transformer.wpe.weight", "positions hidden"),
    Same("decoder.layers.{i}.input_layernorm.weight", "transformer.h.{i}.ln_1.weight", "hidden"),
    Same("decoder.layers.{i}.input_layernorm.bias", "transformer.h.{i}.ln_1.bias", "hidden"),
    # c_attn is [all queries; k; v] with one group and [q; k; v] per head with as many groups as heads: in both cases
    # exactly megatron-core's order, group by group.
    Same("decoder.layers.{i}.self_attention.linear_qkv.weight", "transformer.h.{i}.attn.c_attn.weight", "qkv hidden"),
    Same("decoder.layers.{i}.self_attention.linear_qkv.bias", "transformer.h.{i}.attn.c_attn.bias", "qkv"),
    Same("decoder.layers.{i}.self_attention.linear_proj.weight", "transformer.h.{i}.attn.c_proj.weight",
         "hidden query"),
    Same("decoder.layers.{i}.self_attention.linear_proj.bias", "transformer.h.{i}.attn.c_proj.bias", "hidden"),
    Same("decoder.layers.{i}.pre_mlp_layernorm.weight", "transformer.h.{i}.ln_2.weight", "hidden"),
    Same("decoder.layers.{i}.pre_mlp_layernorm.bias", "transformer.h.{i}.ln_2.bias", "hidden"),
    Same("decoder.layers.{i}.mlp.linear_fc1.weight", "transformer.h.{i}.mlp.c_fc.weight", "ffn hidden"),
    Same("decoder.layers.{i}.mlp.linear_fc1.bias", "transformer.h.{i}.mlp.c_fc.bias", "ffn"),
    Same("decoder.layers.{i}.mlp.linear_fc2.weight", "transformer.h.{i}.mlp.c_proj.weight", "hidden ffn"),
    Same("decoder.layers.{i}.mlp.linear_fc2.bias", "transformer.h.{i}.mlp.c_proj.bias", "hidden"),
    Same("decoder.final_layernorm.weight", "transformer.ln_f.weight", "hidden"),
    Same("decoder.final_layernorm.bias", "transformer.ln_f.bias", "hidden"),
    Rows("output_layer.weight", "lm_head.weight", "vocabulary hidden", when=lambda a: not a.tied_head),
    Ignored("lm_head.weight", equals="transformer.wte.weight", when=lambda a: a.tied_head),
    Ignored("transformer.h.{i}.attn.bias"),
    Ignored("transformer.h.{i}.attn.masked_bias"),
)


def architecture(hf: Mapping[str, Any], *, where: str = "config.json") -> Architecture:
    """Read a gpt_bigcode config; ConfigError for any key or value whose meaning is not implemented."""
    reader = ConfigReader(hf, where)
    hidden, heads = reader.integer("n_embd", 768), reader.integer("n_head", 12)
    if hidden % heads:
        raise reader.refusal("n_embd", hidden, f"a multiple of n_head, which is {heads}")
    groups = 1 if reader.flag("multi_query", True) else heads
    reader.only("num_key_value_heads", groups)
    reader.only("scale_attn_weights", True)
    reader.only("add_cross_attention", False)
    for in_fp32 in ("attention_softmax_in_fp32", "scale_attention_softmax_in_fp32"):
        reader.flag(in_fp32, True)  # precision of the softmax: in megatron-core the run's own choice
    dropout, embedding_dropout = reader.number("resid_pdrop", 0.1), reader.number("embd_pdrop", 0.1)
    if dropout != embedding_dropout:
        raise reader.refusal("embd_pdrop", embedding_dropout, f"{dropout} as resid_pdrop: megatron-core has one number")
    read = Architecture(
        family=NAME, layers=reader.integer("n_layer", 12), hidden=hidden, heads=heads, groups=groups,
        head_width=hidden // heads, ffn=reader.integer("n_inner", 4 * hidden),
        vocabulary=reader.integer("vocab_size", 50257), positions=reader.integer("n_positions", 1024),
        norm="layernorm", norm_epsilon=reader.number("layer_norm_epsilon", 1e-5),
        activation=reader.choice("activation_function", _ACTIVATIONS, "gelu_pytorch_tanh"), gated=False,
        linear_bias=True, qkv_bias=True, tied_head=reader.flag("tie_word_embeddings", True),
        position_embedding="learned", hidden_dropout=dropout, attention_dropout=reader.number("attn_pdrop", 0.1),
        initializer_range=reader.number("initializer_range", 0.02))
    reader.finish(_RUNTIME_KEYS)
    return read


def hf_config(architecture: Architecture) -> dict[str, Any]:
    """The config that `architecture` reads back as the same model."""
    a = architecture
    activation = {"gelu_tanh": "gelu_pytorch_tanh", "gelu": "gelu"}[a.activation]
    return {"model_type": "gpt_bigcode", "architectures": ["GPTBigCodeForCausalLM"], "vocab_size": a.vocabulary,
            "n_positions": a.positions, "n_embd": a.hidden, "n_layer": a.layers, "n_head": a.heads, "n_inner": a.ffn,
            "activation_function": activation, "layer_norm_epsilon": a.norm_epsilon, "multi_query": a.groups == 1,
            "attn_pdrop": a.attention_dropout, "embd_pdrop": a.hidden_dropout, "resid_pdrop": a.hidden_dropout,
            "initializer_range": a.initializer_range, "tie_word_embeddings": a.tied_head}


def notes(architecture: Architecture) -> list[str]:
    """What a person should know before trusting a config of this family; empty in the usual case."""
    if architecture.activation == "gelu":
        return ["activation_function is 'gelu' (exact); Megatron trained StarCoder with the tanh form, "
                "'gelu_pytorch_tanh'. The config's word is kept: change it in config.json if the model is StarCoder's"]
    return []
