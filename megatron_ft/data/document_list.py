"""Documents that a file names: spikes.jsonl of a training run, whose steps had a loss that jumped or was no number."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from megatron_ft.errors import ConfigError, DataError


@dataclasses.dataclass(frozen=True)
class Named:
    """A document that a file names."""

    prefix: str
    number: int
    loss: float | None
    """None where it is no finite number."""


@dataclasses.dataclass(frozen=True)
class Group:
    """The documents of one line, in its order: the worst first."""

    where: str
    """FILE:LINE."""
    step: int
    title: str
    documents: list[Named]


def read(path: str | Path, *, step: int | None = None) -> list[Group]:
    """The groups of a file of lines {"step", "reason", "loss", "mean_before", "documents": [{"prefix", "document", "loss"}]}.

    A last line without its end, which a run is writing now, is left out.

    Args:
        step: only those of this step; ConfigError if there are none.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--documents-from: {path} cannot be read ({error}); name the spikes.jsonl of a run") from error
    groups = [_group(line, f"{path}:{number}") for number, line in enumerate(lines[:-1], start=1)]
    if step is None:
        return groups
    chosen = [group for group in groups if group.step == step]
    if not chosen:
        known = ", ".join(str(group.step) for group in groups) or "none"
        raise ConfigError(f"--step: {path} has no step {step}; it has {known}")
    return chosen


def _group(line: str, where: str) -> Group:
    try:
        value = json.loads(line)
        documents = [Named(str(each["prefix"]), int(each["document"]), each["loss"]) for each in value["documents"]]
        return Group(where, int(value["step"]), _title(value), documents)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{where}: names no documents ({type(error).__name__}: {error}); name the spikes.jsonl of a run "
                        "by --documents-from") from error


def _title(value: dict[str, Any]) -> str:
    """What a step's line says of it.

    >>> _title({"step": 12, "reason": "spike", "loss": 9.3137, "mean_before": 2.8})
    'step 12: spike, loss 9.3137, mean before 2.8000'
    """
    before = f", mean before {written(value['mean_before'])}" if value.get("mean_before") is not None else ""
    return f"step {value['step']}: {value['reason']}, loss {written(value['loss'])}{before}"


def written(loss: float | None) -> str:
    """A loss with four digits; JSON's null stands for what is no number.

    >>> written(2.5), written(None)
    ('2.5000', 'not finite')
    """
    return "not finite" if loss is None else f"{loss:.4f}"
