"""The plan as a person reads it: every number with its derivation, in tables and equations."""

from __future__ import annotations

from typing import Any

from megatron_ft import log
from megatron_ft.config import Config
from megatron_ft.training import activations, flops
from megatron_ft.training.estimate import Estimate
from megatron_ft.training.gpus import GIB
from megatron_ft.training.plan_facts import Report, overrides, recompute, time_parts
from megatron_ft.training.state_bytes import BYTES, FLOAT, optimizer_bytes_per_weight, stages

SHOWN_STAGES = 8


def show(report: Report) -> None:
    """Print the whole plan to stdout."""
    one = report.estimate
    _say(f"{report.name} on {machine(one)}")
    _say(f"model: {model_line(one)} ({report.model})")
    _say()
    for line in split_lines(report):
        _say(line)
    _say()
    _show_memory(one)
    _show_time(report)


def machine(one: Estimate) -> str:
    """GPUs and nodes."""
    gpu, processes = one.gpu, one.split.processes
    nodes = -(-processes // gpu.per_node)
    return f"{processes} x {gpu.name}" + (f" ({nodes} nodes of {gpu.per_node})" if nodes > 1 else "")


def model_line(one: Estimate) -> str:
    """The model in one line."""
    a = one.architecture
    groups = f"{a.groups} key/value head{'s' * (a.groups > 1)}"
    lora = one.config.lora
    adapters = f", of which {flops.adapter_weights(a, lora):,} are added by LoRA and trained" if lora.rank else ""
    total = a.parameters + (flops.adapter_weights(a, lora) if lora.rank else 0)
    return (f"{a.family}, {a.layers} layers x {a.hidden}, {a.heads} heads, {groups}, {total:,} parameters{adapters}, "
            f"{one.config.model.precision}")


def split_lines(report: Report) -> list[str]:
    """How processes, rows and layers are dealt out, and how long the run is."""
    one, rows = report.estimate, report.rows
    lines = report.plan.lines()[:3] if report.plan else one.split.lines()
    layers = [stage.layers for stage in one.memory]
    if len(layers) > 1:
        pieces = one.config.parallel.virtual_stages
        alike = len(set(layers)) == 1
        dealt = f"{len(layers)} stages x {layers[0]}" if alike else f"{' + '.join(map(str, layers))} on the stages"
        lines.append(f"{one.architecture.layers} layers = {dealt}"
                     + (f", each in {pieces} pieces" if pieces > 1 else ""))
    if rows:
        lines.append(f"{rows.rows_per_epoch:,} rows/epoch = {rows.documents:,} documents packed, {rows.fill:.1%} filled")
    if report.plan and report.plan.rows_per_epoch:
        per_epoch = report.plan.rows_per_epoch
        lines.append(f"{per_epoch / one.split.rows_per_step:.1f} steps/epoch = {per_epoch:,} rows/epoch / "
                     f"{one.split.rows_per_step} rows/step")
    if report.plan:
        lines += [report.plan.lines()[3], report.plan.lines()[4].split(",")[0]]
    else:
        lines.append("unknown number of steps: data.train is not here; give --rows-per-epoch N, or run.steps=N run.epochs=0")
    return lines


def _show_memory(one: Estimate) -> None:
    shown = one.memory if len(one.memory) <= SHOWN_STAGES else _different(one)
    names = list(shown[0].parts)
    rows = [[stage.stage, stage.layers, *[f"{size / GIB:.2f}" for size in stage.parts.values()], f"{stage.total / GIB:.2f}"]
            for stage in shown]
    log.table(f"GiB on each GPU, by pipeline stage (a GPU has {one.gpu.memory_bytes / GIB:.1f})",
              ["stage", "layers", *names, "total"], rows)
    for line in memory_lines(one):
        _say(line)
    _say()


def _different(one: Estimate) -> list[Any]:
    middle = max(one.memory[1:-1], key=lambda stage: stage.total)
    return [one.memory[0], middle, one.memory[-1]]


def memory_lines(one: Estimate) -> list[str]:
    """The derivation of the fullest stage's bytes."""
    stage, config = one.fullest, one.config
    state, precision = stage.state, config.model.precision
    padding = state.buffer_elements - state.trained_elements
    stored = state.buffer_elements if config.parallel.distributed_optimizer else state.trained_elements
    frozen = f" + {state.frozen_elements:,} frozen" if state.frozen_elements else ""
    per_weight = optimizer_bytes_per_weight(config)
    cut = f" (of {state.trained_elements:,} over {one.split.dp} dp)" if config.parallel.distributed_optimizer else ""
    kept = one.per_micro_batch
    pieces = stages(one.architecture, config.parallel)[stage.stage]
    in_flight = activations.in_flight(tuple(piece.layers for piece in pieces), stage=stage.stage, pp=one.split.pp,
                                      micro_batches=one.split.micro_batches)
    tokens = one.split.row_tokens * one.split.rows_per_micro_batch
    ends = stage.activations - round(in_flight * kept.kept_layer)
    source = {kept.layer_temporary: "in a layer's backward pass", kept.head_temporary: "logits and their softmax"}.get(
        stage.temporary, "the optimizer's square roots, beyond the activations that are gone by then")
    memory = config.memory
    which = f"{memory.layers}th layer" if memory.layers > 1 else "layer"
    how = {"none": "nothing recomputed", "full": f"recomputed from every {which}'s input",
           "selective": f"recomputed: {', '.join(memory.modules)}"}[memory.recompute]
    return [
        f"stage {stage.stage}:",
        f"  weights      {state.weights:,} = {BYTES[precision]} bytes x ({stored:,} weights{frozen})",
        f"  gradients    {state.gradients:,} = {FLOAT} bytes x ({state.trained_elements:,} weights + {padding:,} of padding)",
        f"  optimizer    {state.optimizer:,} = {per_weight} bytes x {state.optimizer_elements:,} weights{cut}",
        f"  activations  {stage.activations:,} = {in_flight} layers in flight x {tokens:,} tokens x "
        f"{kept.kept_layer / tokens:,.0f} bytes + {ends:,} at the model's ends; {how}",
        f"               {in_flight} layers in flight = {stage.layers} layers x {in_flight / stage.layers:.2f} micro-batches",
        f"  temporary    {stage.temporary:,} = {source}",
        "  reserve      CUDA context, nccl's buffers, fragmentation: stated, not derived"]


def _show_time(report: Report) -> None:
    one = report.estimate
    for line in flops_lines(report):
        _say(line)
    _say()
    if one.time.traffic:
        rows = [[each.kind, each.link, f"{each.bytes / GIB:.2f}", f"{each.seconds:.3f}", f"{each.exposed_s:.3f}"]
                for each in one.time.traffic]
        log.table("communication of the busiest GPU, per step", ["kind", "link", "GiB sent", "s alone", "s not hidden"], rows)
    total = one.time.total_s
    parts = time_parts(one)
    log.table("seconds of a step, by the step-time model", [*parts, "total"],
              [[*[f"{seconds:.3f}" for seconds in parts.values()], f"{total:.2f}"]])
    for line in time_lines(report):
        _say(line)


def flops_lines(report: Report) -> list[str]:
    """The derivation of a step's FLOPs."""
    one = report.estimate
    a, tokens = one.architecture, one.tokens_per_step
    lora = one.config.lora
    attention = 12 * a.layers * a.query_width * tokens * one.pairs_per_token
    first = f"6 x {flops.matrix_weights(a):,} matrix weights x {tokens:,} tokens"
    if lora.rank:
        first = (f"(4 x {flops.matrix_weights(a):,} frozen + 6 x {flops.adapter_weights(a, lora):,} trained matrix weights) "
                 f"x {tokens:,} tokens")
    return [f"{one.flops_per_step / 1e15:,.1f} PFLOP/step = {first} + {attention / 1e15:,.1f} PFLOP of attention",
            f"{attention / 1e15:,.1f} PFLOP of attention = 12 x {a.layers} layers x {a.query_width} wide x {tokens:,} tokens x "
            f"{one.pairs_per_token:,.1f} tokens that one attends to, {report.documents}"]


def time_lines(report: Report) -> list[str]:
    """Bubble, speed, hours, and whether it fits."""
    one, split, parallel = report.estimate, report.estimate.split, report.estimate.config.parallel
    seconds = one.flops_per_step / (one.peak_flops * report.mfu)
    lines = []
    if split.pp > 1:
        bubble = (split.pp - 1) / (split.micro_batches * parallel.virtual_stages)
        lines.append(f"bubble: {one.time.bubble_s / one.time.total_s:.1%} of the step; beside its computing {bubble:.1%} = "
                     f"({split.pp} pp - 1) / ({split.micro_batches} micro-batches x {parallel.virtual_stages} pieces)")
    lines.append(f"by the model {one.tokens_per_s_per_gpu:,.0f} tokens/s/GPU, {one.mfu:.0%} MFU; it is made to rank layouts")
    peak = one.gpu.peak(one.config.model.precision) / 1e12
    lines.append(f"at {report.mfu:.0%} MFU {seconds:.2f} s/step = {one.flops_per_step / 1e15:,.1f} PFLOP / "
                 f"({split.processes} GPUs x {peak:.0f} TFLOP/s x {report.mfu:.2f})")
    if report.plan:
        lines.append(f"{report.plan.steps * seconds / 3600:.1f} hours = {report.plan.steps} steps x {seconds:.2f} s "
                     f"({report.plan.steps * one.time.total_s / 3600:.1f} by the model); saving and validating come on top")
    else:
        lines.append(f"{seconds * 1000 / 3600:.1f} hours for every 1,000 steps; saving and validating come on top")
    if one.fits:
        lines.append(f"fits: the fullest GPU (stage {one.fullest.stage}) holds {one.fullest.total / GIB:.1f} of "
                     f"{one.gpu.memory_bytes / GIB:.1f} GiB ({one.fullest.total / one.gpu.memory_bytes:.0%})"
                     + (", which is tight: long runs may fail on fragments" if one.tight else ""))
    return lines


def show_search(found: list[Estimate], config: Config, *, top: int, every: bool, name: str) -> None:
    """Print the ranking, best first, and how to take the first one that is not tight.

    Args:
        every: all layouts; otherwise the best of each tp x pp.
    """
    own = next((number for number, one in enumerate(found) if not overrides(one.config, config)), None)
    best: dict[Any, int] = {}
    for number, one in enumerate(found):
        best.setdefault(number if every else (one.split.tp, one.split.pp), number)
    chosen = list(best.values())[:top]
    if own is not None and own not in chosen:
        chosen.append(own)
    what = "the fastest" if every else "the fastest of each tp x pp"
    columns = ["rank", "tp", "pp", "pieces", "dp", "rows", "micro-batches", "sequence parallel", "recompute", "GiB", "s/step",
               "tokens/s/GPU", "MFU", "bubble", ""]
    log.table(f"{name} on {machine(found[0])}: {what} of {len(found):,} layouts that fit, by the step-time model", columns,
              [_row(found[number], number, own) for number in chosen])
    recommended = next((one for one in found if not one.tight), found[0])
    changes = " ".join(overrides(recommended.config, config)) or "the config's own"
    _say(f"the first that is not tight: {changes}")
    if own is None:
        _say("the config's own layout does not fit or cannot be split")


def _row(one: Estimate, number: int, own: int | None) -> list[Any]:
    parallel, split = one.config.parallel, one.split
    marks = ["the config's own"] * (number == own) + ["tight"] * one.tight
    return [number + 1, split.tp, split.pp, parallel.virtual_stages, split.dp, split.rows_per_micro_batch, split.micro_batches,
            "yes" if parallel.sequence_parallel else "no", recompute(one.config), f"{one.fullest.total / GIB:.1f}",
            f"{one.time.total_s:.2f}", f"{one.tokens_per_s_per_gpu:,.0f}", f"{one.mfu:.0%}",
            f"{one.time.bubble_s / one.time.total_s:.0%}", ", ".join(marks)]


def _say(text: str = "") -> None:
    print(text)
