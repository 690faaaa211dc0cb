"""Loads a Hugging Face folder into this rank's chunks of the model as it lies: a tensor at a time, no conversion before.

The weight rules say which tensors make up a weight; which part of it is this rank's is what the chunk itself says when it
is saved (megatron-core's sharded state), so that a cut is described in one place.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory

from megatron_ft import families
from megatron_ft.errors import CheckpointError
from megatron_ft.families import rules
from megatron_ft.families.architecture import Architecture
from megatron_ft.runtime import agreement, hf_files
from megatron_ft.runtime.stored_names import stored_key
from megatron_ft.training.model import unwrap


@torch.no_grad()
def load(chunks: Sequence[torch.nn.Module], folder: Path, architecture: Architecture) -> None:
    """Fill every weight of the chunks, in their own dtype; vocabulary padding is zero.

    Each rank reads the tensors of its own layers; memory is that of the largest weight, twice. The folder has been checked
    to hold exactly the architecture's tensors (`base_model.check`). All ranks call it.
    """
    source, table = hf_files.open_weights(folder), families.get(architecture.family).RULES
    agreement.together(lambda: hf_files.check_copies(source, table, architecture, where=str(folder)), kind=CheckpointError,
                       first_only=True)
    weights = {stored_key(weight.megatron): weight for weight in rules.weights(table, architecture)}
    for chunk in map(unwrap, chunks):
        for stored in chunk.sharded_state_dict().values():
            if not isinstance(stored, ShardedTensor | ShardedTensorFactory):
                continue  # an _extra_state, which holds nothing in our precisions
            cuts = stored.build() if isinstance(stored, ShardedTensorFactory) else [stored]
            weight = weights[_key(cuts[0])]
            whole = rules.to_megatron(weight, [source.read(name) for name, _ in weight.hf])
            for cut in cuts:
                _fill(cut, whole)


def _key(cut: ShardedTensor) -> tuple[str, int | None]:
    return cut.key, cut.global_offset[0] if cut.prepend_axis_num else None


def _fill(cut: ShardedTensor, whole: torch.Tensor) -> None:
    """Copy this rank's part of a weight into it; what lies beyond the weight, the vocabulary's padding, becomes zero."""
    corner = cut.global_offset[cut.prepend_axis_num:]
    part = whole[tuple(slice(start, start + size) for start, size in zip(corner, cut.local_shape, strict=True))]
    if part.shape != cut.data.shape:
        cut.data.zero_()
    cut.data[tuple(slice(size) for size in part.shape)] = part.to(cut.data.device)
