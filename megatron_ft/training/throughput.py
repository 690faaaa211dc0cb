"""What a step cost: time, tokens, FLOPs, memory, as figures per second and per GPU."""

from __future__ import annotations

import math
import resource
import sys
from typing import Any

import torch

from megatron_ft.config import Config
from megatron_ft.families.architecture import Architecture
from megatron_ft.runtime.device import Device
from megatron_ft.training import flops
from megatron_ft.training.gpus import peak_flops_of
from megatron_ft.training.plan import Plan
from megatron_ft.training.step import StepResult, Totals


def peak_flops(config: Config, device: Device) -> float | None:
    """Matrix peak of one GPU in FLOP/s: log.peak_tflops, else as the GPU's name says; None where it is unknown."""
    if config.log.peak_tflops:
        return config.log.peak_tflops * 1e12
    return peak_flops_of(torch.cuda.get_device_name(), config.model.precision) if device == "cuda" else None


def peak_memory(device: Device) -> tuple[int, int]:
    """The most bytes so far that this process had (allocated, reserved) on its GPU; on the CPU (resident, 0)."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, 0


def largest_over_ranks(memory: tuple[int, int], device: Device) -> tuple[int, int]:
    """Of each number the largest of any rank; all ranks must call it."""
    found = torch.tensor(memory, dtype=torch.float64, device=torch.cuda.current_device() if device == "cuda" else "cpu")
    torch.distributed.all_reduce(found, op=torch.distributed.ReduceOp.MAX)
    allocated, reserved = found.tolist()
    return round(allocated), round(reserved)


class Interval:
    """Sums over the steps between two log lines."""

    def __init__(self) -> None:
        self._totals: list[Totals] = []
        self._grad_norm, self._loss_scale = math.nan, 1.0
        self._seconds = self._data_seconds = 0.0

    @property
    def steps(self) -> int:
        """How many."""
        return len(self._totals)

    def add(self, result: StepResult, *, seconds: float, data_seconds: float) -> None:
        """Count a step.

        Args:
            seconds: wall time of the whole step, that of its data included.
        """
        self._totals.append(result.totals)
        self._grad_norm, self._loss_scale = result.grad_norm, result.loss_scale
        self._seconds += seconds
        self._data_seconds += data_seconds

    def figures(self, plan: Plan, config: Config, architecture: Architecture, *, peak: float | None) -> dict[str, Any]:
        """The fields of a line of metrics.jsonl that follow from the steps.

        Args:
            peak: of one GPU in FLOP/s; None leaves `mfu` out.
        """
        whole = Totals.sum(self._totals)
        finite = Totals.sum(totals for totals in self._totals if math.isfinite(totals.loss_sum))
        done = flops.step(architecture, tokens=whole.tokens, pairs=whole.pairs, lora=config.lora)
        per_gpu = done / self._seconds / plan.processes
        found = {"loss": finite.loss if finite.weight else math.nan, "grad_norm": self._grad_norm}
        if config.model.precision == "fp16":
            found["loss_scale"] = self._loss_scale
        found |= {"tokens_per_s": whole.tokens / self._seconds,
                  "tokens_per_s_per_gpu": whole.tokens / self._seconds / plan.processes, "tflops_per_gpu": per_gpu / 1e12}
        if peak:
            found["mfu"] = per_gpu / peak
        return found | {
            "seconds_per_step": self._seconds / self.steps, "data_seconds_per_step": self._data_seconds / self.steps,
            "supervised_share": whole.supervised / max(1, whole.tokens),
            "padding_share": 1 - whole.tokens / (self.steps * plan.rows_per_step * plan.row_tokens)}
