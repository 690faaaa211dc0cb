"""Which documents a step had when its loss jumped or was no number: spikes.jsonl, which preprocess/inspect_dataset.py shows.

Steps keep the loss of every token on the device (4 bytes a token); nothing is summed or moved unless there is a spike.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from megatron_ft import log
from megatron_ft.data.loader import Batch
from megatron_ft.runtime.groups import Place
from megatron_ft.training import run_folder
from megatron_ft.training.step import StepResult

WINDOW = 50
"""Steps before, whose mean loss a step's is compared with."""
LEAST = 10
"""Of them there must be this many: after a start, and after a resume, which starts with none."""


@dataclasses.dataclass(frozen=True)
class DocumentLoss:
    """How a document of a step fared."""

    prefix: str
    """Its dataset, as the config names it."""
    document: int
    loss: float
    """In the unit of the step's loss: nats per supervised token, or per answer under loss.weighting = "target"."""
    supervised: int
    """Its supervised tokens."""


class Spikes:
    """Compares each step's loss with those before; every rank has one, and all come to the same answer."""

    def __init__(self, run_dir: Path, *, factor: float, place: Place) -> None:
        """Start with no steps before.

        Args:
            factor: a loss above this times the mean before is a spike; 0: none is.
        """
        self._path = run_dir / run_folder.SPIKES
        self._factor, self._place = factor, place
        self._before: collections.deque[float] = collections.deque(maxlen=WINDOW)

    def step(self, number: int, result: StepResult, batches: Sequence[Batch]) -> None:
        """Take note of optimizer step `number`; where it is a spike, or was skipped, write its documents, worst first.

        Args:
            batches: this rank's micro-batches of the step.
        """
        loss, mean = result.totals.loss, self._mean()
        if not result.updated:
            self._write(number, run_folder.NOT_FINITE, loss, mean, result, batches)
        elif self._factor and mean is not None and loss > self._factor * mean:
            self._write(number, "spike", loss, mean, result, batches)
        if math.isfinite(loss):
            self._before.append(loss)

    def _mean(self) -> float | None:
        return math.fsum(self._before) / len(self._before) if len(self._before) >= LEAST else None

    def _write(self, number: int, reason: str, loss: float, mean: float | None, result: StepResult,
               batches: Sequence[Batch]) -> None:
        """All ranks must call it."""
        place = self._place
        speaks = place.last_stage and place.tp_rank == 0  # the losses are the same on all tp ranks
        gathered: list[list[DocumentLoss]] = [[] for _ in range(place.size)]
        torch.distributed.all_gather_object(gathered, document_losses(batches, result.losses) if speaks else [])
        if place.rank != 0:
            return
        worst_first = sorted((document for documents in gathered for document in documents), key=_badness, reverse=True)
        run_folder.append(self._path, {"step": number, "reason": reason, "loss": loss, "mean_before": mean,
                                       "grad_norm": result.grad_norm, "documents": [vars(each) for each in worst_first]})
        why = f"{loss:.4f} is above {self._factor:g} times the mean before ({mean:.4f})" if reason == "spike" else (
            f"{loss:.4f}, gradient norm {result.grad_norm:.4f}: not finite, the step is skipped")
        worst = worst_first[0]
        log.get().warning("step %d: loss %s; its %d documents are in %s, the worst is document %d of %s (%.4f)", number, why,
                          len(worst_first), self._path, worst.document, worst.prefix, worst.loss)


def document_losses(batches: Sequence[Batch], losses: Sequence[Tensor]) -> list[DocumentLoss]:
    """The loss of each document of some micro-batches.

    Args:
        losses: of each micro-batch the loss of every token, [1, T].
    """
    found = []
    for batch, loss in zip(batches, losses, strict=True):
        weighted = (loss.detach().to("cpu", torch.float64) * batch.weight)[0]
        for (prefix, number), begin, end in placed(batch):
            share = float(batch.weight[0, begin:end].sum(dtype=torch.float64))
            found.append(DocumentLoss(prefix, number, float(weighted[begin:end].sum()) / share,
                                      int(batch.loss_mask[0, begin:end].sum())))
    return found


def placed(batch: Batch) -> list[tuple[tuple[str, int], int, int]]:
    """The documents of a micro-batch as (identity, first position, the one after the last)."""
    bounds = batch.cu_seqlens.tolist()
    row_tokens = batch.tokens.shape[1] // len(batch.rows)
    found, segment = [], 0
    for number, row in enumerate(batch.rows):
        for identity in row:
            found.append((identity, bounds[segment], bounds[segment + 1]))
            segment += 1
        if bounds[segment] < (number + 1) * row_tokens:
            segment += 1  # what is left of the row
    return found


def _badness(document: DocumentLoss) -> float:
    return document.loss if math.isfinite(document.loss) else math.inf
