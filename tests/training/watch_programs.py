"""What the worker processes of the watching tests run."""

from __future__ import annotations

from typing import Any

from megatron_ft.config import Parallel
from megatron_ft.runtime.device import Process


def largest(process: Process, *, memory: list[tuple[int, int]]) -> tuple[int, int]:
    """What each rank hears of the memory of all."""
    from megatron_ft.runtime import groups
    from megatron_ft.training.throughput import largest_over_ranks

    with groups.start(process, "cpu", Parallel(), timeout_minutes=2):
        return largest_over_ranks(memory[process.rank], "cpu")


def spiked(process: Process, *, losses: list[float], factor: float, folder: str, overflowed: int = 0) -> list[int]:
    """Steps that are written, of steps with these losses; each rank has a micro-batch of two documents.

    A loss that is no number is rank 1's alone; the step is skipped on all ranks. So is step `overflowed`, for its gradients.
    """
    import math
    from pathlib import Path

    import torch

    from megatron_ft.runtime import groups
    from megatron_ft.training import run_folder
    from megatron_ft.training.spikes import Spikes
    from megatron_ft.training.step import StepResult, Totals
    from tests.training.programs import micro_batches

    batches = micro_batches([[([1, 2, 3], [False, True, True]), ([4, 5], [False, True])]], 8, "token", 1, 0, 1)
    with groups.start(process, "cpu", Parallel(), timeout_minutes=2) as place:
        if place.rank == 0:
            Path(folder).mkdir(exist_ok=True)
        watch = Spikes(Path(folder), factor=factor, place=place)
        for number, loss in enumerate(losses, start=1):
            own = loss if math.isfinite(loss) or place.rank == 1 else 1.0
            updated = math.isfinite(loss) and number != overflowed
            watch.step(number, StepResult(Totals(loss, 1, 3, 3, 3), 1.0, updated, 1.0, (torch.full((1, 8), own),)), batches)
        torch.distributed.barrier()
        return [line["step"] for line in run_folder.read(Path(folder) / run_folder.SPIKES)]


def ended(process: Process, *, config: dict[str, Any]) -> None:
    """Three steps of a run that writes a line every ten, the second one skipped; then the run ends."""
    import math

    from megatron_ft.config import parse
    from megatron_ft.runtime import groups
    from megatron_ft.training import setup
    from megatron_ft.training.metrics import Metrics
    from megatron_ft.training.step import StepResult, Totals

    checked = setup.prepare(parse(config), process)
    with groups.start(process, "cpu", checked.config.parallel, timeout_minutes=2) as place, \
            Metrics(checked.config, checked.plan, checked.architecture, place, first_step=0) as metrics:
        for number, updated in enumerate((True, False, True), start=1):
            result = StepResult(Totals(2.0 * number, 2, 2, 4, 8), 1.0 if updated else math.inf, updated, 1.0)
            metrics.step(number, result, rate=0.1, seconds=1.0, data_seconds=0.25, epoch=0.5, skipped=int(number > 1))
        metrics.end(3, why="told to", exit_code=75)
