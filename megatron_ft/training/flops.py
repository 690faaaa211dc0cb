"""Model FLOPs: what the mathematics of a step takes, one formula for the plan's hours and for a run's MFU. Torch-free.

A multiplication with its addition counts 2. Counted are the matrix products: linears, the output layer over the vocabulary
(its padding is left out), and attention's two products over the pairs of tokens that causal attention looks at in a document
(and in its window).
Left out: norms, activations, softmax, optimizer, row padding, and what is recomputed, so that the utilization is MFU, not HFU.
"""

from __future__ import annotations

from megatron_ft.config import Lora
from megatron_ft.families.architecture import Architecture


def pairs_of(length: int, window: int | None = None) -> int:
    """Pairs (token, token at or before it and in its window) of a document of `length` positions.

    >>> pairs_of(3), pairs_of(8192), pairs_of(8192, window=4096)
    (6, 33558528, 25167872)
    """
    hidden = max(0, length - (window or length))
    return length * (length + 1) // 2 - hidden * (hidden + 1) // 2


def linears(architecture: Architecture) -> dict[str, tuple[int, int]]:
    """(inputs, outputs) of the linears of one layer, by their names in `lora.linears`."""
    qkv_rows = (architecture.heads + 2 * architecture.groups) * architecture.head_width
    fc1_rows = architecture.ffn * (2 if architecture.gated else 1)
    return {"qkv": (architecture.hidden, qkv_rows), "proj": (architecture.query_width, architecture.hidden),
            "fc1": (architecture.hidden, fc1_rows), "fc2": (architecture.ffn, architecture.hidden)}


def matrix_weights(architecture: Architecture) -> int:
    """Weights that every token is multiplied with: all layers' linears and the output layer."""
    layer = sum(inputs * outputs for inputs, outputs in linears(architecture).values())
    return architecture.layers * layer + architecture.hidden * architecture.vocabulary


def adapter_weights(architecture: Architecture, lora: Lora) -> int:
    """Weights of all adapters; 0 without LoRA."""
    sizes = linears(architecture)
    return architecture.layers * sum(lora.rank * sum(sizes[name]) for name in lora.linears)


def forward(architecture: Architecture, *, tokens: int, pairs: int) -> int:
    """FLOPs of one pass over documents of `tokens` positions that hold `pairs` pairs (`pairs_of` each, summed)."""
    return 2 * tokens * matrix_weights(architecture) + 4 * pairs * architecture.layers * architecture.query_width


def step(architecture: Architecture, *, tokens: int, pairs: int, lora: Lora | None = None) -> int:
    """FLOPs of forward and backward, which is twice the forward: one product for the inputs' gradients, one for the weights'.

    Args:
        lora: with adapters the base weights are frozen and have no gradients.
    """
    whole = 3 * forward(architecture, tokens=tokens, pairs=pairs)
    if lora is None or lora.rank == 0:
        return whole
    return whole - 2 * tokens * matrix_weights(architecture) + 6 * tokens * adapter_weights(architecture, lora)
