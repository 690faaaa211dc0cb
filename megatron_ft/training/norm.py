"""Layer norms for the local layer spec: torch's kernels, with the mark that sequence parallelism needs."""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.transformer import TransformerConfig


def _mark(module: torch.nn.Module, config: TransformerConfig) -> None:
    # Under sequence parallelism each tp rank normalizes its part of the row, so the gradients of weight and bias are
    # partial sums; megatron-core adds them up for the parameters that carry this attribute.
    for parameter in module.parameters():
        parameter.sequence_parallel = config.sequence_parallel


class LayerNorm(torch.nn.LayerNorm):
    """torch.nn.LayerNorm with megatron-core's constructor; marks its parameters for sequence parallelism."""

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **_: Any) -> None:
        super().__init__(hidden_size, eps=eps)
        _mark(self, config)


class RMSNorm(torch.nn.RMSNorm):
    """torch.nn.RMSNorm with megatron-core's constructor; marks its parameters for sequence parallelism."""

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **_: Any) -> None:
        super().__init__(hidden_size, eps=eps)
        _mark(self, config)
