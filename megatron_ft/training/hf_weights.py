"""Loads whole weights, from a Hugging Face folder as it lies or from any other source, into this rank's chunks of the model.

The weight rules say which tensors make up a weight; which part of it is this rank's is what the chunk itself says when it
is saved (megatron-core's sharded state), so that a cut is described in one place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory
from torch import Tensor

from megatron_ft import families
from megatron_ft.errors import CheckpointError
from megatron_ft.families import rules
from megatron_ft.families.architecture import Architecture
from megatron_ft.families.rules import Weight
from megatron_ft.runtime import agreement, hf_files
from megatron_ft.runtime.stored_names import stored_key
from megatron_ft.runtime.stored_tensor import rows_of
from megatron_ft.training.model import unwrap

Rows = Callable[[int, int], Tensor]
"""Gives rows start:stop of a whole weight in megatron-core's layout."""


def load(chunks: Sequence[torch.nn.Module], folder: Path, architecture: Architecture) -> None:
    """Fill every weight of the chunks from a Hugging Face folder, as `fill` does.

    Each rank reads the tensors of its own layers; memory is that of the largest weight, twice. The folder has been checked
    to hold exactly the architecture's tensors (`base_model.check`). All ranks call it.
    """
    source, table = hf_files.open_weights(folder), families.get(architecture.family).RULES
    agreement.together(lambda: hf_files.check_copies(source, table, architecture, where=str(folder)), kind=CheckpointError,
                       first_only=True)

    def rows_of_folder(weight: Weight) -> Rows:
        whole = rules.to_megatron(weight, [source.read(name) for name, _ in weight.hf])
        return lambda start, stop: whole[start:stop]

    fill(chunks, architecture, rows_of_folder)


@torch.no_grad()
def fill(chunks: Sequence[torch.nn.Module], architecture: Architecture, opened: Callable[[Weight], Rows]) -> None:
    """Fill every weight of the chunks, in their own dtype; vocabulary padding is zero.

    Args:
        opened: what gives a weight's rows; each rank takes those that it has a part of, some megabytes at a time.
    """
    weights = {stored_key(weight.megatron): weight
               for weight in rules.weights(families.get(architecture.family).RULES, architecture)}
    for chunk in map(unwrap, chunks):
        for stored in chunk.sharded_state_dict().values():
            if not isinstance(stored, ShardedTensor | ShardedTensorFactory):
                continue  # an _extra_state, which holds nothing in our precisions
            cuts = stored.build() if isinstance(stored, ShardedTensorFactory) else [stored]
            weight = weights[_key(cuts[0])]
            rows = opened(weight)
            for cut in cuts:
                _fill(cut, rows, weight.megatron_shape)


def _key(cut: ShardedTensor) -> tuple[str, int | None]:
    return cut.key, cut.global_offset[0] if cut.prepend_axis_num else None


def _fill(cut: ShardedTensor, rows: Rows, whole: tuple[int, ...]) -> None:
    """Copy this rank's part of a weight into it; what lies beyond the weight, the vocabulary's padding, becomes zero.

    Args:
        whole: shape of the weight.
    """
    corner = cut.global_offset[cut.prepend_axis_num:]
    ends = [min(start + size, most) for start, size, most in zip(corner, cut.local_shape, whole, strict=True)]
    columns = tuple(slice(start, end) for start, end in zip(corner[1:], ends[1:], strict=True))
    if any(end - start < size for start, end, size in zip(corner, ends, cut.local_shape, strict=True)):
        cut.data.zero_()
    step = rows_of(whole, torch.float32)
    for start in range(corner[0], ends[0], step):
        piece = rows(start, min(start + step, ends[0]))[(slice(None), *columns)]
        cut.data[start - corner[0]:][:len(piece)] = piece.to(cut.data.device)
