"""What does a save cost training? Seconds that it waits, written at once and in the background, and what a resume checks.

    python benchmarks/checkpoint.py --work DIR [--layers 12] [--hidden 1024] [--ranks 2] [--saves 3]

A random model of 200 million weights in fp32 is trained on random tokens, data-parallel over the ranks, with the distributed
optimizer: 12 bytes a weight. On the CPU the writers and training share the cores, so the steps beside a save take longer;
beside a GPU they have cores of their own.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

from megatron_ft import cli, log
from megatron_ft.config import parse
from megatron_ft.families.architecture import Architecture
from megatron_ft.runtime import checkpoint_layout, device, groups

TARGET_SHARE = 0.25
"""Of the seconds that a save holds training up when it is written at once, a save in the background may take this part."""
VOCABULARY, ROW_TOKENS = 8192, 128


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", required=True, type=Path, help="folder on the disk to measure; must not exist, is removed")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--saves", type=int, default=3, help="of each kind; the median counts")
    return parser.parse_args()


def architecture(layers: int, hidden: int) -> Architecture:
    """A LLaMA of that size."""
    return Architecture(family="llama", layers=layers, hidden=hidden, heads=hidden // 64, groups=hidden // 64, head_width=64,
                        ffn=4 * hidden, vocabulary=VOCABULARY, positions=ROW_TOKENS, norm="rmsnorm", norm_epsilon=1e-5,
                        activation="silu", gated=True, linear_bias=False, qkv_bias=False, tied_head=False,
                        position_embedding="rope", rope={"theta": 1e4, "type": "default"})


def measure(rank: int, port: int, options: argparse.Namespace, answer: Any) -> None:
    """One rank's part; rank 0 puts the figures into `answer`."""
    process = device.Process(rank, options.ranks, rank, options.ranks, "127.0.0.1", port)
    log.setup(rank=rank, level="WARNING")
    config = parse({"run": {"dir": str(options.work), "steps": 1}, "load": {"from": "none"}, "data": {"train": ["none"]},
                    "model": {"precision": "fp32"}, "runtime": {"device": "cpu"}})
    device.prepare(config.runtime, process)
    import torch

    from megatron_ft.training import model, optimizer, resume, step

    made = architecture(options.layers, options.hidden)
    with groups.start(process, "cpu", config.parallel, timeout_minutes=10) as place:
        torch.manual_seed(1)
        chunks = model.build(made, parallel=config.parallel, model=config.model, memory=config.memory, device="cpu")
        with torch.no_grad():
            for parameter in chunks[0].parameters():
                parameter.normal_(std=0.02)
        chunks = optimizer.wrap(chunks, config)
        adam = optimizer.build(chunks, config)
        step.prepare(chunks, adam)
        optimizer.set_learning_rate(adam, 1e-5, 0.0)

        def train() -> float:
            started = time.perf_counter()
            step.train_step(chunks, adam, [random_batch(rank)], weighting="token", place=place)
            return time.perf_counter() - started

        train()
        alone = statistics.median(train() for _ in range(3))
        kinds = {kind: [save(chunks, adam, made, options, kind, number, train) for number in range(options.saves)]
                 for kind in ("at once", "background")}
        root = options.work / "background"
        started = time.perf_counter()
        chosen = resume.choose(checkpoint_layout.to_resume(root)[0])
        checked_s = time.perf_counter() - started
        size = sum(record.bytes for record in checkpoint_layout.Manifest.read(chosen).files.values())
    if rank == 0:
        answer.put((made.parameters, size, alone, kinds, checked_s))


def random_batch(rank: int) -> Any:
    """One row with one document."""
    import torch

    from megatron_ft.data.loader import Batch

    tokens = torch.randint(VOCABULARY, (1, ROW_TOKENS), generator=torch.Generator().manual_seed(rank))
    ones = torch.ones(1, ROW_TOKENS)
    return Batch(tokens=tokens, labels=tokens.roll(-1), loss_mask=ones, weight=ones, max_seqlen=ROW_TOKENS, targets=1,
                 position_ids=torch.arange(ROW_TOKENS)[None], cu_seqlens=torch.tensor([0, ROW_TOKENS], dtype=torch.int32),
                 supervised=ROW_TOKENS, documents=1, rows=((("random", 0),),))


def save(chunks: Any, adam: Any, made: Architecture, options: argparse.Namespace, kind: str, number: int,
         train: Any) -> tuple[float, float, list[float]]:
    """One save, and training until it is published: (seconds it waited for it, seconds until then, the steps' seconds)."""
    from megatron_ft.config import Checkpoint
    from megatron_ft.training.progress import Progress
    from megatron_ft.training.saver import Saver

    root, steps = options.work / kind.replace(" ", "_"), []
    manifest = checkpoint_layout.Manifest(made, VOCABULARY, "float32", iteration=number + 1)
    settings = Checkpoint(keep_last=1, asynchronous=kind == "background")
    with Saver(root, settings, hf_source=root / "none", resumed=number) as saver:
        started = time.perf_counter()
        saver.save(chunks, adam, Progress(step=number + 1, rows=0), manifest=manifest)
        waited = time.perf_counter() - started
        while saver.is_writing:
            steps.append(train())
            before = time.perf_counter()
            saver.poll()
            waited += time.perf_counter() - before
        return waited, time.perf_counter() - started, steps


def main() -> int:
    """Measure, print, clean up."""
    options = arguments()
    cli.require_absent(options.work, option="--work")
    options.work.mkdir(parents=True)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    context, port = multiprocessing.get_context("spawn"), groups.free_port()
    answer = context.Queue()
    ranks = [context.Process(target=measure, args=(rank, port, options, answer)) for rank in range(options.ranks)]
    try:
        for each in ranks:
            each.start()
        parameters, size, alone, kinds, checked_s = answer.get(timeout=3600)
        for each in ranks:
            each.join()
    finally:
        for each in ranks:
            each.kill()
        shutil.rmtree(options.work, ignore_errors=True)
    at_once = statistics.median(waited for waited, _, _ in kinds["at once"])
    background = statistics.median(waited for waited, _, _ in kinds["background"])
    until = statistics.median(total for _, total, _ in kinds["background"])
    beside = [seconds for _, _, steps in kinds["background"] for seconds in steps]
    share = background / at_once
    for figure, value, unit, target in (
            ("weights", parameters, "", None), ("checkpoint", size, "bytes", None), ("step without a save", alone, "s", None),
            ("training waits, written at once", at_once, "s", None),
            ("training waits, written in the background", background, "s", None),
            ("the wait in the background as a share of the wait at once", share, "", TARGET_SHARE),
            ("from the save to its publication", until, "s", None),
            ("step beside a save, as a multiple", statistics.median(beside) / alone, "", None),
            ("check of all files at a resume", checked_s, "s", None)):
        print(json.dumps({"benchmark": "checkpoint", "figure": figure, "value": round(value, 3), "unit": unit, "target": target,
                          "holds": target is None or value <= target}))
    return cli.EXIT_OK if share <= TARGET_SHARE else cli.EXIT_CHECK_FAILED


if __name__ == "__main__":
    cli.main(main)
