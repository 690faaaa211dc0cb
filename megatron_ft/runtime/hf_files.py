"""Hugging Face model folders: where their weights lie, the files to write them into, and the small files beside."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from megatron_ft.errors import CheckpointError, ConfigError
from megatron_ft.families import rules
from megatron_ft.families.architecture import Architecture
from megatron_ft.runtime import torch_file
from megatron_ft.runtime.safetensors_stream import read_header
from megatron_ft.runtime.stored_tensor import StoredTensor

COMPANION_PATTERNS = ("config.json", "generation_config.json", "tokenizer*", "special_tokens_map.json",
                      "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "chat_template*")
"""Files of a model folder that go along with its weights: configuration and tokenizer, no code, no model card."""

_SAFETENSORS, _PICKLED = "model.safetensors", "pytorch_model.bin"
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


class Weights:
    """The weights of a folder: what they are is known at once, their numbers when asked for."""

    def __init__(self, files: list[Path], tensors: dict[str, StoredTensor]) -> None:
        self.files, self.tensors = files, tensors
        self.shapes = {name: tensor.shape for name, tensor in tensors.items()}
        self.dtypes = {name: tensor.dtype for name, tensor in tensors.items()}

    def read(self, name: str) -> Tensor:
        """One tensor, in the file's dtype."""
        return self.tensors[name].read()


def _pickled_tensors(path: Path) -> dict[str, StoredTensor]:
    """Of a pytorch_model*.bin file, whose pickle's code is not run."""
    loaded = torch_file.load(path)
    if not isinstance(loaded, dict) or not all(isinstance(value, StoredTensor) for value in loaded.values()):
        raise CheckpointError(f"{path}: holds something else than tensors by name; take the model's safetensors files")
    return loaded


def open_weights(folder: str | Path) -> Weights:
    """The weights of a Hugging Face folder, safetensors before .bin; every file is checked to be there and whole."""
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder; give a Hugging Face model folder")
    for single, tensors_of in ((_SAFETENSORS, read_header), (_PICKLED, _pickled_tensors)):
        index = folder / f"{single}.index.json"
        if index.is_file() or (folder / single).is_file():
            files = _files_of_index(index) if index.is_file() else [folder / single]
            return Weights(files, {name: tensor for path in files for name, tensor in tensors_of(path).items()})
    raise CheckpointError(f"{folder}: holds no weights; expected {_SAFETENSORS}, {_PICKLED} or their .index.json "
                          "(a clone without git-lfs has none)")


def _files_of_index(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index}: is no weight index ({type(error).__name__}: {error}); "
                              "copy it again") from error
    outside = [str(name) for name in names if not isinstance(name, str) or Path(name).name != name]
    if outside:
        raise CheckpointError(f"{index}: names {', '.join(outside)}, expected files beside it; copy it again")
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise CheckpointError(f"{index}: names {', '.join(missing)}, not found beside it; copy the missing files")
    return [index.parent / name for name in names]


def check_copies(source: Weights, table: rules.Table, architecture: Architecture, *, where: str) -> None:
    """Some files hold a tied head a second time; one that differs means that the config is wrong about tying."""
    for copy, original in rules.ignored(table, architecture).items():
        if original and copy in source.shapes and not torch.equal(source.read(copy), source.read(original)):
            raise CheckpointError(f"{where}: {copy} differs from {original}, but config.json ties them "
                                  "(tie_word_embeddings is true); set it to false there if the head was trained apart")


def copy_companions(source: str | Path, target: str | Path) -> list[str]:
    """Copy configuration and tokenizer files, which exist in `source`, into `target`; gives their names."""
    target = Path(target)
    target.mkdir(parents=True, exist_ok=True)
    found = sorted({path for pattern in COMPANION_PATTERNS for path in Path(source).glob(pattern) if path.is_file()})
    for path in found:
        shutil.copyfile(path, target / path.name)
    return [path.name for path in found]


def parse_size(text: str, *, option: str = "--max-shard-size") -> int:
    """Bytes of a size as Hugging Face writes it.

    >>> parse_size("5GB"), parse_size("512MiB"), parse_size("1000")
    (5000000000, 536870912, 1000)
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip())
    unit = _UNITS.get(match.group(2).upper()) if match else None
    if unit is None or not int(float(match.group(1)) * unit):
        raise ConfigError(f"{option}: {text!r} is no size; write a number with a unit, e.g. 5GB or 500MiB")
    return int(float(match.group(1)) * unit)


def shards(groups: Iterable[dict[str, tuple[int, ...]]], itemsize: int, limit: int) -> list[dict[str, tuple[int, ...]]]:
    """Distribute groups of tensors, in order, over files of at most `limit` bytes (a larger group gets its own file).

    >>> shards([{"a": (4,)}, {"b": (2,), "c": (2,)}, {"d": (3,)}], itemsize=2, limit=16)
    [{'a': (4,), 'b': (2,), 'c': (2,)}, {'d': (3,)}]
    """
    files: list[dict[str, tuple[int, ...]]] = []
    filled = 0
    for group in groups:
        nbytes = sum(math.prod(shape) for shape in group.values()) * itemsize
        if not files or filled + nbytes > limit:
            files.append({})
            filled = 0
        files[-1].update(group)
        filled += nbytes
    return files


def file_names(files: int) -> list[str]:
    """Names of the safetensors files of a model.

    >>> file_names(1), file_names(2)
    (['model.safetensors'], ['model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors'])
    """
    if files == 1:
        return [_SAFETENSORS]
    return [f"model-{number:05d}-of-{files:05d}.safetensors" for number in range(1, files + 1)]


def write_index(folder: Path, files: dict[str, dict[str, tuple[int, ...]]], dtype: torch.dtype) -> None:
    """Write which file holds which tensor, where there are several.

    Args:
        files: file name -> name and shape of what it holds.
    """
    if len(files) == 1:
        return
    numbers = sum(math.prod(shape) for held in files.values() for shape in held.values())
    weight_map = {name: file for file, held in files.items() for name in held}
    index = {"metadata": {"total_parameters": numbers, "total_size": numbers * dtype.itemsize},
             "weight_map": dict(sorted(weight_map.items()))}
    (folder / f"{_SAFETENSORS}.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
