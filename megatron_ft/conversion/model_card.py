"""The model card of a converted model: what it is, what it was trained on and how, and what the evaluator found."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from megatron_ft.conversion.opening import Opened
from megatron_ft.errors import CheckpointError
from megatron_ft.runtime import checkpoint_layout

FILE = "README.md"
SUMMARY_FILE = "summary.json"
"""Of the evaluator, in its --output."""
_HUB_CACHE = re.compile(r"models--([^/]+)--([^/]+)/snapshots/")


def text(opened: Opened, *, evaluations: Sequence[Path] = ()) -> str:
    """The card as Markdown, with the front matter that the Hugging Face hub reads.

    Args:
        evaluations: folders that the evaluator has written.
    """
    architecture, source = opened.architecture, opened.origin
    base = base_model(source)
    front = ["---", *([f"base_model: {json.dumps(base)}"] if base else []), "library_name: transformers",
             "pipeline_tag: text-generation", "tags:", "- code", "- megatron_ft", "---"]
    origin = (f"Fine-tuned from {base or 'an unnamed model'}, step {opened.iteration}." if "config" in source
              else f"Converted from {base or opened.folder.name}.")
    parts = ["\n".join(front), f"# {architecture.family}, {architecture.parameters:,} parameters", origin,
             _table(["layers", "hidden", "heads", "key/value heads", "positions", "vocabulary"],
                    [[architecture.layers, architecture.hidden, architecture.heads, architecture.groups,
                      architecture.positions, architecture.vocabulary]]),
             *_training(source), *_evaluation(evaluations),
             "## Files\n\n`conversion.json` holds the checkpoint that this was made of, a CRC-32 of every tensor and of every "
             "file but this one. The licence is that of the base model and of the data."]
    return "\n\n".join(parts) + "\n"


def base_model(source: dict[str, Any]) -> str | None:
    """The Hugging Face model that a checkpoint comes from: its name on the hub where its folder tells it, else the folder's."""
    folder = source.get("folder") or source.get("base")
    if folder is None:
        return None
    if "folder" not in source and (Path(folder) / checkpoint_layout.MANIFEST_FILE).is_file():
        return base_model(checkpoint_layout.Manifest.read(folder).source) or Path(folder).name
    hub = _HUB_CACHE.search(f"{folder}/")
    return f"{hub[1]}/{hub[2]}" if hub else Path(folder).name


def _training(source: dict[str, Any]) -> list[str]:
    if "config" not in source:
        return []
    rows = [[each["for"], f"`{each['entry']}`", each["documents"], each.get("template", ""),
             "<br>".join(f"`{file['path']}` (sha256 {file['sha256'][:12]})" for file in each.get("inputs", []))]
            for each in source.get("data", [])]
    return ["## Data", _table(["for", "dataset", "documents", "template", "made from"], rows),
            f"Order of the documents: `{source.get('data_order')}`.",
            "## Training", "<details><summary>the whole config</summary>", f"```toml\n{source['config'].strip()}\n```",
            "</details>"]


def _evaluation(folders: Sequence[Path]) -> list[str]:
    rows = []
    for folder in folders:
        path = folder / SUMMARY_FILE
        try:
            for each in json.loads(path.read_text(encoding="utf-8"))["scores"]:
                scores = ", ".join(f"pass@{k} {value:.1%}" for k, value in each["pass@k"].items())
                rows.append([each.get("benchmark", "HumanEvalPack"), each["language"], each["scenario"], each["problems"],
                             each["samples"], scores])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"--evaluation: {path}: is not what the evaluator writes ({type(error).__name__}: {error}); "
                                  "name its --output") from error
    if not rows:
        return []
    return ["## Evaluation", _table(["benchmark", "language", "scenario", "problems", "samples", "score"], rows)]


def _table(columns: list[str], rows: list[list[Any]]) -> str:
    lines = [columns, ["---"] * len(columns)]
    lines += [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
