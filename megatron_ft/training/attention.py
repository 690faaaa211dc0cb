"""Causal attention over packed rows for the local layer spec (megatron-core's own refuses packed rows).

T tokens in a row, n of a document, q queries of a block, H query heads and K key/value heads of this tp rank, E head width
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
from collections.abc import Iterator
from typing import Any

import torch
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel.random import get_cuda_rng_tracker
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

BLOCK = 1024
"""Most queries that are taken at once where the window hides some of their document."""


class PackedAttention(MegatronModule):
    """The `core_attention` of a layer: each document of a row attends to its own past, in the window if there is one."""

    def __init__(self, config: TransformerConfig, layer_number: int, attn_mask_type: Any, attention_type: str,
                 attention_dropout: float | None = None, softmax_scale: float | None = None,
                 cp_comm_type: str | None = None, pg_collection: ProcessGroupCollection | None = None) -> None:
        super().__init__(config=config)
        self.dropout = config.attention_dropout if attention_dropout is None else attention_dropout
        self.scale = softmax_scale or 1.0 / math.sqrt(config.kv_channels)
        self.window = None if config.window_size is None else config.window_size[0] + 1

    def forward(self, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
                attn_mask_type: Any = None, attention_bias: Tensor | None = None,
                packed_seq_params: PackedSeqParams | None = None) -> Tensor:
        """query [T, H, E], key and value [T, K, E] -> [T, H*E]."""
        assert packed_seq_params is not None and packed_seq_params.qkv_format == "thd"
        assert attention_mask is None and attention_bias is None
        dropout = self.dropout if self.training else 0.0
        window = self.window if self.window is not None and packed_seq_params.max_seqlen_q > self.window else None
        if can_use_flash(query, dropout, window):
            return _flash(query, key, value, packed_seq_params, self.scale, window)
        # Heads differ between tp ranks, so their dropout must too; under sequence parallelism the block forked already.
        forked = dropout > 0.0 and not self.config.sequence_parallel
        with get_cuda_rng_tracker().fork() if forked else contextlib.nullcontext():
            return attend(query, key, value, packed_seq_params.cu_seqlens_q, scale=self.scale, dropout=dropout, window=window)


def attend(q_THE: Tensor, k_TKE: Tensor, v_TKE: Tensor, cu_seqlens: Tensor, *, scale: float,
           dropout: float = 0.0, window: int | None = None) -> Tensor:
    """Causal attention that never crosses from one document into the next, one document after the other.

    Args:
        cu_seqlens: int32 [documents + 1]; document i is tokens cu_seqlens[i]:cu_seqlens[i+1].
        dropout: share of attention probabilities set to zero.
        window: tokens that one attends to, the last of them itself; None: all before it.
    Returns:
        [T, H*E].
    """
    repeats = q_THE.shape[1] // k_TKE.shape[1]
    k_THE = k_TKE.repeat_interleave(repeats, dim=1) if repeats > 1 else k_TKE
    v_THE = v_TKE.repeat_interleave(repeats, dim=1) if repeats > 1 else v_TKE
    lengths = cu_seqlens.diff().tolist()
    pieces: list[Tensor] = []
    for q_nHE, k_nHE, v_nHE in zip(q_THE.split(lengths), k_THE.split(lengths), v_THE.split(lengths), strict=True):
        if window is not None and len(q_nHE) > window:
            pieces += _blocks(q_nHE, k_nHE, v_nHE, window, scale=scale, dropout_p=dropout)
        elif len(q_nHE):
            pieces.append(_sdpa(q_nHE, k_nHE, v_nHE, is_causal=True, scale=scale, dropout_p=dropout))
    return torch.cat(pieces).flatten(1)


def _sdpa(q_qHE: Tensor, k_nHE: Tensor, v_nHE: Tensor, **options: Any) -> Tensor:
    # With a batch dimension (of one): without it torch takes no flash kernel and keeps the scores of every pair of tokens.
    return scaled_dot_product_attention(q_qHE.transpose(0, 1)[None], k_nHE.transpose(0, 1)[None], v_nHE.transpose(0, 1)[None],
                                        **options)[0].transpose(0, 1)


def _blocks(q_nHE: Tensor, k_nHE: Tensor, v_nHE: Tensor, window: int, **options: Any) -> Iterator[Tensor]:
    """Attention of one document, block after block of queries, each against the keys that its window can hold."""
    block = min(window, BLOCK)
    mask = _window_mask(window, block, q_nHE.dtype, q_nHE.device)
    for first, q_qHE in zip(range(0, len(q_nHE), block), q_nHE.split(block), strict=True):
        before, after = min(first, window), first + len(q_qHE)
        yield _sdpa(q_qHE, k_nHE[first - before:after], v_nHE[first - before:after],
                    attn_mask=mask[:len(q_qHE), window - before:window + len(q_qHE)], **options)


@functools.lru_cache(maxsize=1)
def _window_mask(window: int, block: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """What is added to the scores of `block` queries and of the keys from `window` before the first to the last of them.

    All blocks take parts of the same one: each keeps for its backward pass what it took. The first key is in no window; it
    makes the width a multiple of what torch's kernels want, where window and block are.

    >>> _window_mask(3, 2, torch.float32, torch.device("cpu")).exp().tolist()
    [[0.0, 1.0, 1.0, 1.0, 0.0], [0.0, 0.0, 1.0, 1.0, 1.0]]
    """
    query, key = torch.arange(block, device=device)[:, None] + window, torch.arange(window + block, device=device)
    seen = (key <= query) & (key > query - window)
    return torch.zeros(seen.shape, dtype=dtype, device=device).masked_fill_(~seen, float("-inf"))


def can_use_flash(query: Tensor, dropout: float, window: int | None = None) -> bool:
    """Whether torch's variable-length flash kernel takes this: CUDA, half precision, no dropout, a window if it knows them."""
    if not (query.is_cuda and query.dtype in (torch.bfloat16, torch.float16) and dropout == 0.0 and flash_available()):
        return False
    return window is None or "window_size" in _flash_parameters()


def flash_available() -> bool:
    """Whether this torch has torch.nn.attention.varlen (2.10 and later)."""
    try:
        from torch.nn.attention import varlen  # noqa: F401
    except ImportError:
        return False
    return True


def _flash_parameters() -> set[str]:
    from torch.nn.attention.varlen import varlen_attn

    return set(inspect.signature(varlen_attn).parameters)


def _flash(q_THE: Tensor, k_TKE: Tensor, v_TKE: Tensor, packed: PackedSeqParams, scale: float,
           window: int | None = None) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    repeats = q_THE.shape[1] // k_TKE.shape[1]
    options: dict[str, Any] = {}
    parameters = _flash_parameters()
    if repeats > 1 and "enable_gqa" in parameters:
        options["enable_gqa"] = True
    elif repeats > 1:
        k_TKE, v_TKE = k_TKE.repeat_interleave(repeats, dim=1), v_TKE.repeat_interleave(repeats, dim=1)
    if "window_size" in parameters:
        options["window_size"] = (-1 if window is None else window - 1, 0)
    else:
        assert window is None
        options["is_causal"] = True
    cu_seqlens, longest = packed.cu_seqlens_q, packed.max_seqlen_q
    return varlen_attn(q_THE, k_TKE, v_TKE, cu_seqlens, cu_seqlens, longest, longest, scale=scale, **options).flatten(1)
