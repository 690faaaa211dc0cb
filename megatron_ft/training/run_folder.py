"""What a run leaves in its folder for people: files of JSON lines, each line one fact. Torch-free."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

from megatron_ft import cli

METRICS, EVENTS, SPIKES = "metrics.jsonl", "events.jsonl", "spikes.jsonl"
NOT_FINITE = "not finite"
CONFIG = "config.toml"
NOW = "now.json"

METRICS_FIELDS = {
    "step": "optimizer steps done, those of before a resume included",
    "time": "when the line was written, seconds since 1970",
    "loss": "mean over the steps since the line before: nats per supervised token, or per answer under "
            "`loss.weighting = \"target\"`; null where no step's loss was finite",
    "lr": "learning rate of the last step",
    "grad_norm": "global norm of the last step's gradients before they are clipped; null where it was not finite",
    "loss_scale": "what the last step's loss was multiplied by; only with `model.precision = \"fp16\"`",
    "skipped_steps": "steps of the whole run so far that were skipped because loss or gradients were not finite",
    "tokens_per_s": "documents' tokens (not padding) per second of the steps, over all ranks; validation and checkpoints are "
                    "not counted, here and below",
    "tokens_per_s_per_gpu": "the same, of one rank",
    "tflops_per_gpu": "model TFLOP/s of one rank: the step's matrix products with attention over the documents' own lengths "
                      "(`training/flops.py`); recomputation and padding are not counted",
    "mfu": "tflops_per_gpu as a share of the GPU's peak; only where that is known (`log.peak_tflops`)",
    "seconds_per_step": "mean over the steps",
    "data_seconds_per_step": "of these, what rank 0 spent on making its batches",
    "supervised_share": "supervised tokens / documents' tokens",
    "padding_share": "positions of the rows that hold no document",
    "memory_bytes": "of the rank that has used most, the most since the process started: allocated by torch on CUDA, resident "
                    "on the CPU",
    "reserved_bytes": "of the rank that has taken most, the most that torch has taken from the GPU; only on CUDA",
    "epoch": "passes over the training documents",
    "rows": "packed rows read",
    "eta_s": "seconds until the last step at the pace of these steps",
    "valid_loss": "validation loss over all tags: their sums divided once; null where it is not finite",
    "valid_supervised_tokens": "supervised tokens in it",
    "valid": "the same of each tag: `{\"TAG\": {\"loss\": ..., \"supervised_tokens\": ...}}`",
}
"""What the fields of a line of metrics.jsonl mean. A line is of training (it has a loss) or of a validation (valid_loss)."""


def metrics_markdown() -> str:
    """The fields as a Markdown table: docs/training.md holds it."""
    rows = [f"| `{name}` | {text} |" for name, text in METRICS_FIELDS.items()]
    return "\n".join(["| field | meaning |", "|---|---|", *rows])


def append(path: Path, line: dict[str, Any]) -> None:
    """Add a line, with the time; numbers that are not finite, which JSON has not, become null."""
    with open(path, "a", encoding="utf-8") as stream:
        stream.write(json.dumps(_finite({**line, "time": round(time.time(), 3)}), allow_nan=False) + "\n")


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a file, oldest first; none where there is no file.

    A line that was being written when the run was killed, or is being written now, is left out.
    """
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            lines.append(line)
    return lines


def keep(path: Path, *, up_to_step: float, validates: bool = False) -> list[dict[str, Any]]:
    """Take lines of later steps out of a file, and what is not a whole line; returns the lines that stay.

    A resumed run does the steps after its checkpoint again, and if it `validates` first, as an interruption came before that,
    also the validation of its checkpoint's step.
    """
    kept = [line for line in read(path) if line["step"] <= up_to_step
            and not (validates and line["step"] == up_to_step and "valid_loss" in line)]
    if path.exists():
        cli.write_text_atomically(path, "".join(json.dumps(line) + "\n" for line in kept))
    return kept


def write_now(folder: Path, line: dict[str, Any]) -> None:
    """Replace what the run says of the moment (`metrics.Metrics.phase`), with the time; a reader sees it whole.

    It is not synced to the disk: after a crash of the machine nobody asks for it.
    """
    partial = folder / f".{NOW}.partial"
    partial.write_text(json.dumps({**line, "time": round(time.time(), 3)}), encoding="utf-8")
    partial.replace(folder / NOW)


def read_now(folder: Path) -> dict[str, Any]:
    """What the run last said of the moment; {} where it has said nothing yet."""
    try:
        line = json.loads((folder / NOW).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return line if isinstance(line, dict) and {"step", "time"} <= line.keys() else {}


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
