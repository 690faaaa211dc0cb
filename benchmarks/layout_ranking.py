"""Does the plan rank layouts as they really are? Steps of every kind of layout on 2 and on 4 CPU processes, against the model.

    python benchmarks/layout_ranking.py [--rounds 4] [--ranks 2 --ranks 4]

What the step-time model needs to know of the machine (matrix rate, memory bandwidth, loopback bandwidth, latencies) is
measured first, with as many processes at once. Layouts take turns, and of each the fastest step counts, so that other work on
the machine hits all of them alike. The figure is Spearman's rank correlation between measured and modelled step times.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from megatron_ft import cli, log
from megatron_ft.config import Parallel, Runtime, parse
from megatron_ft.families.architecture import Architecture
from megatron_ft.training.estimate import estimate
from megatron_ft.training.gpus import Gpu
from megatron_ft.training.step_time import LINK_EFFICIENCY, MATRIX_EFFICIENCY, MEMORY_EFFICIENCY

TARGET = 0.8
ROW_TOKENS, ROWS_PER_STEP = 256, 8
MODEL = Architecture(
    family="starcoder", layers=8, hidden=256, heads=8, groups=1, head_width=32, ffn=1024, vocabulary=4096, positions=ROW_TOKENS,
    norm="layernorm", norm_epsilon=1e-5, activation="gelu_tanh", gated=False, linear_bias=True, qkv_bias=True, tied_head=True,
    position_embedding="learned")
LAYOUTS: dict[int, dict[str, dict[str, Any]]] = {
    2: {"tp2": {"parallel": {"tp": 2}}, "tp2 sp": {"parallel": {"tp": 2, "sequence_parallel": True}},
        "tp2, 4 rows": {"parallel": {"tp": 2}, "rows": 4}, "pp2": {"parallel": {"pp": 2}},
        "pp2, 2 pieces": {"parallel": {"pp": 2, "virtual_stages": 2}}, "pp2, 4 rows": {"parallel": {"pp": 2}, "rows": 4},
        "dp2": {}, "dp2, 4 rows": {"rows": 4}, "dp2, recomputed": {"memory": {"recompute": "full"}},
        "pp2, recomputed": {"parallel": {"pp": 2}, "memory": {"recompute": "full"}}},
    4: {"tp4": {"parallel": {"tp": 4}}, "tp2 pp2": {"parallel": {"tp": 2, "pp": 2}},
        "tp2 pp2 sp": {"parallel": {"tp": 2, "pp": 2, "sequence_parallel": True}}, "tp2 dp2": {"parallel": {"tp": 2}},
        "pp4": {"parallel": {"pp": 4}}, "pp4, 2 pieces": {"parallel": {"pp": 4, "virtual_stages": 2}},
        "pp2 dp2": {"parallel": {"pp": 2}}, "pp2 dp2, 2 pieces": {"parallel": {"pp": 2, "virtual_stages": 2}}, "dp4": {},
        "dp4, 2 rows": {"rows": 2}, "dp4, recomputed": {"memory": {"recompute": "full"}}}}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4, help="how often each layout has its turn (default: %(default)s)")
    parser.add_argument("--ranks", type=int, action="append", choices=list(LAYOUTS), help="default: 2 and 4")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def config(layout: dict[str, Any]) -> Any:
    """The run of a layout."""
    return parse({"run": {"dir": "r", "steps": 1}, "load": {"from": "b"}, "parallel": layout.get("parallel", {}),
                  "memory": layout.get("memory", {}), "runtime": {"device": "cpu"},
                  "model": {"precision": "fp32", "hidden_dropout": 0.0, "attention_dropout": 0.0},
                  "data": {"train": ["d"], "row_tokens": ROW_TOKENS, "rows_per_step": ROWS_PER_STEP,
                           "rows_per_micro_batch": layout.get("rows", 1)}})


def measure(ranks: int, rounds: int) -> dict[str, Any]:
    """{"machine": what the model must know, "seconds": {layout: fastest step}} from a run on so many processes."""
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "found.json"
        subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), __file__,
                        "--rounds", str(rounds), "--worker", str(found)], check=True, stdout=sys.stderr,
                       env={**os.environ, "OMP_NUM_THREADS": "1", "TORCH_COMPILE_DISABLE": "1"})
        return json.loads(found.read_text(encoding="utf-8"))


def work(output: Path, rounds: int) -> None:
    """One process of the measurement; rank 0 writes what was found."""
    from megatron_ft.runtime import device

    process = device.process_of(dict(os.environ))
    log.setup(rank=process.rank, level="WARNING")
    device.prepare(Runtime(device="cpu", threads=1), process)
    from megatron.core import parallel_state

    from megatron_ft.runtime import groups

    seconds: dict[str, list[float]] = {name: [] for name in LAYOUTS[process.size]}
    with groups.start(process, "cpu", Parallel(), timeout_minutes=10):
        machine = measure_machine(process.size)
        for number in range(rounds):
            for name, layout in LAYOUTS[process.size].items():
                settings = config(layout)
                parallel_state.destroy_model_parallel()
                with groups.layout(settings.parallel, "cpu") as place:
                    seconds[name] += steps(settings, place, timed=2)
                gc.collect()  # models that stayed would keep groups, whose threads take time from the next one
            if process.rank == 0:
                sys.stderr.write(f"{process.size} processes, round {number + 1} of {rounds}\n")
    if process.rank == 0:
        fastest = {name: min(times) for name, times in seconds.items()}
        output.write_text(json.dumps({"machine": machine, "seconds": fastest}), encoding="utf-8")


def steps(settings: Any, place: Any, *, timed: int) -> list[float]:
    """Seconds of optimizer steps, those of the slowest rank, after one that is not timed."""
    import torch

    from megatron_ft.training import model, optimizer, step

    torch.manual_seed(1)
    chunks = model.build(MODEL, parallel=settings.parallel, model=settings.model, memory=settings.memory, device="cpu")
    with torch.no_grad():
        for chunk in chunks:
            for parameter in chunk.parameters():
                parameter.normal_(std=0.02)
    wrapped = optimizer.wrap(chunks, settings)
    adam = optimizer.build(wrapped, settings)
    step.prepare(wrapped, adam)
    batches = rows(settings, place)
    found = []
    for number in range(timed + 1):
        seconds = slowest(lambda: step.train_step(wrapped, adam, batches, weighting="token", place=place))
        if number:
            found.append(seconds)
    step.release(wrapped)
    return found


def rows(settings: Any, place: Any) -> list[Any]:
    """This rank's micro-batches of random rows, each one document."""
    import torch

    from megatron_ft.data.loader import Batch

    per = settings.data.rows_per_micro_batch
    size = per * ROW_TOKENS
    count = ROWS_PER_STEP // (per * place.dp_size)
    tokens, ones = torch.arange(size)[None] % MODEL.vocabulary, torch.ones(1, size)
    one = Batch(tokens=tokens, labels=tokens, loss_mask=ones, weight=ones, supervised=size, targets=per, documents=per, rows=(),
                position_ids=torch.arange(size)[None] % ROW_TOKENS, max_seqlen=ROW_TOKENS,
                cu_seqlens=torch.arange(0, size + 1, ROW_TOKENS, dtype=torch.int32))
    return [one] * count


def slowest(task: Callable[[], Any]) -> float:
    """Seconds until all ranks have done the task."""
    import torch

    torch.distributed.barrier()
    started = time.perf_counter()
    task()
    took = torch.tensor(time.perf_counter() - started, dtype=torch.float64)
    torch.distributed.all_reduce(took, op=torch.distributed.ReduceOp.MAX)
    return took.item()


def measure_machine(ranks: int) -> dict[str, float]:
    """Rates that each of so many processes has while all are at it; the best of several tries."""
    import torch

    a, b, small = torch.randn(1024, 1024), torch.randn(1024, 1024), torch.randn(16)
    large, tensor = torch.randn(8 << 20), torch.randn(2 << 20)

    def best(task: Callable[[], Any]) -> float:
        return min(slowest(task) for _ in range(8))

    def launch() -> None:
        for _ in range(1000):
            small + small

    reduced = best(lambda: torch.distributed.all_reduce(tensor))
    latency = best(lambda: torch.distributed.all_reduce(small))
    return {"flops": 2 * 1024 ** 3 / best(lambda: a @ b), "memory_bandwidth": 2 * large.nbytes / best(large.clone),
            "node_bandwidth": 2 * (ranks - 1) / ranks * tensor.nbytes / (reduced - latency), "latency_s": latency,
            "launch_s": best(launch) / 1000}


def modelled(ranks: int, machine: dict[str, float]) -> dict[str, float]:
    """Seconds of each layout's step by the plan."""
    cpu = Gpu("cpu", 1 << 40, 0.0, machine["flops"] / MATRIX_EFFICIENCY, machine["memory_bandwidth"] / MEMORY_EFFICIENCY,
              machine["node_bandwidth"] / LINK_EFFICIENCY, machine["node_bandwidth"] / LINK_EFFICIENCY, has_bf16=False,
              node_link="loopback", latency_s=machine["latency_s"], launch_s=machine["launch_s"], overlaps=False)
    return {name: estimate(config(layout), MODEL, cpu, processes=ranks).time.total_s for name, layout in LAYOUTS[ranks].items()}


def main() -> int:
    """Measure, model, compare; 1 where the ranking is not good enough."""
    given = arguments()
    if given.worker:
        work(given.worker, given.rounds)
        return 0
    from scipy.stats import spearmanr

    figures = []
    for ranks in given.ranks or list(LAYOUTS):
        found = measure(ranks, given.rounds)
        expected = modelled(ranks, found["machine"])
        names = sorted(expected, key=lambda name: found["seconds"][name])
        correlation = float(spearmanr([found["seconds"][name] for name in names], [expected[name] for name in names]).statistic)
        with_rank = sorted(expected.values())
        rates = ", ".join(f"{name} {value:.3g}" for name, value in found["machine"].items())
        sys.stderr.write(f"{ranks} processes: {rates}\n")
        for name in names:
            sys.stderr.write(f"  {name:20s} {found['seconds'][name]:7.3f} s  model {expected[name]:7.3f} s, rank "
                             f"{1 + with_rank.index(expected[name])}\n")
        loss = found["seconds"][min(expected, key=expected.get)] / found["seconds"][names[0]] - 1
        figures += [(f"rank correlation, {ranks} processes", correlation, "", TARGET, correlation >= TARGET),
                    (f"the model's first against the fastest, {ranks} processes", loss, "", None, True)]
    for figure, value, unit, target, holds in figures:
        sys.stdout.write(json.dumps({"benchmark": "layout_ranking", "figure": figure, "value": value, "unit": unit,
                                     "target": target, "holds": holds}) + "\n")
    return 0 if all(figure[-1] for figure in figures) else 1


if __name__ == "__main__":
    cli.main(main)
