"""What a layout costs on a GPU: bytes, FLOPs, seconds; and whether it fits. Torch-free."""

from __future__ import annotations

import dataclasses

from megatron_ft.config import Config
from megatron_ft.errors import ConfigError
from megatron_ft.families.architecture import Architecture
from megatron_ft.training import flops
from megatron_ft.training.activations import Activations, activations
from megatron_ft.training.gpus import GIB, Gpu
from megatron_ft.training.memory_model import StageMemory, memory
from megatron_ft.training.plan import Split, split
from megatron_ft.training.step_time import StepTime, step_time

TIGHT = 0.92
"""Share of a GPU's memory above which a layout is called tight."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """One layout on one machine; made by `estimate`."""

    config: Config
    architecture: Architecture
    gpu: Gpu
    split: Split
    per_micro_batch: Activations
    memory: tuple[StageMemory, ...]
    """By pipeline stage; in a search without those that are like an earlier one."""
    time: StepTime
    pairs_per_token: float
    """Tokens that one attends to on average."""

    @property
    def fullest(self) -> StageMemory:
        """The stage whose GPUs hold most."""
        return max(self.memory, key=lambda stage: stage.total)

    @property
    def fits(self) -> bool:
        """Whether every GPU holds its part."""
        return self.fullest.total <= self.gpu.memory_bytes

    @property
    def tight(self) -> bool:
        """Whether so little is left that a run may fail for what the model does not know."""
        return self.fullest.total > TIGHT * self.gpu.memory_bytes

    @property
    def tokens_per_step(self) -> int:
        """Positions of all rows of a step."""
        return self.split.rows_per_step * self.split.row_tokens

    @property
    def flops_per_step(self) -> int:
        """Model FLOPs of all GPUs in one step, for full rows."""
        pairs = round(self.tokens_per_step * self.pairs_per_token)
        return flops.step(self.architecture, tokens=self.tokens_per_step, pairs=pairs, lora=self.config.lora)

    @property
    def mfu(self) -> float:
        """Share of the GPUs' matrix peak that the step-time model expects."""
        return self.flops_per_step / (self.time.total_s * self.peak_flops)

    @property
    def peak_flops(self) -> float:
        """Of all GPUs together, FLOP/s."""
        return self.split.processes * self.gpu.peak(self.config.model.precision)

    @property
    def tokens_per_s_per_gpu(self) -> float:
        """Row positions per second and GPU, by the step-time model."""
        return self.tokens_per_step / self.time.total_s / self.split.processes

    def require_fit(self) -> None:
        """ConfigError when a GPU would have to hold more than it has."""
        if not self.fits:
            worst = self.fullest
            parts = ", ".join(f"{name} {size / GIB:.1f}" for name, size in worst.parts.items())
            raise ConfigError(f"{self.gpu.name}: stage {worst.stage} needs {worst.total / GIB:.1f} GiB per GPU ({parts}), but "
                              f"a GPU has {self.gpu.memory_bytes / GIB:.1f} GiB")


def estimate(config: Config, architecture: Architecture, gpu: Gpu, *, processes: int, pairs_per_token: float | None = None,
             alike: bool = True) -> Estimate:
    """The layout of the config on `processes` GPUs; ConfigError when it cannot be split, not when it does not fit.

    Args:
        pairs_per_token: see Estimate; None: as if every document filled a row.
        alike: see memory_model.memory.
    """
    of_step = split(config, architecture, processes=processes)
    if pairs_per_token is None:
        pairs_per_token = full_rows(config, architecture)
    kept = activations(config, architecture)
    held = memory(config, architecture, dp=of_step.dp, micro_batches=of_step.micro_batches, per_micro_batch=kept, alike=alike)
    seconds = step_time(config, architecture, gpu, processes=processes, micro_batches=of_step.micro_batches, memory=held,
                        kept=kept, pairs_per_token=pairs_per_token)
    return Estimate(config, architecture, gpu, of_step, kept, held, seconds, pairs_per_token)


def full_rows(config: Config, architecture: Architecture) -> float:
    """Pairs per token where every document fills a row: the most there can be."""
    return documents_of(config.data.row_tokens, architecture)


def documents_of(length: int, architecture: Architecture) -> float:
    """Pairs per token where every document has `length` positions."""
    return flops.pairs_of(length, architecture.window) / length
