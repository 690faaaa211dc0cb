"""An output folder that is being written: beside its place, by one process, and to be gone on with after an interruption."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from megatron_ft import cli, log
from megatron_ft.errors import CheckpointError, ConfigError
from megatron_ft.families.architecture import Architecture
from megatron_ft.runtime import checkpoint_files

JOURNAL_FILE = ".journal.jsonl"
_VERSION = 1


class Journal:
    """What of a folder has been written, a line each; the first line says what the folder is to become."""

    def __init__(self, path: Path, purpose: dict[str, Any]) -> None:
        """Go on with a journal of the same purpose, or begin one. ConfigError while another process holds it."""
        self.done: dict[str, dict[str, Any]] = {}
        """Name -> what `add` was told about it, by this process or one before."""
        self._lock = threading.Lock()
        self._stream = path.open("a+", encoding="utf-8")
        cli.hold(self._stream, path.parent)
        head = json.dumps({"version": _VERSION, **purpose}, sort_keys=True)
        self._stream.seek(0)
        lines = self._stream.read().split("\n")
        self.continued = lines[0] == head
        if self.continued:
            for line in lines[1:-1]:  # the last is empty, or was cut short
                with contextlib.suppress(ValueError, KeyError):
                    entry = json.loads(line)
                    self.done[entry.pop("name")] = entry
        self._stream.truncate(0)
        self._stream.write(head + "\n" + "".join(_line(name, entry) for name, entry in self.done.items()))
        self._stream.flush()

    def add(self, name: str, entry: dict[str, Any]) -> None:
        """Note that something has been written."""
        with self._lock:
            self.done[name] = entry
            self._stream.write(_line(name, entry))
            self._stream.flush()

    def close(self) -> None:
        """Let others have it."""
        self._stream.close()


def _line(name: str, entry: dict[str, Any]) -> str:
    return json.dumps({"name": name, **entry}) + "\n"


@contextlib.contextmanager
def folder(final: Path, *, purpose: dict[str, Any], needed_bytes: int) -> Iterator[tuple[Path, Journal]]:
    """A hidden folder beside `final` that becomes `final` when the block ends well.

    After an error in the input it vanishes. After any other end (a full disk, a signal, a crash) it stays, and the next call
    with the same purpose goes on with it: whoever writes checks what the journal says is there.

    Args:
        purpose: what decides the content: inputs with their fingerprints, options.
        needed_bytes: of the whole output; ConfigError where the file system has less room.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    partial = final.parent / checkpoint_files.HIDDEN_PARTIAL.format(final.name)
    held = sum(path.stat().st_blocks * 512 for path in partial.rglob("*") if path.is_file()) if partial.is_dir() else 0
    free = checkpoint_files.free_bytes(final.parent) + held
    if free < needed_bytes:
        raise ConfigError(f"--output: {final} takes {checkpoint_files.readable(needed_bytes)}, but {final.parent} has only "
                          f"{checkpoint_files.readable(free)} free; make room or name another place")
    partial.mkdir(exist_ok=True)
    journal = Journal(partial / JOURNAL_FILE, purpose)
    if not journal.continued:
        _empty(partial)
    elif journal.done:
        log.get().info("going on with %s, where %d tensors have been written", partial, len(journal.done))
    try:
        yield partial, journal
        _make_last(partial)
        partial.rename(final)  # until then the journal says what is there, and keeps others away
        (final / JOURNAL_FILE).unlink()
        checkpoint_files.sync_folder(final.parent)
    except CheckpointError:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    except BaseException:
        if journal.done:
            log.get().warning("%d tensors are in %s: the same command goes on from there; to give up, remove it",
                              len(journal.done), partial)
        else:
            shutil.rmtree(partial, ignore_errors=True)
        raise
    finally:
        journal.close()


def _empty(partial: Path) -> None:
    """Remove what another purpose has left."""
    for path in partial.iterdir():
        if path.name != JOURNAL_FILE:
            checkpoint_files.delete(path)


def _make_last(partial: Path) -> None:
    """Let the content outlive a crash of the machine."""
    for path in sorted(partial.rglob("*")):
        if path.is_file():
            checkpoint_files.sync_file(path)
    for path in [partial, *(path for path in partial.rglob("*") if path.is_dir())]:
        checkpoint_files.sync_folder(path)


def stamps(folder: Path) -> dict[str, Any]:
    """What tells a folder from another one and from itself when it has changed, for a purpose."""
    files = [(path.name, path.stat()) for path in sorted(folder.rglob("*")) if path.is_file()]
    return {"of": str(folder.resolve()), "changed": [[name, about.st_size, about.st_mtime_ns] for name, about in files]}


def model(architecture: Architecture, companions: Path | None) -> dict[str, Any]:
    """What a converted model is beside its weights, for a purpose."""
    return {"model": dataclasses.asdict(architecture), "companions": None if companions is None else stamps(companions)}
