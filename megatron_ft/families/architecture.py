"""What a decoder is, in this project's own words: the middle between a Hugging Face config and megatron-core's."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A decoder-only transformer, complete enough to build it; no field has to do with how it is spread over GPUs."""

    family: str
    """Name of the file under families/ that made it."""
    layers: int
    hidden: int
    heads: int
    groups: int
    """Query groups: one key and value head each (heads: multi-head attention; 1: multi-query attention)."""
    head_width: int
    ffn: int
    """Width between the two linears of the MLP (for a gated MLP: of the gate and of the up projection each)."""
    vocabulary: int
    """Rows of the embedding as Hugging Face has it, without Megatron's padding."""
    positions: int
    """Longest document the model was made for, in tokens."""
    norm: Literal["layernorm", "rmsnorm"]
    norm_epsilon: float
    activation: Literal["gelu", "gelu_tanh", "silu"]
    gated: bool
    """The MLP multiplies act(gate) with up (SwiGLU)."""
    linear_bias: bool
    """Every linear of attention and MLP has a bias."""
    qkv_bias: bool
    """The query, key and value projection has a bias (implied by linear_bias)."""
    tied_head: bool
    """The output layer is the word embedding."""
    position_embedding: Literal["learned", "rope"]
    rope: dict[str, Any] = dataclasses.field(default_factory=dict, hash=False)
    """For rope: {"theta": float, "type": "default"|"linear"|"llama3", ...its numbers as Hugging Face names them}."""
    hidden_dropout: float = 0.0
    attention_dropout: float = 0.0
    initializer_range: float = 0.02
    window: int | None = None
    """Tokens that one attends to in every layer, the last of them itself (sliding window attention); None: all before it."""

    @property
    def query_width(self) -> int:
        """heads * head_width: need not equal `hidden`."""
        return self.heads * self.head_width

    @property
    def parameters(self) -> int:
        """Number of weights, without vocabulary padding."""
        norm = self.hidden * (2 if self.norm == "layernorm" else 1)
        qkv_rows = (self.heads + 2 * self.groups) * self.head_width
        fc1_rows = self.ffn * (2 if self.gated else 1)
        layer = 2 * norm + (qkv_rows + self.query_width) * self.hidden + (fc1_rows + self.ffn) * self.hidden
        layer += qkv_rows if self.qkv_bias or self.linear_bias else 0
        layer += (2 * self.hidden + fc1_rows) if self.linear_bias else 0
        tables = self.vocabulary * (1 if self.tied_head else 2)
        tables += self.positions if self.position_embedding == "learned" else 0
        return self.layers * layer + tables * self.hidden + norm
