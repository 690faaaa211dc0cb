"""Integer arrays that are expensive to make, kept in files under a key of all that they depend on.

FOLDER/KEY.npy is an array as numpy.save writes it, then the SHA-256 of KEY and of all bytes before: numpy.load reads such a
file, and `read` believes it under no other name and after no change. A writer writes beside and renames. Equal keys give
equal bytes, so any number of processes on any number of nodes may write at once, without a lock.
"""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from megatron_ft import log
from megatron_ft.data.source import View

FOLDER = ".megatron_ft_cache"
DIGEST_BYTES = 32
LEFTOVER_AGE_S = 3600  # a partial file that is older has lost its writer: writing one takes seconds


def folder(cache_dir: str, views: Sequence[View]) -> Path:
    """Where packings of these views are kept: `cache_dir`, or if it is empty a folder beside the first one's dataset."""
    return Path(cache_dir) if cache_dir else views[0].dataset.prefix.parent / FOLDER


def key_of(*parts: str | int | np.ndarray) -> str:
    """The name for what depends on `parts`: 32 hexadecimal digits, others for any other kind, order, shape or value.

    >>> key_of("pack 1", 8192, np.array([3, 2])) != key_of("pack 1", 8192, np.array([3, 3]))
    True
    """
    digest = hashlib.sha256()
    for part in parts:
        is_array = isinstance(part, np.ndarray)
        digest.update(f"{part.dtype.str}{part.shape};".encode() if is_array else f"{part!r};".encode())
        digest.update(np.ascontiguousarray(part).tobytes() if is_array else b"")
    return digest.hexdigest()[:32]


def read(folder: Path, key: str) -> np.ndarray | None:
    """The array that was written under `key`; None where there is none or where it is damaged, which is said."""
    path = folder / f"{key}.npy"
    try:
        content = path.read_bytes()
    except OSError:  # absent, or unreadable: either way there is no cache
        return None
    body, digest = content[:-DIGEST_BYTES], content[-DIGEST_BYTES:]
    if _digest(key, body) != digest:
        log.get().warning("%s: is damaged (its checksum does not fit); it is not used and is made anew", path)
        return None
    return np.load(io.BytesIO(body), allow_pickle=False)


def write(folder: Path, key: str, array: np.ndarray) -> None:
    """Keep an array, whole or not at all; where the folder cannot be written, say so and go on without."""
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    body = stream.getvalue()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(folder)
        _write_atomically(folder / f"{key}.npy", body + _digest(key, body))
    except OSError as error:
        log.get().info("data: the packing is not cached (%s); data.cache_dir can name a folder that can be written", error)


def _digest(key: str, body: bytes) -> bytes:
    return hashlib.sha256(key.encode() + body).digest()


def _write_atomically(path: Path, content: bytes) -> None:
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    partial = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
        partial.chmod(0o644)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _remove_leftovers(folder: Path) -> None:
    """Remove what writers that were killed have left behind."""
    for partial in folder.glob(".*.partial"):
        try:
            if time.time() - partial.stat().st_mtime > LEFTOVER_AGE_S:
                partial.unlink()
        except FileNotFoundError:  # another process was faster
            continue
