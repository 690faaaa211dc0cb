"""Says what a folder is, a model, an adapter or a checkpoint of anybody's; what is in it, and what can be done with it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from megatron_ft import families, log
from megatron_ft.conversion import dcp_metadata, legacy, megatron_args
from megatron_ft.conversion.opening import EMBEDDING, common_of, find
from megatron_ft.conversion.torch_dist import COMMON_FILE, TorchDistSource
from megatron_ft.errors import CheckpointError, ConfigError, MegatronFTError
from megatron_ft.families.architecture import Architecture
from megatron_ft.families.hf_config import CONFIG_FILE
from megatron_ft.runtime import checkpoint_files, checkpoint_layout, hf_files, lora_layout
from megatron_ft.runtime.checkpoint_layout import Manifest

ADAPTER_CONFIG = "adapter_config.json"
Tensors = Mapping[str, tuple[tuple[int, ...], torch.dtype]]


@dataclasses.dataclass
class Report:
    """What was found."""

    format: str
    folder: Path
    facts: dict[str, str] = dataclasses.field(default_factory=dict)
    tensors: dict[str, tuple[tuple[int, ...], str]] = dataclasses.field(default_factory=dict)
    """Name -> shape and dtype."""
    problems: list[str] = dataclasses.field(default_factory=list)
    """Why it cannot be used as it is; empty where it can."""
    next: str = ""
    """A command for it."""

    def show(self, *, tensors: bool) -> None:
        """Print it to stdout."""
        rows = [["format", self.format], ["folder", self.folder], *self.facts.items(),
                *(["problem", problem] for problem in self.problems), *([["next", self.next]] if self.next else [])]
        log.table(str(self.folder.name), ["", "found"], [list(row) for row in rows])
        if tensors:
            log.table("tensors", ["name", "shape", "dtype"], [[name, " x ".join(map(str, shape)) or "one number", dtype]
                                                              for name, (shape, dtype) in self.tensors.items()])

    def to_json(self) -> str:
        """The same for programs."""
        return json.dumps({**dataclasses.asdict(self), "folder": str(self.folder)}, indent=1)


def inspect(path: str | Path) -> Report:
    """What a folder is; what it lacks is a problem of the report. CheckpointError where it is nothing that is read here."""
    path = Path(path)
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such folder")
    if (path / ADAPTER_CONFIG).is_file():
        return _adapter(path)
    if (path / CONFIG_FILE).is_file():
        return _hugging_face(path)
    if not (path / checkpoint_layout.LATEST_FILE).is_file() and (path / "checkpoints").is_dir():
        path = path / "checkpoints"  # a run.dir
    folder = find(path)
    if legacy.rank_folders(folder):
        return _legacy(folder)
    if (folder / checkpoint_layout.MANIFEST_FILE).is_file():
        return _ours(folder)
    if (folder / dcp_metadata.METADATA_FILE).is_file():
        return _foreign(folder)
    raise CheckpointError(f"{path}: is neither a Hugging Face folder ({CONFIG_FILE}, {ADAPTER_CONFIG}) nor a checkpoint "
                          f"({checkpoint_layout.LATEST_FILE}, mp_rank_*, {dcp_metadata.METADATA_FILE})")


def _hugging_face(folder: Path) -> Report:
    report = Report("Hugging Face model", folder)
    with _noted(report):
        report.facts |= sizes(families.architecture_of_folder(folder))
    with _noted(report):
        weights = hf_files.open_weights(folder)
        _add_tensors(report, {name: (tensor.shape, tensor.dtype) for name, tensor in weights.tensors.items()})
        report.facts["files"] = f"{len(weights.files)}, {weights.files[0].suffix.removeprefix('.')}"
    if not any(folder.glob("tokenizer*")):
        report.facts["tokenizer"] = "none in the folder"
    if not report.problems:
        report.next = f"python convert/hf_to_megatron.py --hf {folder} --output CHECKPOINT"
    return report


def _adapter(folder: Path) -> Report:
    try:
        config = dict(json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        return Report("PEFT adapter", folder, problems=[f"{ADAPTER_CONFIG} is no JSON object ({error})"])
    facts = {"kind": str(config.get("peft_type")), "base": str(config.get("base_model_name_or_path")),
             "rank": str(config.get("r")), "modules": ", ".join(config.get("target_modules") or [])}
    return Report("PEFT adapter", folder, facts)


def _ours(folder: Path) -> Report:
    report = Report("torch_dist checkpoint of megatron_ft", folder)
    with _noted(report):
        manifest = Manifest.read(folder)
        lora = lora_layout.of(manifest)
        layout = ", ".join(f"{axis} {size}" for axis, size in manifest.layout.items())
        report.facts |= {**sizes(manifest.architecture, stored=manifest.stored_vocabulary), "dtype": manifest.dtype,
                         "iteration": str(manifest.iteration) if manifest.iteration else "converted weights",
                         "saved at": f"{layout or 'no layout'} (loads at any)",
                         "optimizer state": ", ".join(manifest.optimizer_state) or "none",
                         "made of": str(manifest.source.get("base") or manifest.source.get("folder"))}
        if lora is not None:
            report.facts["adapters"] = f"LoRA, rank {lora.rank} on {', '.join(lora.linears)}; the base is not in it"
        missing = checkpoint_layout.missing_files(folder)
        report.problems += [f"unfinished: {', '.join(missing)} missing"] if missing else []
        report.problems += checkpoint_files.wrong_sizes(folder, manifest.files)
        _add_tensors(report, TorchDistSource(folder).keys)
        form = " --lora merged" if lora is not None else ""
        report.next = f"python convert/megatron_to_hf.py --checkpoint {folder} --output MODEL{form}"
    return report


def _foreign(folder: Path) -> Report:
    report = Report("torch_dist checkpoint of Megatron-LM (or another user of megatron-core)", folder)
    with _noted(report):
        source = TorchDistSource(folder)
        _add_tensors(report, source.keys)
        common = common_of(folder)
        report.facts["iteration"] = str(common.get("iteration"))
        if "args" in common:
            _add_args(report, common["args"], stored=source.shape(EMBEDDING)[0], core=True)
        else:
            report.problems.append(f"{COMMON_FILE} holds no args that say what model it is: --config DIR is needed")
        _say_next(report)
    return report


def _legacy(folder: Path) -> Report:
    report = Report("Megatron, a folder for each rank", folder)
    with _noted(report):
        opened = legacy.open_folder(folder)
        report.format = f"Megatron, a folder for each rank ({opened.dialect})"
        report.facts |= {"TP x PP": f"{opened.tp} x {opened.pp}", "iteration": str(opened.iteration or "release")}
        _add_args(report, opened.args, stored=opened.ranks[0][EMBEDDING].shape[0] * opened.tp, core=opened.dialect == "core")
        _add_tensors(report, {f"{name} (tp rank {rank})": (tensor.shape, tensor.dtype)
                              for rank, names in enumerate(opened.ranks) for name, tensor in names.items()})
        _say_next(report)
    return report


def _say_next(report: Report) -> None:
    asked = "" if "vocabulary" in report.facts else " --vocab-size N"
    report.next = f"python convert/megatron_to_hf.py --checkpoint {report.folder} --output MODEL{asked}"


def _add_args(report: Report, args: Any, *, stored: int, core: bool) -> None:
    """The model that `args` describe; one whose vocabulary they do not say is described all the same."""
    try:
        found = megatron_args.architecture(args, vocabulary=None, stored_rows=stored, where=str(report.folder), core=core)
        report.facts |= sizes(found, stored=stored)
    except ConfigError as error:
        if "--vocab-size" not in str(error):
            raise
        found = megatron_args.architecture(args, vocabulary=stored, stored_rows=stored, where=str(report.folder), core=core)
        report.facts |= {name: value for name, value in sizes(found).items() if name not in ("vocabulary", "parameters")}
        report.facts["stored vocabulary"] = f"{stored} rows, padding included; args do not say how many are the tokenizer's"


def sizes(a: Architecture, *, stored: int | None = None) -> dict[str, str]:
    """A model's own words and numbers."""
    padded = f" (stored: {stored})" if stored not in (None, a.vocabulary) else ""
    return {"family": a.family, "parameters": f"{a.parameters:,}", "layers": str(a.layers), "hidden": str(a.hidden),
            "heads": f"{a.heads}, {a.groups} for keys and values, {a.head_width} wide",
            "MLP": f"{a.ffn} wide, {a.activation}{', gated' * a.gated}", "norm": a.norm,
            "positions": f"{a.positions}, {a.position_embedding}{f', window {a.window}' if a.window else ''}",
            "vocabulary": f"{a.vocabulary}{padded}", "head": "tied to the embedding" if a.tied_head else "of its own"}


def _add_tensors(report: Report, tensors: Tensors) -> None:
    report.tensors = {name: (shape, str(dtype).removeprefix("torch.")) for name, (shape, dtype) in tensors.items()}
    counts = Counter(dtype for _, dtype in report.tensors.values())
    report.facts["tensors"] = f"{len(tensors)}: {', '.join(f'{count} {dtype}' for dtype, count in counts.most_common())}"


@contextlib.contextmanager
def _noted(report: Report) -> Iterator[None]:
    """What is raised within it becomes a problem of the report."""
    try:
        yield
    except MegatronFTError as error:
        report.problems.append(str(error))
