"""Whether a checkpoint and a Hugging Face folder are the same model: files, every bit of the weights, logits; as a report.

    1. files    sizes and sums that were noted when they were written
    2. weights  all of them, bit for bit, in streaming
    3. logits   megatron-core at a TP x PP against transformers; of the first layers only for models that do not fit
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from megatron_ft import cli, log
from megatron_ft.conversion import opening, verify_files, verify_logits, verify_ranks, verify_weights
from megatron_ft.conversion.opening import Hints
from megatron_ft.conversion.verify_files import Files, Pair
from megatron_ft.conversion.verify_logits import Comparison
from megatron_ft.conversion.verify_weights import Weights
from megatron_ft.errors import ConfigError, MegatronFTError
from megatron_ft.families.architecture import Architecture
from megatron_ft.runtime import checkpoint_layout, device
from megatron_ft.runtime.checkpoint_files import readable
from megatron_ft.runtime.device import Process

_TIMEOUT_MINUTES = 600.0  # the weights and the reference of a large model take long, and the other ranks wait for them
_SHOWN = 5  # of the tensors that differ; the JSON has all


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is compared, and how."""

    hf: Path
    checkpoint: Path
    hints: Hints = Hints()
    tolerance: float = 1e-4
    """Largest difference of a logit that counts as equal."""
    tokens: int = 256
    tp: int = 1
    pp: int = 1
    device: str = "cpu"
    """Of megatron-core's side."""
    layers: int | None = None
    """That the logits are computed with, from the first one on; None: all."""
    workers: int | None = None
    """Weights compared at a time; None: one for each core, eight at most."""

    @property
    def ranks(self) -> int:
        """Processes that compute megatron-core's logits."""
        return self.tp * self.pp


@dataclasses.dataclass(frozen=True)
class Report:
    """What was found."""

    settings: Settings
    folder: Path
    """Of the checkpoint's iteration."""
    kind: str
    architecture: Architecture | None
    """Of both; None where files are too damaged to tell."""
    files: Files
    weights: Weights | None
    logits: Comparison | None
    stopped: str = ""
    """Why weights or logits were not compared."""

    @property
    def equal(self) -> bool:
        """The verdict: what could be compared is equal, and nothing was left out."""
        return (not self.files.damaged and self.weights is not None and self.weights.all_equal
                and self.logits is not None and self.logits.equal)

    def content(self) -> dict[str, Any]:
        """For JSON: every number."""
        about = self.settings
        return {"verdict": "EQUAL" if self.equal else "DIFFERENT", "hf": str(about.hf), "checkpoint": str(self.folder),
                "kind": self.kind, "architecture": None if self.architecture is None else dataclasses.asdict(self.architecture),
                "tp": about.tp, "pp": about.pp, "device": about.device, "layers": about.layers, "tolerance": about.tolerance,
                "stopped": self.stopped, "files": dataclasses.asdict(self.files),
                "weights": None if self.weights is None else dataclasses.asdict(self.weights),
                "logits": None if self.logits is None else dataclasses.asdict(self.logits)}

    def show(self) -> None:
        """Print the figures and the verdict to stdout."""
        rows = [*_file_rows(self.files), *_weight_rows(self.weights), *_logit_rows(self)]
        if self.stopped:
            rows.append(["not compared", self.stopped])
        rows.append(["verdict", f"{'EQUAL' if self.equal else 'DIFFERENT'} (tolerance {self.settings.tolerance:g})"])
        log.table(f"{self.settings.hf} and {self.folder}", ["figure", "value"], rows)


def _file_rows(files: Files) -> list[list[object]]:
    outcome = "DAMAGED" if files.damaged else "as written"
    rows: list[list[object]] = []
    if files.checked:
        rows.append(["files", f"{files.checked} with a noted sum, {readable(files.bytes)}: {outcome}"])
    rows += [["damaged", problem] for problem in files.damaged[:_SHOWN]]
    return rows + [["not checked", sentence] for sentence in files.not_checked]


def _weight_rows(weights: Weights | None) -> list[list[object]]:
    if weights is None:
        return []
    rows: list[list[object]] = [["tensors equal bit for bit", f"{weights.equal} of {weights.tensors}"]]
    theirs, ours = "/".join(weights.hf_dtypes), "/".join(weights.checkpoint_dtypes)
    rows.append(["dtype", theirs if theirs == ours else f"{theirs}; the checkpoint's {ours} cast to it"])
    rows += [["different", f"{each.hf} ({each.megatron}): {each.numbers:,} numbers, by up to {each.largest:.3e}"]
             for each in weights.different[:_SHOWN]]
    if len(weights.different) > _SHOWN:
        rows.append(["different", f"and {len(weights.different) - _SHOWN} more"])
    rows += [["damaged", problem] for problem in weights.damaged[:_SHOWN]]
    return rows + [["unreadable", problem] for problem in weights.unreadable[:_SHOWN]]


def _logit_rows(report: Report) -> list[list[object]]:
    logits, about = report.logits, report.settings
    if logits is None:
        return []
    layers = "" if about.layers is None else f", first {logits.layers} of {report.architecture.layers} layers"
    return [["logits", f"megatron-core TP{about.tp} x PP{about.pp} against transformers, float32{layers}"],
            ["tokens, in documents", f"{logits.tokens}, {logits.documents}"],
            ["largest difference", f"{logits.largest_difference:.3e}"],
            ["mean difference", f"{logits.mean_difference:.3e}"],
            ["largest logit", f"{logits.largest_logit:.3g}"],
            ["same top token", f"{logits.top1_agreement:.2%}"],
            ["KL divergence, mean and largest", f"{logits.kl_mean:.3e}, {logits.kl_largest:.3e} nats"]]


def run(settings: Settings, *, output: Path | None = None) -> bool:
    """Compare, print the figures, write them to `output`, and give the verdict.

    `output` is written after an error too, with what it was and what was known by then; then the error goes on.
    """
    process, begun = device.process_of(dict(os.environ)), time.monotonic()
    log.setup(rank=process.rank)
    if output is not None and process.rank == 0:
        cli.require_absent(output, option="--json")
        if not output.parent.is_dir():
            raise ConfigError(f"--json: {output.parent} is no folder; make it first")
    known: list[Report] = []
    try:
        report = verify(settings, process, note=known.append)
    except BaseException as error:
        if output is not None and process.rank == 0:
            found = known[-1].content() if known else {"hf": str(settings.hf), "checkpoint": str(settings.checkpoint)}
            _write(output, {**found, "verdict": "ERROR", "error": f"{type(error).__name__}: {error}".removesuffix(": ")})
        raise
    if process.rank == 0:
        report.show()
        if output is not None:
            _write(output, {**report.content(), "seconds": round(time.monotonic() - begun, 1),
                            "versions": checkpoint_layout.package_versions()})
    return report.equal


def _write(path: Path, content: dict[str, Any]) -> None:
    cli.require_absent(path, option="--json")
    cli.write_text_atomically(path, json.dumps(_spelled(content), indent=1, allow_nan=False) + "\n")


def _spelled(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become words.

    >>> _spelled({"a": [1.5, float("nan")], "b": float("-inf")})
    {'a': [1.5, 'nan'], 'b': '-inf'}
    """
    if isinstance(value, dict):
        return {key: _spelled(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_spelled(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def verify(settings: Settings, process: Process, *, note: Callable[[Report], None] = lambda _: None) -> Report:
    """Compare; the report is the same on every rank.

    One process starts those that it needs itself; torchrun or srun with tp * pp of them will do, too.

    Args:
        note: is told on rank 0 what is known before the logits.
    """
    for option in ("tp", "pp", "tokens", "workers"):
        number = getattr(settings, option)
        if number is not None and number < 1:
            raise ConfigError(f"--{option}: {number}, expected at least 1")
    if process.size not in (1, settings.ranks):
        raise ConfigError(f"--tp {settings.tp} x --pp {settings.pp} takes {settings.ranks} processes, but {process.size} run; "
                          "leave torchrun or srun away, and the processes are started for you")
    device.choose(settings.device)
    stored = None
    if process.rank == 0:
        stored = compare_stored(settings)
        note(stored)
    if process.size == 1 and stored.stopped:
        return stored
    if process.size == settings.ranks:
        return _of_rank(process, settings, stored)
    return verify_ranks.run(_of_rank, settings.ranks, settings, stored)


def compare_stored(settings: Settings) -> Report:
    """Files and weights, in this process alone. Settings that cannot work are refused before anything large is read."""
    folder = opening.find(settings.checkpoint)
    pair, refusal = _opened(settings)
    files = verify_files.check_files(settings.hf, folder)
    if pair is None:
        if not files.damaged:
            raise refusal
        return Report(settings, folder, "", None, files, None, None, stopped=str(refusal))
    weights = verify_weights.compare_weights(pair, workers=settings.workers)
    stopped = f"logits, since {len(weights.unreadable)} weights cannot be read" if weights.unreadable else ""
    return Report(settings, folder, pair.opened.kind, pair.architecture, files, weights, None, stopped)


def _opened(settings: Settings) -> tuple[Pair | None, Exception | None]:
    """Both folders, or why they cannot be opened: damaged files may be the reason."""
    try:
        pair = verify_files.open_pair(settings.hf, settings.checkpoint, settings.hints)
    except MegatronFTError as error:
        return None, error
    cut(pair.architecture, settings)
    return pair, None


def cut(architecture: Architecture, settings: Settings) -> Architecture:
    """The model that computes logits; ConfigError for layers, stages and tokens that it does not have."""
    from megatron_ft.config import Parallel
    from megatron_ft.training.plan import check_layout

    if settings.layers is not None:
        if not 1 <= settings.layers <= architecture.layers:
            raise ConfigError(f"--layers: {settings.layers}, but the model has {architecture.layers}; name 1 to "
                              f"{architecture.layers}")
        architecture = dataclasses.replace(architecture, layers=settings.layers)
    if settings.pp > architecture.layers:
        raise ConfigError(f"--pp: {settings.pp} stages, but logits are computed with {architecture.layers} layers; use at most "
                          f"--pp {architecture.layers}{' or more --layers' if settings.layers is not None else ''}")
    check_layout(architecture, Parallel(tp=settings.tp, pp=settings.pp), processes=settings.ranks, row_tokens=settings.tokens)
    verify_logits.document_lengths(settings.tokens, longest=architecture.positions)
    return architecture


def _of_rank(process: Process, settings: Settings, stored: Report | None) -> Report:
    """What each rank does for the logits, and the whole report.

    Args:
        stored: what was found in the folders; rank 0 knows.
    """
    from megatron_ft.config import Parallel, Runtime

    warnings.filterwarnings("ignore", module=r"megatron\.core|torch")
    chosen = device.prepare(Runtime(device=settings.device), process)
    pair = verify_files.open_pair(settings.hf, settings.checkpoint, settings.hints)
    architecture, parallel = cut(pair.architecture, settings), Parallel(tp=settings.tp, pp=settings.pp)

    from megatron_ft.runtime import agreement, groups

    with groups.start(process, chosen, parallel, timeout_minutes=_TIMEOUT_MINUTES) as place:
        stored = agreement.from_first(stored)
        if stored.stopped:
            return stored
        lengths = verify_logits.document_lengths(settings.tokens, longest=architecture.positions)
        documents = verify_logits.random_documents(architecture, lengths)
        logits_TV = verify_logits.megatron_logits(verify_logits.loader(pair, architecture), architecture, documents,
                                                  parallel=parallel, place=place)
        found = None
        if place.last_stage and place.tp_rank == 0:
            found = _against_reference(settings, architecture, documents, logits_TV)
        [logits] = [each for each in agreement.gather(found) if each is not None]
        return dataclasses.replace(stored, logits=logits)


def _against_reference(settings: Settings, architecture: Architecture, documents: list[Any], logits_TV: Any) -> Comparison:
    import torch

    torch.set_num_threads(cli.cores())  # the other ranks only wait
    reference = verify_logits.reference_logits(settings.hf, architecture, documents)
    return verify_logits.compare(reference, logits_TV, [len(document) for document in documents], layers=architecture.layers,
                                 tolerance=settings.tolerance)
