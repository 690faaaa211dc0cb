"""How fast does one GPU train, how much memory does it take against the plan, and is its attention right?

    python benchmarks/train_gpu.py --work DIR [--model starcoderbase-1b ...] [--steps 12]

For each model: random weights of its published shapes in bf16, rows of 8192 tokens packed with documents of the lengths that
instruction data have, one rank, AdamW with fp32 weights; a model that does not fit is cut to as many layers as fit by the plan.
MFU is against the peak of a large matrix product that is measured here first. Without a CUDA device everything runs with small
sizes on the CPU, says so, and proves only that the script works.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from megatron_ft import cli, families
from megatron_ft.training import run_folder

MFU_TARGET, MEMORY_TARGET, ATTENTION_TARGET = 0.45, 0.05, 2e-2
MODELS = ("starcoderbase-1b", "starcoderbase-3b", "starcoderbase-7b")
SMALL = {"n_layer": 2, "n_embd": 64, "n_head": 4, "n_inner": 256, "n_positions": 256, "vocab_size": 512}
WARM_UP = 3
"""Steps that are not timed: kernels are chosen and memory is claimed in them."""
Figure = tuple[str, float, str, float | None, bool]


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", required=True, type=Path, help="folder for everything that is made; must not exist")
    parser.add_argument("--model", action="append", help=f"preset, can be repeated; default: {', '.join(MODELS)}")
    parser.add_argument("--gpu", default="h200-141g", help="the plan's name of this GPU (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=12, help="optimizer steps, the first of which are not timed")
    parser.add_argument("--rows-per-step", type=int, default=4)
    parser.add_argument("--recompute", default="none", choices=["none", "selective", "full"])
    return parser.parse_args()


def matrix_peak(device: str, dtype: torch.dtype) -> float:
    """FLOP/s of a large matrix product, the best of several."""
    size = 8192 if device == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(12):
        started = time.perf_counter()
        for _ in range(4):
            a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, (time.perf_counter() - started) / 4)
    return 2 * size ** 3 / best


def attention_error(device: str) -> float:
    """Largest difference of packed attention from a dense masked softmax in fp32, relative to the largest value."""
    from megatron.core.packed_seq_params import PackedSeqParams

    from megatron_ft.training import attention

    lengths = [700, 1, 333, 1014] if device == "cuda" else [70, 1, 33]
    heads, groups, width = 6, 1, 64
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    q, k, v = (torch.randn(sum(lengths), count, width, device=device, dtype=dtype) for count in (heads, groups, groups))
    cu_seqlens = torch.tensor([0, *lengths], device=device).cumsum(0).int()
    packed = PackedSeqParams(qkv_format="thd", cu_seqlens_q=cu_seqlens, cu_seqlens_kv=cu_seqlens, max_seqlen_q=max(lengths),
                             max_seqlen_kv=max(lengths))
    scale = width ** -0.5
    if attention.can_use_flash(q, 0.0):
        found = attention._flash(q, k, v, packed, scale)
    else:
        found = attention.attend(q, k, v, cu_seqlens, scale=scale)
    place = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)).to(device)
    mask = (place[:, None] == place[None]).tril()
    scores = torch.einsum("the,ske->hts", q.float(), k.float().expand(-1, 1, -1)) * scale
    weights = scores.masked_fill(~mask, float("-inf")).softmax(-1)
    expected = torch.einsum("hts,ske->the", weights, v.float().expand(-1, 1, -1)).flatten(1)
    return ((found.float() - expected).abs().max() / expected.abs().max()).item()


def write_model(folder: Path, hf: dict[str, Any]) -> None:
    """A Hugging Face folder of random bf16 weights, made on the CPU layer by layer."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**hf)
    torch.manual_seed(1)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)


def write_data(prefix: Path, *, vocabulary: int, longest: int, documents: int) -> Path:
    """Documents of log-normal lengths, as instruction data have them (median 240 tokens)."""
    from megatron_ft.data.indexed import with_suffix
    from megatron_ft.data.manifest import Manifest, describe_file
    from megatron_ft.data.writer import Writer

    chance = np.random.RandomState(3)
    writer = Writer(prefix, vocabulary=vocabulary)
    for length in np.clip(chance.lognormal(5.5, 1.0, documents).astype(int), 8, longest):
        writer.add(chance.randint(1, vocabulary, length), np.array([length // 3, length - length // 3]), np.array([0, 1]))
    writer.finish()
    Manifest(recipe={}, template="plain", template_fingerprint="", counts={}, kinds={}, dropped={}, inputs=[], versions={},
             tokenizer={"fingerprint": "random", "vocabulary": vocabulary, "end_of_text": 0},
             bin_file=describe_file(with_suffix(prefix, ".bin")), idx_file=describe_file(with_suffix(prefix, ".idx")),
             ).write(with_suffix(prefix, ".json"))
    return prefix


def config(given: argparse.Namespace, device: str, row_tokens: int, peak: float) -> dict[str, str]:
    """The run's overrides, without model and data."""
    return {"runtime.device": device, "model.precision": "bf16" if device == "cuda" else "fp32",
            "model.hidden_dropout": "0.0", "model.attention_dropout": "0.0", "memory.recompute": given.recompute,
            "data.row_tokens": str(row_tokens), "data.rows_per_step": str(given.rows_per_step),
            "data.long_documents": "truncate", "run.steps": str(given.steps), "validation.every_steps": "0",
            "checkpoint.every_steps": "0", "log.every_steps": "1", "log.tensorboard": "false",
            "log.peak_tflops": str(peak / 1e12), "parallel.distributed_optimizer": "true"}


def planned_bytes(work: Path, overrides: dict[str, str], gpu: str) -> tuple[int, bool]:
    """Bytes that the plan gives one GPU without its reserve, and whether they fit."""
    command = [sys.executable, "-m", "megatron_ft.plan", str(work / "empty.toml"), *pairs(overrides), "--gpus", "1",
               "--gpu", gpu, "--json"]
    ended = subprocess.run(command, capture_output=True, text=True)
    facts = json.loads(ended.stdout)
    [stage] = facts["stages"]
    return stage["total_bytes"] - stage["reserve_bytes"], facts["fits"]


def pairs(overrides: dict[str, str]) -> list[str]:
    """The overrides as arguments."""
    return [f"{name}={value}" for name, value in overrides.items()]


def fitting(work: Path, name: str, overrides: dict[str, str], gpu: str) -> tuple[dict[str, Any], int]:
    """The preset's Hugging Face config with as many layers as fit, and the plan's bytes for it."""
    hf = dict(families.get(families.presets()[name]).PRESETS[name])
    while True:
        folder = work / "config_only"
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps(hf))
        found, fits = planned_bytes(work, {**overrides, "load.from": str(folder), "data.train": str(work / "data")}, gpu)
        if fits:
            return hf, found
        hf["n_layer"] -= 1


def measure(given: argparse.Namespace, name: str, device: str, peak: float) -> list[Figure]:
    """The figures of one model."""
    work = given.work / name
    work.mkdir(parents=True)
    (work / "empty.toml").write_text("")
    row_tokens = 8192 if device == "cuda" else SMALL["n_positions"]
    overrides = config(given, device, row_tokens, peak)
    vocabulary = 49152 if device == "cuda" else SMALL["vocab_size"]
    write_data(work / "data", vocabulary=vocabulary, longest=row_tokens, documents=40 * given.steps * given.rows_per_step)
    if device == "cuda":
        hf, planned = fitting(work, name, overrides, given.gpu)
    else:
        hf, planned = {**families.get("starcoder").PRESETS[name], **SMALL}, 0
    write_model(work / "hf", hf)
    subprocess.run([sys.executable, "-m", "megatron_ft.train", str(work / "empty.toml"), *pairs(overrides),
                    f"load.from={work / 'hf'}", f"data.train={work / 'data'}", f"run.dir={work / 'run'}"], check=True,
                   stdout=sys.stderr)
    lines = [line for line in run_folder.read(work / "run" / run_folder.METRICS) if "loss" in line][WARM_UP:]
    mfu = statistics.median(line["mfu"] for line in lines)
    peak_bytes = lines[-1]["memory_bytes"]
    found: list[Figure] = [
        (f"{name}: layers", hf["n_layer"], "layers", None, True),
        (f"{name}: step", statistics.median(line["seconds_per_step"] for line in lines), "s", None, True),
        (f"{name}: tokens per second", statistics.median(line["tokens_per_s"] for line in lines), "1/s", None, True),
        (f"{name}: TFLOP/s", statistics.median(line["tflops_per_gpu"] for line in lines), "TFLOP/s", None, True),
        (f"{name}: MFU of the measured peak", mfu, "", MFU_TARGET if planned else None, mfu >= MFU_TARGET or not planned),
        (f"{name}: peak memory", peak_bytes, "bytes", None, True)]
    if planned:
        apart = abs(peak_bytes / planned - 1)
        found.append((f"{name}: peak memory against the plan, difference", apart, "", MEMORY_TARGET, apart <= MEMORY_TARGET))
    return found


def main() -> int:
    """Measure everything and print the figures; 1 where one does not hold."""
    given = arguments()
    cli.require_absent(given.work, option="--work")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    peak = matrix_peak(device, torch.bfloat16 if device == "cuda" else torch.float32)
    error = attention_error(device)
    if device == "cpu":
        sys.stderr.write("no CUDA device: small sizes on the CPU, which show that the script works and nothing of a GPU\n")
    measured: list[Figure] = [
        ("matrix peak", peak / 1e12, "TFLOP/s", None, True),
        ("attention against a dense mask, relative", error, "", ATTENTION_TARGET, error < ATTENTION_TARGET)]
    for name in given.model or MODELS:
        measured += measure(given, name, device, peak)
    for figure, value, unit, target, holds in measured:
        sys.stdout.write(json.dumps({"benchmark": "train_gpu", "device": device, "figure": figure, "value": value, "unit": unit,
                                     "target": target, "holds": holds}) + "\n")
    return 0 if all(figure[-1] for figure in measured) else 1


if __name__ == "__main__":
    cli.main(main)
