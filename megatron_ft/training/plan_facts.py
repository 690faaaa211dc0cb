"""A layout in few words: what to write to get it, and the plan as facts for a program. Torch-free."""

from __future__ import annotations

import dataclasses
from typing import Any

from megatron_ft.config import Config
from megatron_ft.training.estimate import Estimate
from megatron_ft.training.gpus import GIB
from megatron_ft.training.plan import Plan
from megatron_ft.training.run_data import Rows


@dataclasses.dataclass(frozen=True)
class Report:
    """What is known of a run, for `show` and `facts`."""

    name: str
    """Of the config file."""
    model: str
    """Where the model is from, in words."""
    estimate: Estimate
    plan: Plan | None
    """None where the number of steps is not known."""
    rows: Rows | None
    """None where the data are not here."""
    documents: str
    """What is assumed of their lengths, in words."""
    mfu: float
    """Share of the peak that the hours are given for."""


def recompute(config: Config) -> str:
    """What is recomputed, in a word or two."""
    memory = config.memory
    return {"none": "none", "full": "full", "selective": "+".join(memory.modules)}[memory.recompute]


def overrides(one: Config, other: Config) -> list[str]:
    """What to write behind a command to get from `other` to the layout of `one`."""
    changed = []
    for section, fields in (("parallel", ("tp", "pp", "virtual_stages", "stage_layers", "sequence_parallel")),
                            ("memory", ("recompute",)), ("data", ("rows_per_micro_batch",))):
        for field in fields:
            value, before = getattr(getattr(one, section), field), getattr(getattr(other, section), field)
            if value != before:
                changed.append(f"{section}.{field}={_written(value)}")
    recomputation = one.memory.recompute
    if recomputation == "selective" and (one.memory.modules != other.memory.modules):
        changed.append(f"memory.modules={_written(one.memory.modules)}")
    if recomputation == "full" and one.memory.layers != other.memory.layers:
        changed.append(f"memory.layers={one.memory.layers}")
    return changed


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ",".join(f"'{item}'" if isinstance(item, str) else str(item) for item in value) + "]"
    return str(value)


def listed(found: list[Estimate], config: Config) -> str:
    """Layouts with what to write for each, one a line, to stand behind a sentence that ends in a colon."""
    return "".join(f"\n    {' '.join(overrides(one.config, config)) or 'as it is'} ({one.fullest.total / GIB:.1f} GiB, "
                   f"{one.time.total_s:.2f} s/step)" for one in found)


def time_parts(one: Estimate) -> dict[str, float]:
    """Name -> seconds; they add up to the step."""
    time = one.time
    return {"matrices": time.matrices_s, "attention": time.attention_s, "elementwise": time.elementwise_s,
            "recomputed": time.recompute_s, "communication": sum(each.exposed_s for each in time.traffic),
            "optimizer": time.optimizer_s, "bubble": time.bubble_s}


def facts(report: Report) -> dict[str, Any]:
    """The same as JSON: bytes, seconds, FLOPs."""
    one, plan = report.estimate, report.plan
    return {
        "config": report.name, "gpu": one.gpu.name, "gpus": one.split.processes, "model": dataclasses.asdict(one.architecture),
        "model_from": report.model, "parameters": one.architecture.parameters, **layout_facts(one),
        "steps": plan.steps if plan else None, "rows_per_epoch": plan.rows_per_epoch if plan else None,
        "tokens_per_step": one.tokens_per_step, "flops_per_step": one.flops_per_step, "pairs_per_token": one.pairs_per_token,
        "assumed_of_documents": report.documents,
        "stages": [{"stage": stage.stage, "layers": stage.layers, **{f"{name.replace(' ', '_')}_bytes": size
                    for name, size in stage.parts.items()}, "total_bytes": stage.total} for stage in one.memory],
        "traffic": [dataclasses.asdict(each) for each in one.time.traffic], "step_parts_s": time_parts(one),
        "mfu_stated": report.mfu,
        "hours_at_stated_mfu": plan.steps * one.flops_per_step / (one.peak_flops * report.mfu) / 3600 if plan else None,
        "hours_by_the_model": plan.steps * one.time.total_s / 3600 if plan else None}


def layout_facts(one: Estimate) -> dict[str, Any]:
    """A layout and what it comes to; the row of a search."""
    config, split = one.config, one.split
    return {"tp": split.tp, "pp": split.pp, "dp": split.dp, "virtual_stages": config.parallel.virtual_stages,
            "sequence_parallel": config.parallel.sequence_parallel, "recompute": recompute(config),
            "rows_per_micro_batch": split.rows_per_micro_batch, "micro_batches": split.micro_batches, "fits": one.fits,
            "tight": one.tight, "fullest_gpu_bytes": one.fullest.total, "gpu_bytes": one.gpu.memory_bytes,
            "step_s": one.time.total_s, "mfu": one.mfu, "tokens_per_s_per_gpu": one.tokens_per_s_per_gpu,
            "bubble_s": one.time.bubble_s}
