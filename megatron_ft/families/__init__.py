"""The model families: each file of this folder that names HF_MODEL_TYPES is one. Importing this loads no torch.

A family file holds NAME, HF_MODEL_TYPES, PRESETS (name -> Hugging Face config), RULES (see rules.py),
`architecture(hf, where=...)`, `hf_config(architecture)` and, if its configs have a known trap, `notes(architecture)`.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from megatron_ft.errors import ConfigError
from megatron_ft.families.architecture import Architecture
from megatron_ft.families.hf_config import read_config
from megatron_ft.families.rope import rope_inverse_frequencies

__all__ = ["Architecture", "architecture_of_folder", "from_hf_config", "get", "known", "notes", "preset", "presets",
           "rope_inverse_frequencies"]


@functools.cache
def known() -> dict[str, ModuleType]:
    """Name -> module of every family in the folder, in alphabetical order."""
    names = [found.name for found in pkgutil.iter_modules(__path__) if not found.name.startswith("_")]
    modules = [importlib.import_module(f"{__name__}.{name}") for name in names]
    return {module.NAME: module for module in modules if hasattr(module, "HF_MODEL_TYPES")}


def get(name: str) -> ModuleType:
    """The module of a family; ConfigError names the known ones."""
    modules = known()
    if name not in modules:
        raise ConfigError(f"family {name!r} is unknown; known: {', '.join(modules)}")
    return modules[name]


def from_hf_config(hf: Mapping[str, Any], *, where: str) -> Architecture:
    """The architecture that a Hugging Face config describes.

    Args:
        where: path of the config, for messages.
    ConfigError for an unknown model_type, an unknown key (by name) and a value whose meaning is not implemented.
    """
    model_type = hf.get("model_type")
    by_type = {served: module for module in known().values() for served in module.HF_MODEL_TYPES}
    if model_type not in by_type:
        raise ConfigError(f"{where}: model_type is {model_type!r}, supported: {', '.join(sorted(by_type))}; "
                          "a new family is one file under megatron_ft/families (see CONTRIBUTING.md)")
    return by_type[model_type].architecture(hf, where=where)


def architecture_of_folder(folder: str | Path) -> Architecture:
    """The architecture of a Hugging Face model folder."""
    return from_hf_config(read_config(folder), where=str(Path(folder) / "config.json"))


def presets() -> dict[str, str]:
    """Name of each published size -> its family."""
    return {name: family for family, module in known().items() for name in module.PRESETS}


def preset(name: str) -> Architecture:
    """The architecture of a published model by name, e.g. "starcoderbase-7b"; ConfigError names the known ones."""
    names = presets()
    if name not in names:
        raise ConfigError(f"preset {name!r} is unknown; known: {', '.join(names)}")
    return from_hf_config(get(names[name]).PRESETS[name], where=f"preset {name}")


def notes(architecture: Architecture) -> list[str]:
    """Warnings that a family has about a config, one sentence each."""
    module = get(architecture.family)
    return module.notes(architecture) if hasattr(module, "notes") else []
