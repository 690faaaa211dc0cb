"""One optimizer step and one validation, over megatron-core's pipeline schedules.

T tokens of a micro-batch (its rows laid end to end)
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from megatron.core.distributed import DistributedDataParallel, finalize_model_grads
from megatron.core.optimizer.optimizer import MegatronOptimizer
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.utils import get_model_config
from torch import Tensor

from megatron_ft.data.loader import Batch
from megatron_ft.runtime.groups import Place
from megatron_ft.training.ending import Ending
from megatron_ft.training.model import packed
from megatron_ft.training.optimizer import update, whole_weights


@dataclasses.dataclass(frozen=True)
class Totals:
    """Sums over all micro-batches and data-parallel ranks of a step."""

    loss_sum: float
    weight: int
    """What the loss sum is divided by: supervised tokens, or targets under loss.weighting = "target"."""
    supervised: int
    tokens: int
    """Positions that hold a document's token (row padding not counted)."""
    pairs: int
    """Pairs (token, token of its document at or before it and in its window): what attention's FLOPs go with."""

    @property
    def loss(self) -> float:
        """Mean loss: nats per supervised token, or per target."""
        return self.loss_sum / max(1, self.weight)

    @classmethod
    def sum(cls, all_totals: Iterable[Totals]) -> Totals:
        """The totals of several steps, or of several parts of the validation data."""
        summed = [0.0, 0, 0, 0, 0]
        for totals in all_totals:
            summed = [a + b for a, b in zip(summed, dataclasses.astuple(totals), strict=True)]
        return cls(*summed)


@dataclasses.dataclass(frozen=True)
class StepResult:
    """What an optimizer step gave."""

    totals: Totals
    grad_norm: float
    """Not finite where `updated` is False."""
    updated: bool
    """False when the loss or the gradients were not finite and the step was skipped."""
    loss_scale: float
    """What the loss was multiplied by (fp16); 1 in other precisions."""
    losses: tuple[Tensor, ...] = ()
    """Of each micro-batch the loss of every token, float32 [1, T] on the device; empty where there is no last stage."""


def prepare(chunks: list[DistributedDataParallel], optimizer: MegatronOptimizer) -> None:
    """Tell megatron-core's schedules how to finish gradients; once, before the first step."""
    config = get_model_config(chunks[0])
    config.finalize_model_grads_func = finalize_model_grads
    config.grad_scale_func = optimizer.scale_loss
    no_sync = [chunk.no_sync for chunk in chunks]
    config.no_sync_func = no_sync if len(chunks) > 1 else no_sync[0]


def release(chunks: Sequence[DistributedDataParallel]) -> None:
    """Let a model that was trained be freed with its groups once nobody refers to it; it cannot be trained after that.

    megatron-core's gradient hooks, model and optimizer hold each other through C++, where Python's collector does not see it.
    """
    for chunk in chunks:
        chunk.grad_accs.clear()
        chunk.config.grad_scale_func = None


def train_step(chunks: list[DistributedDataParallel], optimizer: MegatronOptimizer, batches: list[Batch], *, weighting: str,
               place: Place, ending: Ending | None = None) -> StepResult:
    """Forward, backward, reduce, clip, update: over this rank's micro-batches of the step.

    A loss or gradient that is not finite leaves weights and optimizer state as they are, on every rank.

    Args:
        ending: learns from the other ranks whether the run is to end; all ranks give one, or none does.
    """
    for chunk in chunks:
        chunk.train()
        chunk.zero_grad_buffer()
    optimizer.zero_grad()
    losses: list[Tensor] = []
    totals = run(chunks, batches, weighting=weighting, place=place, losses=losses, ending=ending)
    loss_scale = float(optimizer.get_loss_scale())  # before it is adapted to what the gradients turn out to be
    updated, grad_norm = update(optimizer, finite=math.isfinite(totals.loss_sum))
    return StepResult(totals, grad_norm, updated, loss_scale, tuple(losses))


@torch.no_grad()
def validate(chunks: list[DistributedDataParallel], steps: Iterable[list[Batch]], *, weighting: str, place: Place,
             ending: Ending | None = None) -> Totals:
    """The totals over held-out rows, without dropout and without gradients; of fewer rows where the run is to end."""
    for chunk in chunks:
        chunk.eval()
    found = []
    with whole_weights(chunks):
        for batches in steps:
            found.append(run(chunks, batches, weighting=weighting, place=place, forward_only=True, ending=ending))
            if ending is not None and ending.agreed:
                break
    return Totals.sum(found)


def run(chunks: Sequence[torch.nn.Module], batches: list[Batch], *, weighting: str, place: Place,
        forward_only: bool = False, losses: list[Tensor] | None = None, ending: Ending | None = None) -> Totals:
    """All micro-batches of a step through the pipeline; gradients are left in the buffers, already divided.

    Args:
        losses: gets the loss of every token, a tensor [1, T] per micro-batch, on ranks of the last stage.
        ending: what this rank was told goes along in the one message in which the totals are summed.
    """
    collected = get_forward_backward_func()(
        forward_step_func=_forward_step(weighting, losses), data_iterator=[iter(batches) for _ in chunks], model=list(chunks),
        num_microbatches=len(batches), seq_length=batches[0].tokens.shape[1], micro_batch_size=1,
        forward_only=forward_only)
    own: list[float] = [0.0] * len(dataclasses.fields(Totals))
    if place.last_stage and place.tp_rank == 0:  # one rank of each model replica speaks for it
        tokens = sum(_document_tokens(batch) for batch in batches)
        own = [sum(float(loss_sum) for loss_sum in collected),
               sum(_weight(batch, weighting) for batch in batches),
               sum(batch.supervised for batch in batches),
               tokens,
               tokens + sum(_before(batch, get_model_config(chunks[0]).window_size) for batch in batches)]
    told = ending.told() if ending is not None else []
    sums = torch.tensor([*own, *told], dtype=torch.float64,
                        device=torch.cuda.current_device() if place.device == "cuda" else "cpu")
    torch.distributed.all_reduce(sums)
    loss_sum, *counts = sums.tolist()
    if ending is not None:
        ending.hear(counts[-len(told):])
    return Totals(loss_sum, *(round(count) for count in counts[:len(own) - 1]))


def _weight(batch: Batch, weighting: str) -> int:
    return batch.targets if weighting == "target" else batch.supervised


def _document_tokens(batch: Batch) -> int:
    # Positions count from 0 in each document and are 0 in what is left of a row.
    return int((batch.position_ids > 0).sum()) + batch.documents


def _before(batch: Batch, window_size: tuple[int, int] | None) -> int:
    # A token's position is how many are before it; megatron-core's window says how many of them it attends to.
    return int((batch.position_ids if window_size is None else batch.position_ids.clamp(max=window_size[0])).sum())


def _forward_step(weighting: str, losses: list[Tensor] | None) -> Callable[..., Any]:
    """megatron-core's forward_step_func: takes the next micro-batch, gives the output and how to make it a loss."""

    def forward_step(iterator: Iterator[Batch], model: torch.nn.Module) -> tuple[Tensor, Callable[..., Any]]:
        batch = next(iterator).to(next(model.parameters()).device)
        output = model(input_ids=batch.tokens, position_ids=batch.position_ids, attention_mask=None, labels=batch.labels,
                       packed_seq_params=packed(batch.cu_seqlens, batch.max_seqlen))

        def loss(loss_per_token: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            """[1, T] -> the sum over supervised tokens; megatron-core divides once by the number over all ranks."""
            if losses is not None:
                losses.append(loss_per_token.detach())
            loss_sum = (loss_per_token.float() * batch.weight).sum()
            count = torch.tensor(_weight(batch, weighting), dtype=torch.int, device=loss_sum.device)
            return loss_sum, count, loss_sum.detach().clone()

        return output, loss

    return forward_step
