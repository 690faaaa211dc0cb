"""LoRA checkpoint, saved at any TP x PP x DP -> PEFT adapter folder, or merged with its base into a Hugging Face folder."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from megatron_ft import cli, families, log
from megatron_ft.config import Lora
from megatron_ft.conversion import hf_manifest, megatron_to_hf, streams
from megatron_ft.conversion.hf_folder import HfSource
from megatron_ft.conversion.megatron_to_hf import Options, require_same_architecture
from megatron_ft.conversion.opening import Opened
from megatron_ft.conversion.streams import Rows, Source
from megatron_ft.conversion.torch_dist import TorchDistSource
from megatron_ft.errors import CheckpointError, ConfigError
from megatron_ft.families import rules
from megatron_ft.families.architecture import Architecture
from megatron_ft.families.hf_config import CONFIG_FILE
from megatron_ft.runtime import checkpoint_layout, dtypes, lora_layout, safetensors_stream
from megatron_ft.runtime.checkpoint_layout import Manifest
from megatron_ft.runtime.stored_tensor import rows_of

Form = Literal["merged", "adapter"]
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PEFT_PREFIX = "base_model.model."


def convert(checkpoint: str | Path, output: str | Path, options: Options = Options(), *, form: Form,  # noqa: B008 - frozen
            base: str | Path | None = None) -> Path:
    """Write folder `output` from a LoRA checkpoint; gives the folder.

    Args:
        form: "merged": a whole model, each adapted weight W + (alpha / rank) B A, added in float64; "adapter": what
            `peft.PeftModel.from_pretrained(model, output)` loads.
        base: the base model, a Hugging Face folder or a checkpoint; None: the one that the run recorded.
    ConfigError or CheckpointError for a checkpoint without adapters, and for a base that is not there or another model.
    """
    output = cli.require_absent(output, option="--output")
    folder = checkpoint_layout.find(checkpoint)
    if form == "adapter":
        manifest, adapters = _open_adapters(folder)
        return _write_adapter(output, adapters, _hf_name(manifest, base), dtype=options.dtype)
    opened = open_merged(folder, base)
    return megatron_to_hf.write(output, opened, options, merged_with=lora_layout.fingerprint(base or opened.origin["base"]))


def open_merged(folder: Path, base: str | Path | None = None) -> Opened:
    """A LoRA checkpoint as the whole model that `convert` makes of it; `base` as there."""
    manifest, adapters = _open_adapters(folder)
    kept = folder / checkpoint_layout.HF_FOLDER
    return Opened(folder, "torch_dist", manifest.architecture, Merged(_open_base(manifest, folder, base), adapters),
                  manifest.iteration, kept if kept.is_dir() else None, manifest.source,
                  _noted(Path(base or manifest.source["base"])))


def _noted(base: Path) -> dict[str, str]:
    """CRC-32 of a base model's tensors, where it was noted when they were written."""
    if (base / CONFIG_FILE).is_file():
        of_folder = hf_manifest.read(base)
        return of_folder.tensor_crc32 if of_folder is not None else {}
    return Manifest.read(checkpoint_layout.find(base)).tensor_crc32


def _open_adapters(folder: Path) -> tuple[Manifest, Adapters]:
    manifest = Manifest.read(folder)
    lora = lora_layout.of(manifest)
    if lora is None:
        raise ConfigError(f"--lora: {folder} is no LoRA checkpoint but a whole model; leave --lora and --base away")
    return manifest, Adapters(folder, manifest.architecture, lora)


class Adapters:
    """The A and B of a LoRA checkpoint, by the linear weight that they are for."""

    def __init__(self, folder: Path, architecture: Architecture, lora: Lora) -> None:
        """CheckpointError where the checkpoint does not hold exactly the adapters that its manifest says."""
        self.architecture, self.lora = architecture, lora
        self._reader = TorchDistSource(folder)
        table = rules.weights(families.get(architecture.family).RULES, architecture)
        modules = tuple(f".{module}.weight" for module in lora_layout.adapted(lora))
        self.weights = {weight.megatron: weight for weight in table if weight.megatron.endswith(modules)}
        """Name of each adapted weight -> its rule."""
        self.others = [weight for weight in table if weight.megatron not in self.weights]
        for name, weight in self.weights.items():
            rows, columns = weight.megatron_shape
            for part, expected in zip(lora_layout.adapter_names(name), [(lora.rank, columns), (rows, lora.rank)], strict=True):
                found = self._reader.shape(part)
                if found != expected or self._reader.layers(part) not in (None, architecture.layers):
                    raise CheckpointError(f"{folder}: {part} has shape {list(found)}, expected {list(expected)} in each of "
                                          f"{architecture.layers} layers; the files belong to different checkpoints")
        unexpected = self._reader.unexpected([part for name in self.weights for part in lora_layout.adapter_names(name)])
        if unexpected:
            raise CheckpointError(f"{folder}: holds {', '.join(unexpected[:4])}, which is no adapter of lora.linears = "
                                  f"{', '.join(lora.linears)}; exporting would lose it, so nothing is exported")

    @property
    def dtypes(self) -> dict[str, torch.dtype]:
        """Of every stored A and B, by name."""
        return {part: self._reader.dtype(part) for name in self.weights for part in lora_layout.adapter_names(name)}

    def read(self, name: str) -> tuple[Tensor, Tensor]:
        """A [rank, inputs] and B [outputs, rank] of the weight `name`."""
        a, b = lora_layout.adapter_names(name)
        return streams.whole(self._reader, a), streams.whole(self._reader, b)


class Merged:
    """A base model with adapters added to its weights."""

    def __init__(self, base: Source, adapters: Adapters) -> None:
        self._base, self._adapters = base, adapters
        self.shape, self.layers, self.dtype, self.unexpected = base.shape, base.layers, base.dtype, base.unexpected

    def reading(self, name: str) -> Rows:
        """The base's weight as it is, or with its adapter added, then in float32."""
        rows = self._base.reading(name)
        return _MergedRows(rows, *self._adapters.read(name), self._adapters.lora) if name in self._adapters.weights else rows


class _MergedRows:
    """Rows of a weight with its adapter's share added: W + (alpha / rank) B A, the same bits for any threads and pieces.

    The order in which a matrix product adds up depends on processor, threads and shapes. So A and B become whole multiples
    of a power of two, of so few bits (23 at rank 64, float32 has 24) that float64 holds every sum of products exactly.
    """

    def __init__(self, base: Rows, a: Tensor, b: Tensor, lora: Lora) -> None:
        bits = (53 - math.ceil(math.log2(lora.rank))) // 2
        self._base, self._a, self._b, self._scale = base, _rounded(a, bits), _rounded(b, bits), lora.alpha / lora.rank
        self.finish = base.finish

    def rows(self, start: int, stop: int) -> Tensor:
        merged = self._base.rows(start, stop).float()
        for first in range(0, stop - start, step := rows_of(tuple(merged.shape), torch.float64)):
            piece, own = merged[first:first + step], self._b[start + first:min(start + first + step, stop)]
            piece.copy_((own @ self._a).mul_(self._scale).add_(piece))  # one operation after the other: nothing is fused
        return merged


def _rounded(tensor: Tensor, bits: int) -> Tensor:
    """In float64, as whole multiples of a power of two that are none above 2^bits.

    >>> _rounded(torch.tensor([3.0, -0.26]), bits=4)
    tensor([ 3.0000, -0.2500], dtype=torch.float64)
    """
    step = 2.0 ** (math.frexp(tensor.abs().max().item())[1] - bits)
    return tensor.double().div_(step).round_().mul_(step)


def _open_base(manifest: Manifest, folder: Path, named: str | Path | None) -> Source:
    """The base's weights: of the recorded folder, which must be what it was, or of the one that the user names."""
    base = Path(named or manifest.source["base"])
    option = "--base" if named else str(folder)
    if not base.is_dir():
        raise CheckpointError(f"{option}: the base model {base} is not there; name its place with --base DIR")
    is_hf = (base / CONFIG_FILE).is_file()
    base = base if is_hf else checkpoint_layout.find(base)
    if named is None:
        lora_layout.require_base(manifest, folder, base, option=option)
    elif lora_layout.fingerprint(base) != manifest.source["base_fingerprint"]:
        log.get().warning("--base: %s has other weight files than %s, on which the adapters were trained; they are added to "
                          "what it holds", base, manifest.source["base"])
    if is_hf:
        found = families.architecture_of_folder(base)
    else:
        of_base = Manifest.read(base)
        lora_layout.require_whole(of_base, base, option=option)
        found = of_base.architecture
    require_same_architecture(found, manifest.architecture, where=str(base), other=str(folder))
    return HfSource(base, found) if is_hf else TorchDistSource(base)


def _hf_name(manifest: Manifest, named: str | Path | None) -> str:
    """What adapter_config.json calls the base model: a Hugging Face folder wherever one is known."""
    base = Path(named or manifest.source["base"])
    if named is None and (base / checkpoint_layout.MANIFEST_FILE).is_file():
        converted_from = Manifest.read(base).source.get("folder")
        if converted_from is None:
            log.get().warning("%s names the base model %s, which is no Hugging Face folder; name one with --base",
                              ADAPTER_CONFIG, base)
        return str(converted_from or base)
    return str(base)


def _write_adapter(output: Path, adapters: Adapters, base_name: str, *, dtype: str) -> Path:
    target = dtypes.target_dtype(dtype, adapters.dtypes, where="the checkpoint's adapters")
    lora = adapters.lora
    shapes: dict[str, tuple[int, ...]] = {}
    for weight in adapters.weights.values():
        for name, (rows, columns) in weight.hf:
            shapes[_peft_name(name, "A")], shapes[_peft_name(name, "B")] = (lora.rank, columns), (rows, lora.rank)
    alpha = int(lora.alpha) if lora.alpha == int(lora.alpha) else lora.alpha
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base_name, "r": lora.rank,
              "lora_alpha": alpha, "lora_dropout": lora.dropout, "target_modules": target_modules(adapters), "bias": "none",
              "fan_in_fan_out": False, "inference_mode": True}
    with cli.write_beside(output) as partial:
        _, places = safetensors_stream.create(partial / ADAPTER_WEIGHTS, shapes, target)
        for name, tensor in _peft_tensors(adapters):
            places[name].write(0, tensor.to(target))
        (partial / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    log.get().info("%s: adapters of rank %d on %s in %s", output, lora.rank, ", ".join(config["target_modules"]),
                   dtypes.NAMES[target])
    return output


def _peft_tensors(adapters: Adapters) -> Iterator[tuple[str, Tensor]]:
    """A fused linear has one A, which each of its Hugging Face parts gets a copy of, and the rows of B that are its own.

    Weight rules move rows only, and B's rows are those of the weight.
    """
    for megatron, weight in adapters.weights.items():
        a, b = adapters.read(megatron)
        for (name, _), rows in zip(weight.hf, rules.split_rows(weight, b), strict=True):
            yield _peft_name(name, "A"), a
            yield _peft_name(name, "B"), rows


def _peft_name(weight: str, part: Literal["A", "B"]) -> str:
    return f"{_PEFT_PREFIX}{weight.removesuffix('.weight')}.lora_{part}.weight"


def target_modules(adapters: Adapters) -> list[str]:
    """PEFT's names of the adapted modules: the shortest ends of their paths that no other module shares.

    Both c_proj of a StarCoder layer are adapted: c_proj; the attention's alone: attn.c_proj.
    """
    chosen = [name.removesuffix(".weight") for weight in adapters.weights.values() for name, _ in weight.hf]
    others = [f".{name.removesuffix('.weight')}" for weight in adapters.others for name, _ in weight.hf]
    found = set()
    for path in chosen:
        words = path.split(".")
        ends = [".".join(words[-length:]) for length in range(1, len(words) + 1)]
        found.add(next(end for end in ends if not any(other.endswith(f".{end}") for other in others)))
    return sorted(found)
