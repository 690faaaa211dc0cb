"""What model a checkpoint of somebody else's Megatron holds: the `args` that it was trained with, read as an Architecture."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from megatron_ft import families
from megatron_ft.errors import ConfigError
from megatron_ft.families.architecture import Architecture
from megatron_ft.runtime.pickles import Named

_POSITIONS = {"learned_absolute": "learned", "absolute": "learned", 2: "learned", "rope": "rope", "rotary": "rope", 1: "rope"}
"""Of an argument, or of the enum PositionEmbeddingType of BigCode's and epfLLM's forks: its member's name or value."""
_LLAMA3_ROPE = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192.0}
"""megatron-core's own constants for --use-rope-scaling (rotary_pos_embedding.py, `_apply_scaling`)."""
_SUPPORTED_ONLY = {"rotary_percent": 1.0, "num_experts": None, "parallel_attn": False, "use_post_ln": False,
                   "apply_residual_connection_post_layernorm": False, "squared_relu": False,
                   "qk_layernorm": False, "multi_latent_attention": False, "apply_layernorm_1p": False,
                   "parallel_layernorm": False, "no_rope_freq": None, "rotary_interleaved": False,
                   "window_attn_skip_freq": None, "softmax_type": "vanilla", "glu_linear_offset": 0.0, "mtp_num_layers": None}
"""Arguments that change the model's function, with the value that is supported."""


@dataclasses.dataclass(frozen=True)
class Args:
    """Arguments by any of their names over the years."""

    values: dict[str, Any]
    where: str

    def get(self, *names: str, default: Any = None) -> Any:
        """The first of these that is there and not None."""
        return next((self.values[name] for name in names if self.values.get(name) is not None), default)

    def need(self, *names: str) -> int:
        """A whole number above 0; ConfigError names the argument."""
        value = self.get(*names)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"{self.where}: args.{names[0]} is {value!r}, expected a whole number above 0; name the "
                              "model's config with --config DIR")
        return value


def architecture(namespace: argparse.Namespace, *, vocabulary: int | None, stored_rows: int, where: str,
                 family: str | None = None, core: bool = False) -> Architecture:
    """The model of these arguments; ConfigError for one that no family is.

    Args:
        vocabulary: without padding; None: what the arguments say, if they do.
        stored_rows: of the word embeddings, with padding.
        family: None: the one that has such models.
        core: the model is megatron-core's GPTModel, which reads some arguments differently from those before it.
    """
    args = Args(vars(namespace), where)
    for name, supported in _SUPPORTED_ONLY.items():
        if args.get(name, default=supported) != supported:
            raise ConfigError(f"{where}: args.{name} is {args.get(name)!r}, expected {supported!r}, the only value supported")
    found = _described(args, _vocabulary(args, vocabulary, stored_rows), core)
    for name in [family] if family else families.known():
        candidate = dataclasses.replace(found, family=name)
        if _is_of(candidate):
            return candidate
    words = f"{found.norm}, {found.position_embedding} positions, {found.activation}{', gated' * found.gated}"
    raise ConfigError(f"{where}: args describe a model ({words}, biases: {found.linear_bias}, {found.heads} heads with "
                      f"{found.groups} for keys) that is none of {family or ', '.join(families.known())}; name its config with "
                      "--config DIR")


def _vocabulary(args: Args, given: int | None, stored_rows: int) -> int:
    # NullTokenizer's vocab_size leaves out its end of text.
    names = () if args.get("tokenizer_type") == "NullTokenizer" else ("vocab_size",)
    found = given or args.get("orig_vocab_size", "true_vocab_size", *names)
    if found is None:
        raise ConfigError(f"{args.where}: args do not say the vocabulary, and the {stored_rows} stored rows may be padded; "
                          "name it with --vocab-size N (the number of the tokenizer's tokens) or --config DIR")
    if not 0 < found <= stored_rows:
        option = "--vocab-size" if given else "args.vocab_size"
        raise ConfigError(f"{args.where}: {option} is {found}, but {stored_rows} rows are stored; it counts the tokenizer's "
                          "tokens")
    return found


def _described(args: Args, vocabulary: int, core: bool) -> Architecture:
    hidden, heads = args.need("hidden_size"), args.need("num_attention_heads")
    gated = bool(args.get("swiglu", default=False)) or args.get("glu_activation") == "swiglu"
    if args.get("glu_activation") not in (None, "swiglu"):
        raise ConfigError(f"{args.where}: args.glu_activation is {args.get('glu_activation')!r}, expected 'swiglu'")
    tanh = _is_tanh(args, core)
    rms = args.get("normalization") == "RMSNorm" or bool(args.get("use_rms_norm", "RMSNorm", default=False))
    bias = bool(args.get("add_bias_linear", "use_bias", default=not gated))
    window = args.get("window_size", "sliding_window_size")
    window = window[0] + 1 if isinstance(window, list | tuple) else window
    positions = _position_embedding(args)
    return Architecture(
        family="", layers=args.need("num_layers"), hidden=hidden, heads=heads, groups=_groups(args, heads),
        head_width=args.get("kv_channels", default=hidden // heads), ffn=args.get("ffn_hidden_size", default=4 * hidden),
        vocabulary=vocabulary, positions=args.need("max_position_embeddings", "seq_length"),
        norm="rmsnorm" if rms else "layernorm", norm_epsilon=args.get("norm_epsilon", "layernorm_epsilon", default=1e-5),
        activation="silu" if gated else "gelu_tanh" if tanh else "gelu", gated=gated, linear_bias=bias,
        qkv_bias=bias or bool(args.get("add_qkv_bias", default=False)), tied_head=_tied(args), position_embedding=positions,
        rope=_rope(args) if positions == "rope" else {}, hidden_dropout=args.get("hidden_dropout", default=0.0),
        attention_dropout=args.get("attention_dropout", default=0.0),
        initializer_range=args.get("init_method_std", default=0.02), window=window)


def _is_tanh(args: Args, core: bool) -> bool:
    """Whether GELU is its tanh form: the fused kernel is, and before megatron-core openai_gelu was."""
    fused = bool(args.get("bias_gelu_fusion", default=True))
    return fused if core else bool(args.get("openai_gelu")) or (fused and not args.get("onnx_safe"))


def _groups(args: Args, heads: int) -> int:
    kind = args.get("attention_head_type", default="multihead")
    if isinstance(kind, Named):
        value = next(iter(kind.arguments), None)
        kind = {"1": "multihead", "2": "multiquery"}.get(str(value), value)
    if kind == "multiquery" or (args.get("use_multiquery_attn") and args.get("num_attention_heads_kv") is None):
        return 1
    if args.get("num_attention_heads_kv") is not None:
        return args.need("num_attention_heads_kv")
    return args.need("num_query_groups") if args.get("group_query_attention") else heads


def _tied(args: Args) -> bool:
    if args.get("tie_embed_logits") is not None:
        return bool(args.get("tie_embed_logits"))
    return not args.get("untie_embeddings_and_output_weights", default=False)


def _position_embedding(args: Args) -> Any:
    if args.get("use_rotary_position_embeddings"):
        return "rope"
    kind = args.get("position_embedding_type", default="learned_absolute")
    key = next(iter(kind.arguments), None) if isinstance(kind, Named) else kind
    if not isinstance(key, str | int) or key not in _POSITIONS:
        raise ConfigError(f"{args.where}: args.position_embedding_type is {key!r}, expected learned or rotary positions")
    return _POSITIONS[key]


def _rope(args: Args) -> dict[str, Any]:
    theta = float(args.get("rotary_base", "rotary_theta", "rope_theta", default=1e4))
    if args.get("use_rope_scaling"):
        return {"type": "llama3", "theta": theta, "factor": float(args.get("rope_scaling_factor", default=8.0)), **_LLAMA3_ROPE}
    # NVIDIA's rope_scaling_factor is 8 where nobody asks for scaling, and has a meaning with use_rope_scaling only.
    epfllm = () if "use_rope_scaling" in args.values else ("rope_scaling_factor",)
    factor = args.get("rotary_seq_len_interpolation_factor", *epfllm, default=1)
    return {"type": "linear", "theta": theta, "factor": float(factor)} if factor != 1 else {"type": "default", "theta": theta}


def _is_of(candidate: Architecture) -> bool:
    """Whether a family writes this model as a config that reads back as the same."""
    module = families.get(candidate.family)
    try:
        return families.from_hf_config(module.hf_config(candidate), where="args") == candidate
    except (ConfigError, KeyError):
        return False
