"""Writes Megatron's per-rank folders from Hugging Face tensors, on its own: it shares no code with what reads them.

    write(folder, tensors, config, dialect=..., tp=2, pp=4)

Layouts: BigCode's megatron/model/transformer.py (attention_head_type), NVIDIA's core_v0.5 legacy model, epfLLM's
weights_conversion/hf_to_megatron.py, megatron-core's GPTModel.state_dict.
"""

from __future__ import annotations

import argparse
import contextlib
import enum
import random
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


@contextlib.contextmanager
def enums() -> Iterator[Any]:
    """A module as Megatron's forks have it, that is gone when the file is read again."""
    module = types.ModuleType("megatron.model.enums")

    class PositionEmbeddingType(enum.Enum):
        rotary = 1
        absolute = 2

    PositionEmbeddingType.__module__, PositionEmbeddingType.__qualname__ = module.__name__, "PositionEmbeddingType"
    module.PositionEmbeddingType = PositionEmbeddingType
    sys.modules[module.__name__] = module
    try:
        yield module
    finally:
        del sys.modules[module.__name__]


def write(folder: Path, tensors: dict[str, Tensor], config: Any, *, dialect: str, tp: int, pp: int, pieces: int = 1,
          iteration: int | str = "release", multiple: int = 128) -> Path:
    """A checkpoint root with one checkpoint; gives the root.

    Args:
        config: the transformers config of a gpt_bigcode or llama model.
        pieces: of each pipeline stage.
    """
    name = "release" if iteration == "release" else f"iter_{iteration:07d}"
    star = config.model_type == "gpt_bigcode"
    layers = config.n_layer if star else config.num_hidden_layers
    each = layers // (pp * pieces)
    with enums() as words:
        args = arguments(config, dialect, tp, pp, pieces, multiple, words)
        for t in range(tp):
            for p in range(pp):
                models = []
                for v in range(pieces):
                    first = (v * pp + p) * each
                    models.append(stage(tensors, config, dialect, t, tp, range(first, first + each), first=p == v == 0,
                                        last=p == pp - 1 and v == pieces - 1, padded=args.padded_vocab_size))
                state = {"args": args, "checkpoint_version": 3.0, "iteration": 0 if iteration == "release" else iteration,
                         "rng_state": [{"random_rng_state": random.getstate(), "np_rng_state": np.random.get_state(),
                                        "torch_rng_state": torch.get_rng_state()}],
                         "optimizer": {"state": {0: {"step": 3, "exp_avg": torch.ones(4)}}, "param_groups": [{"lr": 0.1}]}}
                state.update({"model": models[0]} if pieces == 1 else {f"model{v}": model for v, model in enumerate(models)})
                rank = folder / name / (f"mp_rank_{t:02d}" if pp == 1 else f"mp_rank_{t:02d}_{p:03d}")
                rank.mkdir(parents=True)
                torch.save(state, rank / "model_optim_rng.pt")
    (folder / "latest_checkpointed_iteration.txt").write_text(str(iteration))
    return folder


def arguments(config: Any, dialect: str, tp: int, pp: int, pieces: int, multiple: int, words: Any) -> argparse.Namespace:
    """As each fork names them."""
    star = config.model_type == "gpt_bigcode"
    vocabulary = config.vocab_size
    found: dict[str, Any] = {"tensor_model_parallel_size": tp, "pipeline_model_parallel_size": pp,
                             "padded_vocab_size": -(-vocabulary // (multiple * tp)) * multiple * tp,
                             "params_dtype": torch.float32, "layernorm_epsilon": 1e-5, "init_method_std": 0.02}
    if pieces > 1:
        found["virtual_pipeline_model_parallel_size"] = pieces
    if star:
        found |= {"num_layers": config.n_layer, "hidden_size": config.n_embd, "num_attention_heads": config.n_head,
                  "ffn_hidden_size": config.n_inner, "max_position_embeddings": config.n_positions, "hidden_dropout": 0.1,
                  "attention_dropout": 0.1, "bias_gelu_fusion": True, "kv_channels": config.n_embd // config.n_head}
        if dialect == "bigcode":
            found |= {"attention_head_type": "multiquery", "vocab_size": vocabulary,
                      "position_embedding_type": words.PositionEmbeddingType.absolute}
        else:
            found |= {"position_embedding_type": "learned_absolute", "add_bias_linear": True, "normalization": "LayerNorm",
                      "group_query_attention": config.multi_query, "num_query_groups": 1}
        return argparse.Namespace(**found)
    found |= {"num_layers": config.num_hidden_layers, "hidden_size": config.hidden_size,
              "num_attention_heads": config.num_attention_heads, "ffn_hidden_size": config.intermediate_size,
              "max_position_embeddings": config.max_position_embeddings, "kv_channels": config.head_dim, "hidden_dropout": 0.0,
              "attention_dropout": 0.0}
    if dialect == "megatron-llm":
        found |= {"num_attention_heads_kv": config.num_key_value_heads, "glu_activation": "swiglu", "use_rms_norm": True,
                  "tie_embed_logits": False, "use_bias": False, "parallel_attn": False, "rope_theta": 10000.0,
                  "rope_scaling_factor": 1.0, "position_embedding_type": words.PositionEmbeddingType.rotary}
    else:
        found |= {"group_query_attention": True, "num_query_groups": config.num_key_value_heads, "swiglu": True,
                  "normalization": "RMSNorm", "norm_epsilon": 1e-5, "add_bias_linear": False, "rotary_base": 10000,
                  "untie_embeddings_and_output_weights": True, "position_embedding_type": "rope", "rotary_percent": 1.0}
    return argparse.Namespace(**found)


def rows(tensor: Tensor, rank: int, tp: int) -> Tensor:
    return tensor.chunk(tp, dim=0)[rank].clone()


def columns(tensor: Tensor, rank: int, tp: int) -> Tensor:
    return tensor.chunk(tp, dim=1)[rank].clone()


def padded_rows(tensor: Tensor, height: int, rank: int, tp: int) -> Tensor:
    """Padding is what an untrained embedding holds, not zeros."""
    return rows(torch.cat([tensor, torch.full((height - len(tensor), tensor.shape[1]), 7.5)]), rank, tp)


def stage(tensors: dict[str, Tensor], config: Any, dialect: str, rank: int, tp: int, layers: range, *, first: bool, last: bool,
          padded: int) -> dict[str, Any]:
    """The `model` of one rank's piece."""
    make = star_layer if config.model_type == "gpt_bigcode" else llama_layer
    flat: dict[str, Tensor] = {}
    for number, layer in enumerate(layers):
        for name, tensor in make(tensors, config, layer, dialect, rank, tp).items():
            flat[f"layers.{number}.{name}"] = tensor
    star = config.model_type == "gpt_bigcode"
    words = tensors["transformer.wte.weight" if star else "model.embed_tokens.weight"]
    embedding: dict[str, Any] = {}
    if first:
        embedding["word_embeddings"] = {"weight": padded_rows(words, padded, rank, tp)}
        if star:
            embedding["position_embeddings"] = {"weight": tensors["transformer.wpe.weight"].clone()}
    if last:
        for part in ("weight", "bias") if star else ("weight",):
            flat[f"final_layernorm.{part}"] = tensors[f"transformer.ln_f.{part}" if star else "model.norm.weight"].clone()
    head = None if star or not last else padded_rows(tensors["lm_head.weight"], padded, rank, tp)
    if dialect == "core":
        found = {f"decoder.{name}": tensor for name, tensor in flat.items()}
        found |= {f"embedding.{name}.weight": part["weight"] for name, part in embedding.items()}
        if head is not None:
            found["output_layer.weight"] = head
        elif last and not first:
            found["output_layer.weight"] = padded_rows(words, padded, rank, tp)
        found["decoder.final_layernorm._extra_state"] = None
        return found
    if dialect == "megatron-llm":
        model: dict[str, Any] = {"language_model": {"transformer": flat}}
        if embedding:
            model["language_model"]["embedding"] = {"word_embeddings.weight": embedding["word_embeddings"]["weight"]}
        if head is not None:
            model["language_model"]["lm_head"] = head
        return model
    if dialect == "nvidia" and not star:  # as of 2023 the norms lost their "layer"
        flat = {name.replace("_layernorm.", "_norm."): tensor for name, tensor in flat.items()}
    model = {"language_model": {"encoder": flat}}
    if embedding:
        model["language_model"]["embedding"] = embedding
    if head is not None:
        model["language_model"]["output_layer"] = {"weight": head}
    if star and last and not first:
        model["word_embeddings_for_head"] = {"weight": padded_rows(words, padded, rank, tp)}
    return model


def star_layer(tensors: dict[str, Tensor], config: Any, layer: int, dialect: str, rank: int, tp: int) -> dict[str, Tensor]:
    """One layer's tensors of one rank."""
    def hf(name: str) -> Tensor:
        return tensors[f"transformer.h.{layer}.{name}"]

    core = dialect == "core"
    attention, dense = ("self_attention", "linear_proj") if core else ("self_attention", "dense")
    up, down = ("linear_fc1", "linear_fc2") if core else ("dense_h_to_4h", "dense_4h_to_h")
    found = {f"{attention}.{dense}.weight": columns(hf("attn.c_proj.weight"), rank, tp),
             f"{attention}.{dense}.bias": hf("attn.c_proj.bias"),
             f"mlp.{up}.weight": rows(hf("mlp.c_fc.weight"), rank, tp), f"mlp.{up}.bias": rows(hf("mlp.c_fc.bias"), rank, tp),
             f"mlp.{down}.weight": columns(hf("mlp.c_proj.weight"), rank, tp), f"mlp.{down}.bias": hf("mlp.c_proj.bias")}
    for part in ("weight", "bias"):
        norms = ("self_attention.linear_qkv.layer_norm_", "mlp.linear_fc1.layer_norm_") if core else (
            "input_layernorm.", "post_attention_layernorm.")
        found[f"{norms[0]}{part}"], found[f"{norms[1]}{part}"] = hf(f"ln_1.{part}"), hf(f"ln_2.{part}")
        fused = hf(f"attn.c_attn.{part}")
        if dialect == "bigcode":
            queries = config.n_embd
            found[f"{attention}.query.{part}"] = rows(fused[:queries], rank, tp)
            found[f"{attention}.key_value.{part}"] = fused[queries:].clone()
        else:
            found[f"{attention}.{'linear_qkv' if core else 'query_key_value'}.{part}"] = rows(fused, rank, tp)
    return found


def llama_layer(tensors: dict[str, Tensor], config: Any, layer: int, dialect: str, rank: int, tp: int) -> dict[str, Tensor]:
    """One layer's tensors of one rank."""
    def hf(name: str) -> Tensor:
        return tensors[f"model.layers.{layer}.{name}.weight"]

    heads, groups, width = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    q, k, v = (hf(f"self_attn.{part}_proj").reshape(-1, width, config.hidden_size) for part in "qkv")
    if dialect == "megatron-llm":
        q, k = (torch.stack([part[:, :width // 2], part[:, width // 2:]], dim=2).flatten(1, 2) for part in (q, k))
    fused = []
    for group in range(groups):
        fused += [*q[group * heads // groups:(group + 1) * heads // groups], k[group], v[group]]
    gate, up = (rows(hf(f"mlp.{part}_proj"), rank, tp) for part in ("gate", "up"))
    core = dialect == "core"
    attention = "attention" if dialect == "megatron-llm" else "self_attention"
    names = ("linear_qkv", "linear_proj", "linear_fc1", "linear_fc2") if core else (
        "query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h")
    norms = ("input_layernorm", "pre_mlp_layernorm") if core else ("input_layernorm", "post_attention_layernorm")
    return {f"{norms[0]}.weight": hf("input_layernorm"), f"{norms[1]}.weight": hf("post_attention_layernorm"),
            f"{attention}.{names[0]}.weight": rows(torch.cat(fused), rank, tp),
            f"{attention}.{names[1]}.weight": columns(hf("self_attn.o_proj"), rank, tp),
            f"mlp.{names[2]}.weight": torch.cat([up, gate] if dialect == "megatron-llm" else [gate, up]),
            f"mlp.{names[3]}.weight": columns(hf("mlp.down_proj"), rank, tp)}
