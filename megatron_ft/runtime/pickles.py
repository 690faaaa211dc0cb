"""Reads pickles of checkpoints without running anything that they name, and without what wrote them.

A pickle is a program that may call any function, and set attributes of any object that it names. Here it may name a short list
only: plain containers, torch's own words for tensors, and things of no use to us (enums of Megatron's arguments, numpy's random
state), which become `Named` values. What it is given is made for it alone, or cannot be changed.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import pickle
import re
from collections.abc import Iterable, Iterator
from typing import Any

import torch

_KEPT: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict, ("torch", "Size"): torch.Size,
    ("builtins", "set"): set, ("builtins", "frozenset"): frozenset, ("builtins", "dict"): dict, ("builtins", "list"): list,
    ("builtins", "tuple"): tuple, ("builtins", "slice"): slice, ("builtins", "complex"): complex,
}
"""Types that no attribute can be set of."""
_NAMESPACES = {("argparse", "Namespace"), ("types", "SimpleNamespace")}

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


class Named:
    """Stands for an object that a pickle names and that is of no use here; each name in a pickle gets a class of its own."""

    name = ""
    """Module and class or function, e.g. `megatron.model.enums.PositionEmbeddingType`."""

    def __init__(self, *arguments: Any, **_: Any) -> None:
        self.arguments = arguments
        """What it was to be called with: of an enum its value, or its member's name."""

    def __setstate__(self, state: Any) -> None:
        """What the object would have held; left alone."""

    def append(self, item: Any) -> None:
        """What a pickled subclass of list would do; left alone."""

    def __setitem__(self, key: Any, value: Any) -> None:
        """What a pickled subclass of dict would do; left alone."""

    def __repr__(self) -> str:
        return f"{self.name}{getattr(self, 'arguments', ())!r}"


def named(name: str) -> type[Named]:
    """A class that stands for what has that name."""
    return type(name.rpartition(".")[2], (Named,), {"name": name})


def _member(owner: Any, name: str) -> Named:
    """In place of `getattr`, by which Python 3.11.0 to 3.11.3 pickled an enum's member."""
    if not (isinstance(owner, type) and issubclass(owner, Named)):
        raise pickle.UnpicklingError(f"it asks a {type(owner).__name__} for {name!r}, which no checkpoint needs")
    return owner(name)


class Unpickler(pickle.Unpickler):
    """Knows the names above and no other; what tensors are made of is the subclass's."""

    def find_class(self, module: str, name: str) -> Any:
        module = {"__builtin__": "builtins"}.get(module, module)  # its name in protocol 2, which torch.save writes
        if (module, name) in _KEPT:
            return _KEPT[module, name]
        if (module, name) in _NAMESPACES:
            return type("Namespace", (argparse.Namespace,), {})
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if (module, name) == ("builtins", "getattr"):
            return lambda owner, member: _member(owner, member)
        if _NAMED_PATTERN.fullmatch(f"{module}.{name}"):
            return named(f"{module}.{name}")
        raise pickle.UnpicklingError(f"it names {module}.{name}, which no checkpoint needs")


@contextlib.contextmanager
def unchanged(classes: Iterable[type]) -> Iterator[None]:
    """Take back whatever a pickle sets on these classes, which it may name; UnpicklingError if it has."""
    before = {each: dict(vars(each)) for each in classes}
    try:
        yield
    finally:
        changed = [each for each, attributes in before.items() if dict(vars(each)) != attributes]
        for each in changed:
            for attribute in set(vars(each)) - set(before[each]):
                delattr(each, attribute)
            for attribute, value in before[each].items():
                if vars(each).get(attribute) is not value:
                    setattr(each, attribute, value)
    if changed:
        raise pickle.UnpicklingError(f"it changes {changed[0].__qualname__}, which no checkpoint needs")
