"""The second linear of the local layer spec's MLP, such that the MLP can be recomputed."""

from __future__ import annotations

from megatron.core.tensor_parallel import RowParallelLinear
from torch import Tensor


class SecondLinear(RowParallelLinear):
    """RowParallelLinear that returns a view of its bias (which is added after it) in place of the parameter itself.

    Recomputed (memory.modules "mlp"), the MLP is one autograd function; a parameter that such a function returns is
    taken for its result, and the backward pass would call itself without end.
    """

    def forward(self, input_: Tensor) -> tuple[Tensor, Tensor | None]:
        """[T, 1, ffn of this tp rank] -> [T, 1, H] without bias, and the bias [H] or None."""
        output, bias = super().forward(input_)
        return output, None if bias is None else bias.view_as(bias)
