"""megatron-core's MLP for the local layer spec, such that it can be recomputed."""

from __future__ import annotations

from typing import Any

from megatron.core.transformer.mlp import MLP
from torch import Tensor


class RecomputableMLP(MLP):
    """MLP that returns a view of its second bias (which is added after it) in place of the parameter itself.

    Recomputed (memory.modules "mlp"), the MLP is one autograd function; a parameter that such a function returns is
    taken for its result, and the backward pass would call itself without end.
    """

    def forward(self, *arguments: Any, **named: Any) -> tuple[Tensor, Tensor | None]:
        """As MLP.forward: [T, 1, H] -> [T, 1, H] without bias, and the bias [H] or None."""
        output, bias = super().forward(*arguments, **named)
        return output, None if bias is None else bias.view_as(bias)
