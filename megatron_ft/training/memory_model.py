"""Bytes on each GPU of each pipeline stage, by part, and whether they fit. Torch-free."""

from __future__ import annotations

import dataclasses

from megatron_ft.config import Config
from megatron_ft.families.architecture import Architecture
from megatron_ft.training.activations import Activations, activations, in_flight
from megatron_ft.training.gpus import GIB
from megatron_ft.training.state_bytes import FLOAT, StateBytes, stages, state_bytes

CONTEXT_BYTES = int(0.6 * GIB)
"""CUDA context with its loaded kernels, cuBLAS workspaces."""
COMMUNICATOR_BYTES = int(0.3 * GIB)
"""nccl's buffers, for each kind of group that the run has (tp, pp, dp)."""
FRAGMENTATION = 0.05
"""Share of activations and temporaries that the caching allocator loses between blocks."""


@dataclasses.dataclass(frozen=True)
class StageMemory:
    """Of one GPU of a pipeline stage: bytes by part."""

    stage: int
    layers: int
    state: StateBytes
    activations: int
    """Kept by all micro-batches in flight."""
    temporary: int
    """The most that lives beside them for a moment."""
    reserve: int
    """Not counted but stated: context, nccl, fragmentation."""

    @property
    def parts(self) -> dict[str, int]:
        """Name -> bytes, in the order of the report."""
        return {"weights": self.state.weights, "gradients": self.state.gradients, "optimizer": self.state.optimizer,
                "activations": self.activations, "largest temporary": self.temporary, "reserve": self.reserve}

    @property
    def total(self) -> int:
        """All parts together."""
        return sum(self.parts.values())


def memory(config: Config, architecture: Architecture, *, dp: int, micro_batches: int,
           per_micro_batch: Activations | None = None, alike: bool = True) -> tuple[StageMemory, ...]:
    """Every pipeline stage's, of its data-parallel rank that holds most.

    Args:
        per_micro_batch: `activations(config, architecture)`, where it is known already.
        alike: stages that are like an earlier one, and so hold less in flight, are listed too.
    """
    kept = per_micro_batch or activations(config, architecture)
    pp = config.parallel.pp
    groups = sum(size > 1 for size in (config.parallel.tp, pp, dp))
    found = []
    seen = set()
    for stage, pieces in enumerate(stages(architecture, config.parallel)):
        if not alike and pieces in seen:
            continue
        seen.add(pieces)
        state = state_bytes(config, architecture, pieces, dp=dp)
        held = in_flight(tuple(kept.of_piece(piece) for piece in pieces), stage=stage, pp=pp, micro_batches=micro_batches)
        # torch's Adam makes the square roots of all its second moments at once; by then the activations are gone.
        of_optimizer = FLOAT * state.optimizer_elements if config.optim.optimizer != "sgd" else 0
        temporary = max(kept.temporary(pieces), of_optimizer - held)
        reserve = CONTEXT_BYTES + groups * COMMUNICATOR_BYTES + round(FRAGMENTATION * (held + temporary))
        found.append(StageMemory(stage, sum(piece.layers for piece in pieces), state, held, temporary, reserve))
    return tuple(found)
