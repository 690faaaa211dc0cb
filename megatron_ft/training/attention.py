"""Causal attention over packed rows for the local layer spec (megatron-core's own refuses packed rows).

T tokens in a row, H query heads and K key/value heads of this tp rank, E head width
"""

from __future__ import annotations

import contextlib
import math
from typing import Any

import torch
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel.random import get_cuda_rng_tracker
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


class PackedAttention(MegatronModule):
    """The `core_attention` of a layer: each document of a row attends to its own past only."""

    def __init__(self, config: TransformerConfig, layer_number: int, attn_mask_type: Any, attention_type: str,
                 attention_dropout: float | None = None, softmax_scale: float | None = None,
                 cp_comm_type: str | None = None, pg_collection: ProcessGroupCollection | None = None) -> None:
        super().__init__(config=config)
        self.dropout = config.attention_dropout if attention_dropout is None else attention_dropout
        self.scale = softmax_scale or 1.0 / math.sqrt(config.kv_channels)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
                attn_mask_type: Any = None, attention_bias: Tensor | None = None,
                packed_seq_params: PackedSeqParams | None = None) -> Tensor:
        """query [T, H, E], key and value [T, K, E] -> [T, H*E]."""
        assert packed_seq_params is not None and packed_seq_params.qkv_format == "thd"
        assert attention_mask is None and attention_bias is None
        dropout = self.dropout if self.training else 0.0
        if can_use_flash(query, dropout):
            return _flash(query, key, value, packed_seq_params, self.scale)
        # Heads differ between tp ranks, so their dropout must too; under sequence parallelism the block forked already.
        forked = dropout > 0.0 and not self.config.sequence_parallel
        with get_cuda_rng_tracker().fork() if forked else contextlib.nullcontext():
            return attend(query, key, value, packed_seq_params.cu_seqlens_q, scale=self.scale, dropout=dropout)


def attend(q_THE: Tensor, k_TKE: Tensor, v_TKE: Tensor, cu_seqlens: Tensor, *, scale: float,
           dropout: float = 0.0) -> Tensor:
    """Causal attention that never crosses from one document into the next, one document after the other.

    Args:
        cu_seqlens: int32 [documents + 1]; document i is tokens cu_seqlens[i]:cu_seqlens[i+1].
        dropout: share of attention probabilities set to zero.
    Returns:
        [T, H*E].
    """
    repeats = q_THE.shape[1] // k_TKE.shape[1]
    k_THE = k_TKE.repeat_interleave(repeats, dim=1) if repeats > 1 else k_TKE
    v_THE = v_TKE.repeat_interleave(repeats, dim=1) if repeats > 1 else v_TKE
    lengths = cu_seqlens.diff().tolist()
    # With a batch dimension (of one): without it torch takes no flash kernel and keeps the scores of every pair of tokens.
    documents = [
        scaled_dot_product_attention(q_nHE.transpose(0, 1)[None], k_nHE.transpose(0, 1)[None], v_nHE.transpose(0, 1)[None],
                                     dropout_p=dropout, is_causal=True, scale=scale)[0].transpose(0, 1)
        for q_nHE, k_nHE, v_nHE in zip(q_THE.split(lengths), k_THE.split(lengths), v_THE.split(lengths), strict=True)
        if len(q_nHE)]
    return torch.cat(documents).flatten(1)


def can_use_flash(query: Tensor, dropout: float) -> bool:
    """Whether torch's variable-length flash kernel takes this: CUDA, half precision, no dropout."""
    return query.is_cuda and query.dtype in (torch.bfloat16, torch.float16) and dropout == 0.0 and flash_available()


def flash_available() -> bool:
    """Whether this torch has torch.nn.attention.varlen (2.10 and later)."""
    try:
        from torch.nn.attention import varlen  # noqa: F401
    except ImportError:
        return False
    return True


def _flash(q_THE: Tensor, k_TKE: Tensor, v_TKE: Tensor, packed: PackedSeqParams, scale: float) -> Tensor:
    import inspect

    from torch.nn.attention.varlen import varlen_attn

    repeats = q_THE.shape[1] // k_TKE.shape[1]
    options: dict[str, Any] = {}
    parameters = inspect.signature(varlen_attn).parameters
    if repeats > 1 and "enable_gqa" in parameters:
        options["enable_gqa"] = True
    elif repeats > 1:
        k_TKE, v_TKE = k_TKE.repeat_interleave(repeats, dim=1), v_TKE.repeat_interleave(repeats, dim=1)
    if "window_size" in parameters:
        options["window_size"] = (-1, 0)
    else:
        options["is_causal"] = True
    cu_seqlens, longest = packed.cu_seqlens_q, packed.max_seqlen_q
    return varlen_attn(q_THE, k_TKE, v_TKE, cu_seqlens, cu_seqlens, longest, longest, scale=scale, **options).flatten(1)
