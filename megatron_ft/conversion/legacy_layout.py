"""How Megatron's per-rank folders lay a model out: which rank holds which rows and columns of a weight, under which name.

    nvidia        NVIDIA's Megatron-LM before megatron-core: `query_key_value` by query group, [gate; up] on each rank
    bigcode       BigCode's fork, as StarCoderBase was published: `query` cut by rank, `key_value` [k; v] on every rank
    megatron-llm  epfLLM's fork: rotary positions interleaved in q and k, [up; gate] on each rank
    core          megatron-core's parameters by their own names (`--ckpt-format torch`)

Sources: megatron/model/transformer.py and tools/checkpoint of each; epfLLM's weights_conversion/hf_to_megatron.py. Torch-free.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Literal

from megatron_ft.families.architecture import Architecture

Dialect = Literal["nvidia", "bigcode", "megatron-llm", "core"]
DIALECTS: tuple[Dialect, ...] = ("nvidia", "bigcode", "megatron-llm", "core")

_WORDS = [(re.compile(pattern), replacement) for pattern, replacement in (
    (r"^module\.", ""), (r"^language_model\.", ""), (r"^(encoder|transformer)\.", "decoder."),
    (r"\.attention\.", ".self_attention."), (r"\binput_norm\.", "input_layernorm."),
    (r"\bpost_attention_(layer)?norm\.", "pre_mlp_layernorm."), (r"\bfinal_norm\.", "final_layernorm."),
    (r"\bquery_key_value\.", "linear_qkv."), (r"\bself_attention\.dense\.", "self_attention.linear_proj."),
    (r"\bdense_h_to_4h\.", "linear_fc1."), (r"\bdense_4h_to_h\.", "linear_fc2."),
    (r"^lm_head(\.weight)?$", "output_layer.weight"),
    (r"\bself_attention\.linear_qkv\.layer_norm_", "input_layernorm."),
    (r"\bmlp\.linear_fc1\.layer_norm_", "pre_mlp_layernorm."),
)]
_WITHOUT_INFORMATION = re.compile(r".*(_extra_state|inv_freq|rotary_(pos_)?emb\..*|masked_bias|attention\.bias)$")
TIED_COPY = "word_embeddings_for_head.weight"
"""Name of the word embeddings' copy on the last stage."""


def canonical(name: str) -> str | None:
    """megatron-core's name (local layer spec) of a stored tensor, layers counted as stored; None for one without information.

    >>> canonical("language_model.encoder.layers.3.mlp.dense_h_to_4h.weight")
    'decoder.layers.3.mlp.linear_fc1.weight'
    >>> canonical("decoder.layers.0.self_attention.linear_qkv.layer_norm_bias")
    'decoder.layers.0.input_layernorm.bias'
    """
    if _WITHOUT_INFORMATION.fullmatch(name):
        return None
    if name.removeprefix("module.") in ("word_embeddings.weight", TIED_COPY):
        return TIED_COPY
    for pattern, replacement in _WORDS:
        name = pattern.sub(replacement, name)
    return name


@dataclasses.dataclass(frozen=True)
class Part:
    """A box of a weight that lies on one rank: some of its rows there, all or some of its columns."""

    tp: int
    name: str
    """Canonical, but for the two halves of BigCode's multi-query attention."""
    stored: int
    """First row there."""
    row: int
    """First row in the whole weight."""
    rows: int
    columns: tuple[int, int] | None = None
    """First column and the one after the last; None: all."""
    interleaved: bool = False
    """Stored rows 0, 1, 2, 3 ... are rows 0, n/2, 1, n/2 + 1 ... of the weight's (a head of q or k, n rows)."""


def parts(name: str, rows: int, columns: int | None, a: Architecture, *, dialect: Dialect, tp: int) -> list[Part]:
    """The boxes that make up a weight, in the order of its rows (then columns).

    Args:
        name: canonical, its layer counted anyhow.
        rows: of the whole weight, vocabulary padding included.
        columns: None for a vector.
    """
    kind = name.rpartition(".")[0].split(".")[-1]
    if kind == "linear_qkv":
        return _attention(name, a, dialect, tp)
    if kind == "linear_fc1" and a.gated:
        return _gated(name, a, dialect, tp)
    if kind in ("linear_fc1", "word_embeddings", "output_layer"):
        each = rows // tp
        return [Part(rank, name, 0, rank * each, each) for rank in range(tp)]
    if kind in ("linear_proj", "linear_fc2") and columns is not None:
        width = columns // tp
        return [Part(rank, name, 0, 0, rows, (rank * width, (rank + 1) * width)) for rank in range(tp)]
    return [Part(0, name, 0, 0, rows)]


def is_copied(name: str, *, dialect: Dialect) -> bool:
    """Whether every tp rank holds the same of a stored tensor: norms, positions, biases behind a sum, BigCode's one k and v."""
    *_, kind, last = name.split(".")
    if kind == "key_value":
        return True
    return not (kind in ("linear_qkv", "linear_fc1", "word_embeddings", "output_layer", "query")
                or (kind in ("linear_proj", "linear_fc2") and last == "weight"))


def _attention(name: str, a: Architecture, dialect: Dialect, tp: int) -> list[Part]:
    if dialect == "bigcode" and a.groups == 1:
        each = a.query_width // tp
        halves = {half: name.replace("linear_qkv", half) for half in ("query", "key_value")}
        return [*(Part(rank, halves["query"], 0, rank * each, each) for rank in range(tp)),
                Part(0, halves["key_value"], 0, a.query_width, 2 * a.head_width)]
    each = (a.heads + 2 * a.groups) * a.head_width // tp
    whole = [Part(rank, name, 0, rank * each, each) for rank in range(tp)]
    if dialect != "megatron-llm":
        return whole
    per_group = a.heads // a.groups + 2  # the last of a group is its value head, which no rotation touches
    return [Part(head * a.head_width // each, name, head * a.head_width % each, head * a.head_width, a.head_width,
                 interleaved=head % per_group != per_group - 1) for head in range(a.groups * per_group)]


def _gated(name: str, a: Architecture, dialect: Dialect, tp: int) -> list[Part]:
    each = a.ffn // tp
    gate, up = (each, 0) if dialect == "megatron-llm" else (0, each)
    return [*(Part(rank, name, gate, rank * each, each) for rank in range(tp)),
            *(Part(rank, name, up, a.ffn + rank * each, each) for rank in range(tp))]


def stored_name(name: str, dialect: Dialect, *, gated: bool) -> list[str]:
    """Where a fork keeps a tensor of `model["language_model"]`: keys of nested dictionaries, the tensor's own last.

    >>> stored_name("decoder.layers.3.mlp.linear_fc1.weight", "nvidia", gated=False)
    ['encoder', 'layers.3.mlp.dense_h_to_4h.weight']
    """
    if name == "output_layer.weight":
        return ["lm_head"] if dialect == "megatron-llm" else ["output_layer", "weight"]
    if name.startswith("embedding."):
        _, table, part = name.split(".")
        return ["embedding", f"{table}.{part}"] if dialect == "megatron-llm" else ["embedding", table, part]
    rest = name.removeprefix("decoder.")
    for core, fork in (("linear_qkv", "query_key_value"), ("linear_proj", "dense"), ("linear_fc1", "dense_h_to_4h"),
                       ("linear_fc2", "dense_4h_to_h"), ("pre_mlp_layernorm", "post_attention_layernorm")):
        rest = rest.replace(f".{core}.", f".{fork}.")
    if dialect == "nvidia" and gated:  # the versions that know SwiGLU and RMSNorm have these names
        rest = rest.replace("_layernorm.", "_norm.")
    if dialect == "megatron-llm":
        return ["transformer", rest.replace(".self_attention.", ".attention.")]
    return ["encoder", rest]
