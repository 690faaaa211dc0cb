"""How fast and how large is preprocessing? The whole command, start-up included, against two others on the same rows.

    python benchmarks/preprocess.py --input FILE.jsonl --tokenizer DIR [--tokenizer DIR] --work DIR [--megabytes 90]

FILE (prompt and completion) is repeated to the given size. Compared with (a) `tokenizers`' encode_batch_fast on the same
texts and nothing else, and (b) benchmarks/plain_preprocessor.py, whose files must equal ours byte for byte. Peak memory is
measured again on words that never come twice: repeated rows are kind to an encoder that remembers words.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tokenizers

from megatron_ft import cli, log
from megatron_ft.data import kinds, tokenizer
from megatron_ft.data.input_files import Part, TextFile
from megatron_ft.data.rows import rows_of
from megatron_ft.data.templates import get
from megatron_ft.data.tokenizer_sentencepiece import write_hugging_face

SPEED_TARGETS = {"byte-level": 5.0, "SentencePiece": 3.0}
PEAK_TARGET_BYTES = 1 << 30
INVENTED_BYTES, INVENTED_ROW_BYTES = 200_000_000, 2000
ENCODED_ALONE_BYTES = 30 << 20  # of text: its rate does not change with the size


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", required=True, type=Path, help="JSONL with prompt and completion in every row")
    parser.add_argument("--tokenizer", required=True, type=Path, action="append", help="folder of a tokenizer; several times")
    parser.add_argument("--work", required=True, type=Path, help="folder for everything that is made; must not exist")
    parser.add_argument("--megabytes", type=int, default=90, help="size that the input is repeated to (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2)
    return parser.parse_args()


def repeat(source: Path, target: Path, size: int) -> Path:
    """The file again and again, at least `size` bytes."""
    once = source.read_bytes()
    with open(target, "wb") as stream:
        for _ in range(-(-size // len(once))):
            stream.write(once)
    return target


def invent(target: Path, size: int) -> Path:
    """Rows of random words, about `size` bytes."""
    random = np.random.default_rng(1)
    with open(target, "w", encoding="ascii") as stream:
        for _ in range(size // INVENTED_ROW_BYTES):
            letters = random.integers(97, 123, size=INVENTED_ROW_BYTES, dtype=np.uint8)
            letters[random.random(len(letters)) < 0.15] = ord(" ")
            text = letters.tobytes().decode()
            stream.write(json.dumps({"prompt": text[:500], "completion": text[500:]}) + "\n")
    return target


def measured(work: Path, stage: str, *command: object) -> tuple[float, int]:
    """Seconds and peak bytes (of all its processes) of a command of ours."""
    record = work / "stages.jsonl"
    subprocess.run([sys.executable, "examples/measured.py", "--record", record, "--stage", stage, "--", sys.executable,
                    *map(str, command)], check=True, stdout=sys.stderr)
    noted = json.loads(record.read_text(encoding="utf-8").splitlines()[-1])
    return noted["seconds"], noted["peak_bytes"]


def encode_alone(source: Path, folder: Path) -> float:
    """Megabytes of text a second of `tokenizers` on all cores."""
    template, texts, size = get("octocoder"), [], 0
    for chunk in Part(TextFile(source)).chunks():
        for row in rows_of(chunk):
            segments = template.segments(kinds.to_example(row.value, kind=None, source=row.source))
            texts += [segment.text for segment in segments]
        size = sum(len(text.encode()) for text in texts)
        if size > ENCODED_ALONE_BYTES:
            break
    with tempfile.TemporaryDirectory() as made:
        if not (folder / "tokenizer.json").is_file():
            write_hugging_face(folder / "tokenizer.model", made)
            folder = Path(made)
        whole = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    whole.encode_batch_fast(texts[:100], add_special_tokens=False)
    started = time.perf_counter()
    whole.encode_batch_fast(texts, add_special_tokens=False)
    return size / (time.perf_counter() - started) / 1e6


def compare(source: Path, invented: Path, folder: Path, work: Path, workers: int) -> list[dict[str, object]]:
    """The figures for one tokenizer."""
    name = folder.resolve().name
    kind = "SentencePiece" if tokenizer.load(folder).library == "sentencepiece" else "byte-level"
    megabytes = source.stat().st_size / 1e6
    ours, plain = work / f"{name}-ours", work / f"{name}-plain"
    seconds, peak = measured(work, f"{name} ours", "preprocess/tokenize_sft.py", "--input", source, "--output", ours,
                             "--tokenizer", folder, "--workers", workers)
    plain_seconds, plain_peak = measured(work, f"{name} plain", "benchmarks/plain_preprocessor.py", source, plain,
                                         "--tokenizer", folder, "--workers", workers)
    is_same = all(ours.with_name(ours.name + suffix).read_bytes() == plain.with_name(plain.name + suffix).read_bytes()
                  for suffix in (".bin", ".idx"))
    alone = encode_alone(source, folder)
    _, invented_peak = measured(work, f"{name} invented", "preprocess/tokenize_sft.py", "--input", invented, "--output",
                                work / f"{name}-invented", "--tokenizer", folder, "--workers", workers)
    log.table(f"{name}: {megabytes:.0f} MB of JSONL, {workers} processes", ["", "seconds", "MB/s", "peak MiB"], [
        ["megatron_ft, the whole command", seconds, megabytes / seconds, peak / 2**20],
        ["(b) imap of workers, the whole command", plain_seconds, megabytes / plain_seconds, plain_peak / 2**20],
        ["(a) tokenizers, encoding alone, all cores", "", alone, ""]])
    return [
        figure(f"{name}: speed against (b)", plain_seconds / seconds, "ratio", SPEED_TARGETS[kind],
               plain_seconds / seconds >= SPEED_TARGETS[kind]),
        figure(f"{name}: speed against (a)", megabytes / seconds / alone, "ratio", None, None),
        figure(f"{name}: peak memory", peak, "bytes", PEAK_TARGET_BYTES, peak < PEAK_TARGET_BYTES),
        figure(f"{name}: peak memory, words that never come twice", invented_peak, "bytes", PEAK_TARGET_BYTES,
               invented_peak < PEAK_TARGET_BYTES),
        figure(f"{name}: files equal those of (b)", float(is_same), "claim", 1.0, is_same)]


def figure(name: str, value: float, unit: str, target: float | None, holds: bool | None) -> dict[str, object]:
    """One line of the result."""
    return {"benchmark": "preprocess", "figure": name, "value": round(value, 3), "unit": unit, "target": target,
            "holds": holds}


def main() -> int:
    """Measure, print a table per tokenizer, then the figures as JSON lines."""
    given = arguments()
    cli.require_absent(given.work, option="--work").mkdir(parents=True)
    try:
        source = repeat(given.input, given.work / "rows.jsonl", given.megabytes * 1_000_000)
        invented = invent(given.work / "invented.jsonl", INVENTED_BYTES)
        figures = [line for folder in given.tokenizer
                   for line in compare(source, invented, folder, given.work, given.workers)]
    finally:
        shutil.rmtree(given.work)
    for line in figures:
        sys.stdout.write(json.dumps(line) + "\n")
    return cli.EXIT_OK if all(line["holds"] is not False for line in figures) else cli.EXIT_CHECK_FAILED


if __name__ == "__main__":
    cli.main(main)
