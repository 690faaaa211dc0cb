"""StarCoder2: Hugging Face `starcoder2`, grouped queries, rotary positions, LayerNorm, biases, a sliding window."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from megatron_ft.families.architecture import Architecture
from megatron_ft.families.hf_config import ConfigReader, read_heads
from megatron_ft.families.rope import read_rope, rope_hf_config
from megatron_ft.families.rules import QKV, Ignored, Rows, Same

NAME = "starcoder2"
HF_MODEL_TYPES = ("starcoder2",)

_ACTIVATIONS = {"gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu"}
_ABSENT = {"hidden_size": 3072, "intermediate_size": 12288, "num_hidden_layers": 30, "num_attention_heads": 24,
           "num_key_value_heads": 2, "vocab_size": 49152, "max_position_embeddings": 4096}
"""What transformers takes a key to be that is not there."""


def _preset(layers: int, hidden: int, heads: int, groups: int, *, theta: float, initial: float = 0.018042,
            tied: bool = True) -> dict[str, Any]:
    return {"model_type": "starcoder2", "architectures": ["Starcoder2ForCausalLM"], "vocab_size": 49152,
            "hidden_size": hidden, "intermediate_size": 4 * hidden, "num_hidden_layers": layers,
            "num_attention_heads": heads, "num_key_value_heads": groups, "max_position_embeddings": 16384,
            "hidden_act": "gelu_pytorch_tanh", "norm_epsilon": 1e-5, "norm_type": "layer_norm", "mlp_type": "default",
            "use_bias": True, "rope_theta": theta, "sliding_window": 4096, "attention_dropout": 0.1,
            "residual_dropout": 0.1, "embedding_dropout": 0.1, "initializer_range": initial, "tie_word_embeddings": tied,
            "bos_token_id": 0, "eos_token_id": 0}


PRESETS = {
    "starcoder2-3b": _preset(30, 3072, 24, 2, theta=999999.4420358813),
    "starcoder2-7b": _preset(32, 4608, 36, 4, theta=1e6),
    # Trained with NeMo, which does not tie: its files hold an lm_head of their own.
    "starcoder2-15b": _preset(40, 6144, 48, 4, theta=1e5, initial=0.01275, tied=False),
}
"""Published sizes, as Hugging Face configs."""

RULES = (
    Rows("embedding.word_embeddings.weight", "model.embed_tokens.weight", "vocabulary hidden"),
    Same("decoder.layers.{i}.input_layernorm.weight", "model.layers.{i}.input_layernorm.weight", "hidden"),
    Same("decoder.layers.{i}.input_layernorm.bias", "model.layers.{i}.input_layernorm.bias", "hidden"),
    QKV("decoder.layers.{i}.self_attention.linear_qkv.weight",
        ("model.layers.{i}.self_attn.q_proj.weight", "model.layers.{i}.self_attn.k_proj.weight",
         "model.layers.{i}.self_attn.v_proj.weight")),
    QKV("decoder.layers.{i}.self_attention.linear_qkv.bias",
        ("model.layers.{i}.self_attn.q_proj.bias", "model.layers.{i}.self_attn.k_proj.bias",
         "model.layers.{i}.self_attn.v_proj.bias"), columns=""),
    Same("decoder.layers.{i}.self_attention.linear_proj.weight", "model.layers.{i}.self_attn.o_proj.weight",
         "hidden query"),
    Same("decoder.layers.{i}.self_attention.linear_proj.bias", "model.layers.{i}.self_attn.o_proj.bias", "hidden"),
    Same("decoder.layers.{i}.pre_mlp_layernorm.weight", "model.layers.{i}.post_attention_layernorm.weight", "hidden"),
    Same("decoder.layers.{i}.pre_mlp_layernorm.bias", "model.layers.{i}.post_attention_layernorm.bias", "hidden"),
    Same("decoder.layers.{i}.mlp.linear_fc1.weight", "model.layers.{i}.mlp.c_fc.weight", "ffn hidden"),
    Same("decoder.layers.{i}.mlp.linear_fc1.bias", "model.layers.{i}.mlp.c_fc.bias", "ffn"),
    Same("decoder.layers.{i}.mlp.linear_fc2.weight", "model.layers.{i}.mlp.c_proj.weight", "hidden ffn"),
    Same("decoder.layers.{i}.mlp.linear_fc2.bias", "model.layers.{i}.mlp.c_proj.bias", "hidden"),
    Same("decoder.final_layernorm.weight", "model.norm.weight", "hidden"),
    Same("decoder.final_layernorm.bias", "model.norm.bias", "hidden"),
    Rows("output_layer.weight", "lm_head.weight", "vocabulary hidden", when=lambda a: not a.tied_head),
    Ignored("lm_head.weight", equals="model.embed_tokens.weight", when=lambda a: a.tied_head),
    Ignored("model.layers.{i}.self_attn.rotary_emb.inv_freq"),
)


def architecture(hf: Mapping[str, Any], *, where: str = "config.json") -> Architecture:
    """Read a starcoder2 config; ConfigError for any key or value whose meaning is not implemented."""
    reader = ConfigReader(hf, where)
    reader.only("use_bias", True)
    reader.only("norm_type", "layer_norm")
    reader.only("mlp_type", "default")
    reader.only("scale_attn_weights", True)
    for in_fp32 in ("attention_softmax_in_fp32", "scale_attention_softmax_in_fp32"):
        reader.flag(in_fp32, True)  # precision of the softmax: in megatron-core the run's own choice
    epsilon = reader.number("norm_epsilon", 1e-5)
    reader.only("layer_norm_epsilon", epsilon)  # stands beside it in published files; transformers does not read it
    dropout, embedding_dropout = reader.number("residual_dropout", 0.0), reader.number("embedding_dropout", 0.0)
    if dropout != embedding_dropout:
        raise reader.refusal("embedding_dropout", embedding_dropout,
                             f"{dropout} as residual_dropout: megatron-core has one number")
    read = Architecture(
        family=NAME, layers=reader.integer("num_hidden_layers", _ABSENT["num_hidden_layers"]),
        **read_heads(reader, absent=_ABSENT), ffn=reader.integer("intermediate_size", _ABSENT["intermediate_size"]),
        vocabulary=reader.integer("vocab_size", _ABSENT["vocab_size"]),
        positions=reader.integer("max_position_embeddings", _ABSENT["max_position_embeddings"]),
        norm="layernorm", norm_epsilon=epsilon, activation=reader.choice("hidden_act", _ACTIVATIONS, "gelu_pytorch_tanh"),
        gated=False, linear_bias=True, qkv_bias=True, tied_head=reader.flag("tie_word_embeddings", True),
        position_embedding="rope", rope=read_rope(reader), hidden_dropout=dropout,
        attention_dropout=reader.number("attention_dropout", 0.0),
        initializer_range=reader.number("initializer_range", 0.018042),
        window=reader.integer_or_none("sliding_window", None))
    reader.finish()
    return read


def hf_config(architecture: Architecture) -> dict[str, Any]:
    """The config that `architecture` reads back as the same model, in the spelling that transformers 4 and 5 read."""
    a = architecture
    [activation] = [name for name, ours in _ACTIVATIONS.items() if ours == a.activation]
    return {"model_type": "starcoder2", "architectures": ["Starcoder2ForCausalLM"], "vocab_size": a.vocabulary,
            "hidden_size": a.hidden, "intermediate_size": a.ffn, "num_hidden_layers": a.layers,
            "num_attention_heads": a.heads, "num_key_value_heads": a.groups, "head_dim": a.head_width,
            "max_position_embeddings": a.positions, "hidden_act": activation, "norm_epsilon": a.norm_epsilon,
            "norm_type": "layer_norm", "mlp_type": "default", "use_bias": True, **rope_hf_config(a.rope),
            "sliding_window": a.window, "attention_dropout": a.attention_dropout, "residual_dropout": a.hidden_dropout,
            "embedding_dropout": a.hidden_dropout, "initializer_range": a.initializer_range,
            "tie_word_embeddings": a.tied_head}
