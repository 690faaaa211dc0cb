"""Reads pickles of checkpoints without running anything that they name, and without what wrote them.

A pickle is a program that may call any function. Here it may name a short list only: plain containers, torch's own words for
tensors, and things of no use to us (enums of Megatron's arguments, numpy's random state), which become `Named` values.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import pickle
import re
from typing import Any

import torch

_KEPT: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("argparse", "Namespace"): argparse.Namespace,
    ("types", "SimpleNamespace"): argparse.Namespace,
    ("torch", "Size"): torch.Size,
    ("builtins", "set"): set, ("builtins", "frozenset"): frozenset, ("builtins", "dict"): dict, ("builtins", "list"): list,
    ("builtins", "tuple"): tuple, ("builtins", "slice"): slice, ("builtins", "complex"): complex,
}
"""Plain containers: the objects themselves are made."""

_NAMED = (
    r"megatron(\.\w+)+\.[A-Z]\w*",
    r"signal\.Signals", r"torch\.device", r"torch\.(serialization\._get_layout|strided)", r"pathlib(\._local)?\.\w*Path",
    r"numpy\.(core|_core)\.multiarray\.(_reconstruct|scalar)", r"numpy\.(ndarray|dtype|random\.\w+|random\._pickle\.\w+)",
    r"_codecs\.encode", r"_?io\.BytesIO",
)
"""Patterns of names that checkpoints hold beside their tensors; nothing of the kind is imported or called."""
_NAMED_PATTERN = re.compile("|".join(f"(?:{pattern})" for pattern in _NAMED))

STORAGE_DTYPES = {"DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
                  "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
                  "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8,
                  "BoolStorage": torch.bool, "UntypedStorage": torch.uint8}
"""torch's classes of storages, by name."""


@dataclasses.dataclass
class Named:
    """Stands for an object that a pickle names and that is of no use here."""

    name: str
    """Module and class or function, e.g. `megatron.model.enums.PositionEmbeddingType`."""
    arguments: tuple[Any, ...] = ()
    """What it was to be called with: of an enum its value, or its member's name."""
    state: Any = None

    def __call__(self, *arguments: Any, **named: Any) -> Named:
        return Named(self.name, arguments)

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict) and set(state) == {"name", "arguments", "state"}:
            self.__dict__.update(state)
        else:
            self.state = state

    def append(self, item: Any) -> None:
        """What a pickled subclass of list would do; left alone."""

    def __setitem__(self, key: Any, value: Any) -> None:
        """What a pickled subclass of dict would do; left alone."""

    def __hash__(self) -> int:
        return hash(self.name)


def _member(owner: Any, name: str) -> Named:
    """In place of `getattr`, by which Python 3.11.0 to 3.11.3 pickled an enum's member."""
    if not isinstance(owner, Named):
        raise pickle.UnpicklingError(f"it asks a {type(owner).__name__} for {name!r}, which no checkpoint needs")
    return Named(owner.name, (name,))


class Unpickler(pickle.Unpickler):
    """Knows the names above and no other; what tensors are made of is the subclass's."""

    def find_class(self, module: str, name: str) -> Any:
        module = {"__builtin__": "builtins"}.get(module, module)  # its name in protocol 2, which torch.save writes
        if (module, name) in _KEPT:
            return _KEPT[module, name]
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if (module, name) == ("builtins", "getattr"):
            return _member
        if _NAMED_PATTERN.fullmatch(f"{module}.{name}"):
            return Named(f"{module}.{name}")
        raise pickle.UnpicklingError(f"it names {module}.{name}, which no checkpoint needs")
