"""What does a conversion cost? Time against `cp -r` of the same folder, peak memory, and what transformers takes for a copy.

    python benchmarks/convert.py --work DIR [--models starcoderbase-1b starcoderbase-3b starcoderbase-7b] [--no-transformers]

Models of the published shapes with random bf16 weights. Each command is a process of its own, started on a cold cache of its
input (the pages are dropped); its peak is what the kernel says of it. `cp -r` is measured before and after the conversion,
and the faster of the two counts. It leaves its last gigabytes in memory, ours are on the disk when it ends; `cp -r` followed
by sync is measured too. transformers' way is from_pretrained and save_pretrained. Where the disk does not hold three copies
of the model, the copy is measured once, transformers not, and the last comparison is that of the tensors' sums, which both
conversions note, and not of the folders.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from megatron_ft import cli, families, log
from megatron_ft.conversion import hf_manifest
from megatron_ft.families import rules
from megatron_ft.families.architecture import Architecture
from megatron_ft.runtime import checkpoint_files, checkpoint_layout, hf_files, safetensors_stream
from megatron_ft.runtime.stored_tensor import memory, rows_of

TARGET_RATIO = 2.0
"""Wall time of a conversion against `cp -r`, at most."""
TARGET_PEAK_BYTES = 2 * 2**30
SCRIPTS = Path(__file__).parents[1] / "convert"
THROUGH_TRANSFORMERS = """
import sys, torch, transformers
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype="auto")
model.save_pretrained(sys.argv[2], max_shard_size="5GB")
"""


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", required=True, type=Path, help="folder on the disk to measure; must not exist, is removed")
    parser.add_argument("--models", nargs="+", default=["starcoderbase-1b", "starcoderbase-3b", "starcoderbase-7b"])
    parser.add_argument("--no-transformers", action="store_true", help="leave it out: it takes the model's size in memory")
    return parser.parse_args()


def make(folder: Path, architecture: Architecture) -> None:
    """A Hugging Face folder with random bf16 weights, in files of 5 GB."""
    folder.mkdir()
    config = {**families.get(architecture.family).hf_config(architecture), "torch_dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    weights = rules.weights(families.get(architecture.family).RULES, architecture)
    held = hf_files.shards([dict(weight.hf) for weight in weights], 2, hf_files.parse_size("5GB"))
    files = dict(zip(hf_files.file_names(len(held)), held, strict=True))
    random = torch.Generator().manual_seed(1)
    # Sixteen bits drawn at once, the exponent kept below 128: sixty times faster than normal numbers, and finite.
    with log.progress(total=architecture.parameters * 2, unit="B", label="random weights", scale=True) as bar:
        for name, tensors in files.items():
            for place in safetensors_stream.create(folder / name, tensors, torch.bfloat16)[1].values():
                step = rows_of(place.shape, place.dtype)
                for start in range(0, place.shape[0], step):
                    shape = (min(step, place.shape[0] - start), *place.shape[1:])
                    drawn = torch.randint(-2**15, 2**15, shape, dtype=torch.int16, generator=random) & -0x4001
                    place.write(start, drawn.view(torch.bfloat16))
                    bar.update(drawn.nbytes)
    hf_files.write_index(folder, files, torch.bfloat16)


def timed(command: list[str], cold: Path) -> tuple[float, int]:
    """Seconds and peak bytes of a command that must succeed, `cold` not being in the cache when it starts."""
    os.sync()
    for path in cold.rglob("*"):
        if path.is_file():
            with path.open("rb") as stream:
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    log.get().info("%s", " ".join(command)[:160])
    started = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    if status:
        raise SystemExit(f"{' '.join(command)[:200]} ended with status {status}")
    return seconds, usage.ru_maxrss * 1024


def copied(folder: Path, copy: Path) -> float:
    """Seconds of a copy, which is removed."""
    seconds, _ = timed(["cp", "-r", str(folder), str(copy)], folder)
    shutil.rmtree(copy)
    return seconds


def different_sums(megatron: Path, back: Path) -> list[str]:
    """Names of the tensors that have another sum in `back` than when they were read for `megatron`."""
    read = checkpoint_layout.Manifest.read(checkpoint_layout.find(megatron)).source["tensor_crc32"]
    written = hf_manifest.read(back).tensor_crc32
    return [name for name in sorted({*read, *written}) if read.get(name) != written.get(name)]


def different(one: Path, other: Path) -> list[str]:
    """Names of the tensors that are not the same bits in two folders."""
    mine, theirs = hf_files.open_weights(one), hf_files.open_weights(other)
    both = mine.tensors.keys() & theirs.tensors.keys()
    return [name for name in sorted({*mine.tensors, *theirs.tensors})
            if name not in both or not all(_same(mine.tensors[name], theirs.tensors[name]))]


def _same(one: object, other: object) -> Iterator[bool]:
    yield (one.shape, one.dtype) == (other.shape, other.dtype)
    step = rows_of(one.shape, one.dtype)
    for start in range(0, one.shape[0], step):
        stop = min(one.shape[0], start + step)
        yield memory(one.rows(start, stop)) == memory(other.rows(start, stop))


def measure(name: str, work: Path, *, transformers: bool) -> bool:
    """Every figure of one model; whether all targets hold."""
    architecture = families.preset(name)
    hf, megatron, back, copy = (work / part for part in ("hf", "megatron", "back", "copy"))
    make(hf, architecture)
    size = sum(path.stat().st_size for path in hf.iterdir())
    frugal = checkpoint_files.free_bytes(work) < 2.2 * size
    before_s = copied(hf, copy)
    there_s, there_peak = timed([sys.executable, str(SCRIPTS / "hf_to_megatron.py"), "--hf", str(hf),
                                 "--output", str(megatron)], hf)
    copied_s = before_s
    if frugal:
        shutil.rmtree(hf)
    else:
        copied_s = min(before_s, copied(hf, copy))
        synced_s, _ = timed(["sh", "-c", f"cp -r {hf} {copy} && sync"], hf)
        shutil.rmtree(copy)
        if transformers:
            loaded_s, loaded_peak = timed([sys.executable, "-c", THROUGH_TRANSFORMERS, str(hf), str(copy)], hf)
            shutil.rmtree(copy)
    back_s, back_peak = timed([sys.executable, str(SCRIPTS / "megatron_to_hf.py"), "--checkpoint", str(megatron),
                               "--output", str(back)], megatron)
    wrong = different_sums(megatron, back) if frugal else different(hf, back)
    for folder in (hf, megatron, back):
        shutil.rmtree(folder, ignore_errors=True)
    held = [say(name, "weights", architecture.parameters, ""), say(name, "folder", size, "bytes"),
            say(name, "tensors that differ after there and back", len(wrong), "", 0), say(name, "cp -r", copied_s, "s"),
            say(name, "hf -> megatron", there_s, "s"), say(name, "megatron -> hf", back_s, "s"),
            say(name, "hf -> megatron, times cp -r", there_s / copied_s, "", TARGET_RATIO),
            say(name, "megatron -> hf, times cp -r", back_s / copied_s, "", TARGET_RATIO),
            say(name, "hf -> megatron, peak", there_peak, "bytes", TARGET_PEAK_BYTES),
            say(name, "megatron -> hf, peak", back_peak, "bytes", TARGET_PEAK_BYTES)]
    if not frugal:
        say(name, "cp -r and sync", synced_s, "s")
    if transformers and not frugal:
        say(name, "transformers, from_pretrained and save_pretrained", loaded_s, "s")
        say(name, "transformers, peak", loaded_peak, "bytes")
    return all(held)


def say(model: str, figure: str, value: float, unit: str, target: float | None = None) -> bool:
    """Print one figure; whether it holds."""
    holds = target is None or value <= target
    print(json.dumps({"benchmark": "convert", "figure": f"{model}: {figure}", "value": round(value, 3), "unit": unit,
                      "target": target, "holds": holds}), flush=True)
    return holds


def main() -> int:
    """Measure, print, clean up."""
    options = arguments()
    cli.require_absent(options.work, option="--work")
    options.work.mkdir(parents=True)
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        held = [measure(name, options.work, transformers=not options.no_transformers) for name in options.models]
    finally:
        shutil.rmtree(options.work, ignore_errors=True)
    return cli.EXIT_OK if all(held) else cli.EXIT_CHECK_FAILED


if __name__ == "__main__":
    cli.main(main)
