"""The files of a checkpoint: summed up while they are written, compared with their sums, made room for, removed. Torch-free."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import os
import re
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from megatron_ft.runtime import sums

HIDDEN_PARTIAL, HIDDEN_REMOVED = ".{}.partial", ".{}.removed"
"""A checkpoint that is being written, and one that is being removed; the braces stand for its name."""
_HIDDEN = re.compile(r"\.iter_\d{7,}\.(partial|removed)|\.latest_checkpointed_iteration\.txt\.\w+")
CHUNK_BYTES = 16 * 2**20
_READERS = 4  # files that one rank reads at a time: one stream does not fill a parallel file system's bandwidth


@dataclasses.dataclass(frozen=True)
class Record:
    """What a file must be; CRC-32 finds damage, not malice."""

    bytes: int
    crc32: str
    """8 hexadecimal digits."""


class SummedFile:
    """A new file that is summed up while it is written, for torch.save.

    `write` never raises: it is called from torch's C++ code, which an exception must not cross. `check` raises instead.
    """

    def __init__(self, path: Path, *, stop: threading.Event | None = None) -> None:
        self.path = path
        self._stop, self._bytes, self._sum = stop, 0, 0
        self._error: OSError | None = None
        self._stream = path.open("wb", buffering=2**20)

    def write(self, data: bytes | memoryview) -> int:
        """Append; after an error, or when told to stop, nothing is written any more."""
        view = memoryview(data).cast("B")
        for start in range(0, len(view), CHUNK_BYTES):
            if self._stop is not None and self._stop.is_set():
                self._error = self._error or InterruptedError(f"{self.path}: writing was given up")
            if self._error is not None:
                break
            chunk = view[start:start + CHUNK_BYTES]
            try:
                self._stream.write(chunk)
            except OSError as error:
                self._error = self._named(error)
            self._sum = sums.crc32(chunk, self._sum)
        self._bytes += len(view)
        return len(view)

    def tell(self) -> int:
        """Bytes given so far."""
        return self._bytes

    def flush(self) -> None:
        """torch.save calls it after each tensor; the file is flushed when it is closed."""

    def check(self) -> None:
        """Raise the OSError that a write has met."""
        if self._error is not None:
            raise self._error

    def record(self) -> Record:
        """Its size and sum so far."""
        return Record(self._bytes, sums.text(self._sum))

    def _named(self, error: OSError) -> OSError:
        if error.errno is not None and error.filename is None:  # a write's own error does not say which file
            error.filename = str(self.path)
        return error

    def __enter__(self) -> SummedFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        try:
            if kind is None:
                self.check()
                self._stream.flush()
                os.fsync(self._stream.fileno())
        except OSError as found:
            raise self._named(found)  # noqa: B904 - the same error
        finally:
            try:
                self._stream.close()
            except OSError:
                if kind is None and self._error is None:
                    raise


def record(path: Path) -> Record:
    """Read a file to its end and say what it is."""
    size, total = 0, 0
    with path.open("rb", buffering=0) as stream:
        while chunk := stream.read(CHUNK_BYTES):
            size, total = size + len(chunk), sums.crc32(chunk, total)
    return Record(size, sums.text(total))


def records(folder: Path, *, known: Mapping[str, Record]) -> dict[str, Record]:
    """What every file of a folder is, by its path in it; those that are known already are not read."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    names = [path.relative_to(folder).as_posix() for path in paths]
    return {name: known[name] if name in known else record(path) for name, path in zip(names, paths, strict=True)}


def damage(folder: Path, files: Mapping[str, Record]) -> list[str]:
    """What is wrong with these files of a folder, a sentence each; sizes are compared before anything is read."""
    found = wrong_sizes(folder, files)
    if found:
        return found
    with concurrent.futures.ThreadPoolExecutor(_READERS) as readers:
        return [problem for problem in readers.map(_wrong_sum, [folder] * len(files), files, files.values()) if problem]


def wrong_sizes(folder: Path, files: Mapping[str, Record]) -> list[str]:
    """Which of these files are missing or have another size, a sentence each; nothing is read."""
    return [problem for problem in map(_wrong_size, [folder] * len(files), files, files.values()) if problem]


def _wrong_size(folder: Path, name: str, expected: Record) -> str | None:
    try:
        size = (folder / name).stat().st_size
    except FileNotFoundError:
        return f"{name} is missing"
    except OSError as error:
        return f"{name} cannot be read ({error})"
    return None if size == expected.bytes else f"{name} has {size} bytes, expected {expected.bytes}"


def _wrong_sum(folder: Path, name: str, expected: Record) -> str | None:
    try:
        found = record(folder / name)
    except OSError as error:
        return f"{name} cannot be read ({error})"
    return None if found == expected else f"{name} has the checksum {found.crc32}, expected {expected.crc32}"


def share(files: Mapping[str, Record], *, rank: int, ranks: int) -> dict[str, Record]:
    """One rank's part of files that all ranks read together, about as many bytes for each.

    >>> files = {name: Record(size, "") for name, size in {"a": 5, "b": 4, "c": 3, "d": 1}.items()}
    >>> [list(share(files, rank=rank, ranks=2)) for rank in range(2)]
    [['a', 'd'], ['b', 'c']]
    """
    loads, mine = [0] * ranks, {}
    for name in sorted(files, key=lambda name: (-files[name].bytes, name)):
        least = loads.index(min(loads))
        loads[least] += files[name].bytes
        if least == rank:
            mine[name] = files[name]
    return mine


def sync_folder(folder: Path) -> None:
    """Make the names in a folder outlive a crash of the machine: after a rename, or after new files."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Make a file's content outlive a crash of the machine."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def free_bytes(folder: Path) -> int:
    """What a user may still write on the file system that a folder, which need not exist yet, is or will be on.

    A quota per user or project is not in this number.
    """
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    return shutil.disk_usage(existing).free


def hide(folder: Path) -> Path:
    """Take a checkpoint away by one rename, so that nobody ever sees a part of it; the hidden folder can then be deleted."""
    hidden = folder.parent / HIDDEN_REMOVED.format(folder.name)
    if hidden.exists():
        shutil.rmtree(hidden)
    return folder.rename(hidden)


def leftovers(root: Path) -> list[Path]:
    """What a process that was killed has left hidden in a checkpoint root: half-written, half-deleted, not yet renamed."""
    return [path for path in root.iterdir() if _HIDDEN.fullmatch(path.name)] if root.is_dir() else []


def delete(path: Path) -> None:
    """Remove a file, or a folder with all that is in it."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def readable(size: int) -> str:
    """A number of bytes for people.

    >>> readable(217_400_000_000), readable(12_345_678), readable(900)
    ('217.4 GB', '12.3 MB', '0.9 kB')
    """
    for unit, scale in (("GB", 1e9), ("MB", 1e6)):
        if size >= scale:
            return f"{size / scale:,.1f} {unit}"
    return f"{size / 1e3:.1f} kB"
