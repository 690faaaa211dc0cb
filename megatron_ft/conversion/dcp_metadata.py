"""Reads a torch_dist checkpoint's `.metadata` pickle without running anything that it might name."""

from __future__ import annotations

import importlib
import pickle
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.metadata import Metadata

from megatron_ft.errors import CheckpointError
from megatron_ft.runtime import pickles

METADATA_FILE = ".metadata"

_CHECKPOINT = "torch.distributed.checkpoint"
_ALLOWED = {
    *((f"{_CHECKPOINT}.metadata", name) for name in (
        "BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta", "TensorProperties",
        "TensorStorageMetadata", "_MEM_FORMAT_ENCODING")),
    *((f"{_CHECKPOINT}.planner", name) for name in (
        "BytesIOWriteData", "SavePlan", "TensorWriteData", "WriteItem", "WriteItemType")),
    *((f"{_CHECKPOINT}.filesystem", name) for name in ("_StorageInfo", "_StoragePrefix")),
    ("torch", "Size"), ("collections", "OrderedDict"),
}
"""What torch 2.x and megatron-core 0.12 to 0.16 write: plain records."""
_UNUSED = {("torch.serialization", "_get_layout"), ("pathlib", "PosixPath"), ("pathlib", "PurePosixPath"),
           ("pathlib._local", "PosixPath")}
_BOOKKEEPING = "megatron.core.dist_checkpointing."
"""megatron-core's own classes in there (MCoreMetadata, MCoreSavePlan) hold nothing that is needed."""


_CLASSES = [found for module, name in sorted(_ALLOWED) if module.startswith(_CHECKPOINT)
            if isinstance(found := getattr(importlib.import_module(module), name), type)]


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if (module, name) in _ALLOWED:
            return super().find_class(module, name)
        if (module, name) in _UNUSED or (module.startswith(_BOOKKEEPING) and name.startswith("MCore")):
            return pickles.named(f"{module}.{name}")
        raise pickle.UnpicklingError(f"it names {module}.{name}, which no checkpoint needs")


def read_metadata(folder: str | Path) -> Metadata:
    """Keys, shapes and places of everything in a torch_dist folder; CheckpointError when it is damaged or hostile."""
    path = Path(folder) / METADATA_FILE
    try:
        with path.open("rb") as stream, pickles.unchanged(_CLASSES):
            metadata = _Unpickler(stream).load()
        if not isinstance(metadata, Metadata) or not isinstance(metadata.storage_data, dict):
            raise TypeError(f"it holds a {type(metadata).__name__}")
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: not found; this folder is no torch_dist checkpoint") from error
    except Exception as error:  # a damaged pickle raises nearly anything
        raise CheckpointError(f"{path}: refused ({type(error).__name__}: {error}); the file is damaged or was not "
                              "written by torch.distributed.checkpoint") from error
    return metadata
