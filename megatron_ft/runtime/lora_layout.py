"""What a LoRA checkpoint holds and says about itself: adapters in place of the model's weights. Torch-free.

Its manifest's `source` has, beside what every run's has ("data_order", "config", ...):

    "base"                the base model's folder, absolute, so that an export finds it from anywhere
    "base_fingerprint"    of its weight files: the adapters mean nothing on top of other weights
    "lora"                {"rank": 8, "alpha": 32.0, "dropout": 0.0, "linears": ["qkv", "fc1"]}
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from megatron_ft.config import Lora
from megatron_ft.errors import CheckpointError, ConfigError
from megatron_ft.runtime import samples
from megatron_ft.runtime.checkpoint_layout import Manifest

LINEARS = {"qkv": "self_attention.linear_qkv", "proj": "self_attention.linear_proj", "fc1": "mlp.linear_fc1",
           "fc2": "mlp.linear_fc2"}
"""Name in `lora.linears` -> module of a megatron-core layer."""
A, B = "lora_A", "lora_B"
_ADAPTER = "_adapter"
_WEIGHT_FILES = ("*.distcp", "*.safetensors", "*.bin")


def adapter_module(linear: str) -> str:
    """The module that holds a linear's adapter.

    >>> adapter_module("mlp.linear_fc1")
    'mlp.linear_fc1_adapter'
    """
    return linear + _ADAPTER


def names(lora: Lora) -> list[str]:
    """`lora.linears` in the model's order."""
    return [name for name in LINEARS if name in lora.linears]


def adapted(lora: Lora) -> list[str]:
    """The modules of `lora.linears`, in the model's order."""
    return [LINEARS[name] for name in names(lora)]


def is_adapter(name: str) -> bool:
    """Whether a parameter or checkpoint key is an adapter's.

    >>> is_adapter("decoder.layers.0.mlp.linear_fc1_adapter.lora_A"), is_adapter("decoder.layers.0.mlp.linear_fc1.weight")
    (True, False)
    """
    return name.rpartition(".")[0].endswith(_ADAPTER)


def adapter_names(linear_weight: str) -> tuple[str, str]:
    """Names of A and B on top of a linear's weight, as the model and a checkpoint have them.

    >>> adapter_names("decoder.layers.3.mlp.linear_fc1.weight")[0]
    'decoder.layers.3.mlp.linear_fc1_adapter.lora_A'
    """
    module = adapter_module(linear_weight.removesuffix(".weight"))
    return f"{module}.{A}", f"{module}.{B}"


def source(lora: Lora, base: Path) -> dict[str, Any]:
    """What the manifest of a LoRA run's checkpoint says besides, or in place of, what every run's says; empty without LoRA."""
    if not lora.rank:
        return {}
    return {"base": str(base.absolute()), "base_fingerprint": fingerprint(base),
            "lora": {**lora.model_dump(), "linears": names(lora)}}


def of(manifest: Manifest) -> Lora | None:
    """The adapters' settings; None for a checkpoint of a whole model."""
    said = manifest.source.get("lora")
    return Lora(**{**said, "linears": tuple(said["linears"])}) if said else None


def require_whole(manifest: Manifest, folder: Path, *, option: str) -> None:
    """CheckpointError for a LoRA checkpoint where a whole model is needed.

    Args:
        option: what named the folder, for the message.
    """
    lora = of(manifest)
    if lora is not None:
        raise CheckpointError(f"{option}: {folder} is a LoRA checkpoint: it holds adapters of rank {lora.rank} for "
                              f"{manifest.source['base']} and no whole model; make one with `python convert/megatron_to_hf.py "
                              f"--lora merged --checkpoint {folder} --output DIR` and name that")


def require_same(manifest: Manifest, folder: Path, lora: Lora, base: Path) -> None:
    """Refuse to resume a checkpoint with other adapters, on top of another base model, or with LoRA switched on or off."""
    before = of(manifest) or Lora()
    for field, was, now in (("rank", before.rank, lora.rank), ("alpha", before.alpha, lora.alpha),
                            ("linears", names(before), names(lora))):
        if was != now:
            raise ConfigError(f"lora.{field}: {now}, but {folder} was trained with {was}; restore it (run.dir/config.toml has "
                              "it), or start anew with another run.dir")
        if not (before.rank or lora.rank):
            return
    require_base(manifest, folder, base, option="load.from")


def require_base(manifest: Manifest, folder: Path, base: Path, *, option: str) -> None:
    """CheckpointError when `base` does not have the weights that the adapters in `folder` were trained on."""
    if not base.is_dir():
        raise CheckpointError(f"{option}: {base}, the base model of the adapters in {folder}, is not there; put it back")
    was, now = manifest.source["base_fingerprint"], fingerprint(base)
    if was != now:
        raise CheckpointError(f"{option}: the weight files of {base} have the fingerprint {now}, but the adapters in {folder} "
                              f"were trained on {manifest.source['base']} with {was}: another model, or it was written anew; "
                              "name the folder with the weights that the run started from")


def fingerprint(base: Path) -> str:
    """16 hexadecimal digits of a base model's weight files: their names, sizes and 16 samples of 4 KiB of each.

    It reads little of a large model, and does not change when the folder is moved or copied.
    """
    found = hashlib.sha256()
    for path in sorted({path for pattern in _WEIGHT_FILES for path in Path(base).glob(pattern)}):
        samples.add(found, path)
    return found.hexdigest()[:16]
