"""Every layout that a number of GPUs allows, those that fit ranked by the step-time model. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from megatron_ft.config import Config
from megatron_ft.errors import ConfigError
from megatron_ft.families.architecture import Architecture
from megatron_ft.training.estimate import Estimate, estimate
from megatron_ft.training.gpus import Gpu
from megatron_ft.training.plan import check_layout, divisors, split

MOST_GPUS = 4096
ROWS = (1, 2, 4, 8)
PIECES = (1, 2, 3, 4, 5, 6)
RECOMPUTATIONS: tuple[dict[str, Any], ...] = (
    {"recompute": "none"}, {"recompute": "selective", "modules": ("layernorm",)},
    {"recompute": "selective", "modules": ("mlp",)}, {"recompute": "selective", "modules": ("layernorm", "mlp")},
    {"recompute": "full", "layers": 1})
"""What memory.* may be, from the fastest to the smallest; "core_attn" saves nothing with flash kernels."""


def search(config: Config, architecture: Architecture, gpu: Gpu, *, processes: int,
           pairs_per_token: float | None = None) -> list[Estimate]:
    """The layouts of `processes` GPUs that fit, fastest first; model, data and optimizer are the config's.

    Varied are parallel.tp (within a node), pp, virtual_stages, sequence_parallel, data.rows_per_micro_batch and memory.*;
    the config's own layout is among them when it fits.
    """
    found = []
    for variant in variants(config, architecture, gpu, processes=processes):
        candidate = estimate(variant, architecture, gpu, processes=processes, pairs_per_token=pairs_per_token,
                             alike=False)
        if candidate.fits:
            found.append(candidate)
    return sorted(found, key=lambda one: one.time.total_s)


def variants(config: Config, architecture: Architecture, gpu: Gpu, *, processes: int) -> Iterator[Config]:
    """Configs of every layout that can be split, whether it fits or not."""
    if not 1 <= processes <= MOST_GPUS:
        raise ConfigError(f"--gpus: {processes} is not a number from 1 to {MOST_GPUS}")
    own = (config.parallel, config.memory, config.data)
    yielded_own = False
    for tp in divisors(math.gcd(processes, architecture.heads * architecture.ffn)):
        for pp in divisors(processes // tp) if tp <= gpu.per_node else []:
            for variant in _of_sizes(config, architecture, processes=processes, tp=tp, pp=pp):
                yielded_own = yielded_own or (variant.parallel, variant.memory, variant.data) == own
                yield variant
    if not yielded_own and _can_be_split(config, architecture, processes):
        yield config


def _of_sizes(config: Config, architecture: Architecture, *, processes: int, tp: int, pp: int) -> Iterator[Config]:
    dp, rows = processes // (tp * pp), config.data.rows_per_step
    own_stages = config.parallel.stage_layers if (pp, 1) == (config.parallel.pp, config.parallel.virtual_stages) else ()
    plain = config.parallel.model_copy(update={"tp": tp, "pp": pp, "virtual_stages": 1, "sequence_parallel": False,
                                               "stage_layers": own_stages})
    if rows % dp or not _can_be_laid_out(config, architecture, plain, processes):
        return
    for per_micro_batch in (size for size in ROWS if rows // dp % size == 0):
        micro_batches = rows // dp // per_micro_batch
        data = config.data.model_copy(update={"rows_per_micro_batch": per_micro_batch})
        for pieces in PIECES if pp > 1 and micro_batches % pp == 0 else (1,):
            if architecture.layers < pp * pieces:
                continue
            for sequence_parallel in (False, True) if tp > 1 and config.data.row_tokens % tp == 0 else (False,):
                parallel = plain.model_copy(update={"virtual_stages": pieces, "sequence_parallel": sequence_parallel,
                                                    "stage_layers": own_stages if pieces == 1 else ()})
                for recomputation in RECOMPUTATIONS:
                    memory = config.memory.model_copy(update=recomputation)
                    yield config.model_copy(update={"parallel": parallel, "memory": memory, "data": data})


def _can_be_laid_out(config: Config, architecture: Architecture, parallel: Any, processes: int) -> bool:
    try:
        check_layout(architecture, parallel, processes=processes, row_tokens=config.data.row_tokens)
    except ConfigError:
        return False
    return True


def _can_be_split(config: Config, architecture: Architecture, processes: int) -> bool:
    try:
        split(config, architecture, processes=processes)
    except ConfigError:
        return False
    return True


def nearest(found: list[Estimate], config: Config, *, count: int = 3) -> list[Estimate]:
    """Those of `found` that differ least from the config's layout, the nearest first; of equals the fastest."""
    return sorted(found, key=lambda one: (distance(one.config, config), one.time.total_s))[:count]


def distance(one: Config, other: Config) -> float:
    """How much of a layout changes: doublings of sizes, and one for every setting that differs."""
    sizes = [(one.parallel.tp, other.parallel.tp), (one.parallel.pp, other.parallel.pp),
             (one.data.rows_per_micro_batch, other.data.rows_per_micro_batch)]
    settings = [one.parallel.virtual_stages != other.parallel.virtual_stages, one.memory.recompute != other.memory.recompute,
                one.parallel.sequence_parallel != other.parallel.sequence_parallel]
    return sum(abs(math.log2(a / b)) for a, b in sizes) + sum(settings)


def fewest_gpus(config: Config, architecture: Architecture, gpu: Gpu, *, above: int) -> tuple[int, Estimate] | None:
    """The next doubling of `above` GPUs that hold the model and are not tight, with the fastest layout; None where none are."""
    processes = above * 2
    while processes <= MOST_GPUS:
        roomy = [one for one in search(config, architecture, gpu, processes=processes) if not one.tight]
        if roomy:
            return processes, roomy[0]
        processes *= 2
    return None
