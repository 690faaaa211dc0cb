"""The folder of a run while it is made: what has been generated and judged so far survives whatever ends the process."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from megatron_ft import log
from megatron_ft.errors import ConfigError

SAMPLES, RESULTS, IDENTITY = "samples.jsonl", "results.jsonl", "run.json"
Key = tuple[str, str, int]
"""task_id, scenario and number of a sample."""


class RunFolder:
    """A hidden folder beside the output, which becomes the output when the run is whole.

    The same command goes on with what is in it. A line that was cut short is dropped, and so made again.
    """

    def __init__(self, output: Path, identity: Mapping[str, Any]) -> None:
        """Begin, or go on with a run of the same identity; ConfigError for another one's, or while a process holds it."""
        self.output, self.identity = output, dict(identity)
        self.path = output.parent / f".{output.name}.partial"
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._held = self._hold()
        self._require_the_same_run()
        self.samples = self._read(SAMPLES)
        self.results = self._read(RESULTS)
        self._streams = {name: (self.path / name).open("a", encoding="utf-8") for name in (SAMPLES, RESULTS)}
        if self.samples or self.results:
            log.get().info(f"going on with {len(self.samples)} samples and {len(self.results)} verdicts of {self.path}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for stream in self._streams.values():
            stream.close()
        if kind is not None and not any("tokens" in row for row in self.samples.values()):
            shutil.rmtree(self.path, ignore_errors=True)  # nothing in it took a model's time
        elif kind is not None:
            log.get().warning(f"{len(self.samples)} samples are kept in {self.path}; the same command goes on from there")
        self._held.close()

    def add_sample(self, row: Mapping[str, Any]) -> None:
        """Keep one sample: task_id, scenario, sample and what belongs to it."""
        self._add(SAMPLES, self.samples, row)

    def add_result(self, row: Mapping[str, Any]) -> None:
        """Keep one verdict."""
        self._add(RESULTS, self.results, row)

    def finish(self, order: list[Key]) -> None:
        """Bring the rows into this order and move the folder to its place."""
        for name, rows in ((SAMPLES, self.samples), (RESULTS, self.results)):
            self._streams[name].close()
            sorted_file = self.path / f".{name}"
            with sorted_file.open("w", encoding="utf-8") as stream:
                stream.writelines(json.dumps(rows[key]) + "\n" for key in order if key in rows)
                stream.flush()
                os.fsync(stream.fileno())
            sorted_file.replace(self.path / name)
        self.path.rename(self.output)

    def _add(self, name: str, rows: dict[Key, dict], row: Mapping[str, Any]) -> None:
        with self._lock:
            rows[_key(row)] = dict(row)
            self._streams[name].write(json.dumps(row) + "\n")
            self._streams[name].flush()

    def _hold(self) -> Any:
        stream = (self.path / ".lock").open("w")
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"--output: another process is writing {self.path}; wait for it or name another path") from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EINVAL):  # a file system without locks
                raise
        return stream

    def _require_the_same_run(self) -> None:
        place = self.path / IDENTITY
        known = None
        with contextlib.suppress(FileNotFoundError, ValueError):
            known = json.loads(place.read_text(encoding="utf-8"))
        if known is None:
            place.write_text(json.dumps(self.identity, indent=2) + "\n", encoding="utf-8")
            return
        mine = json.loads(json.dumps(self.identity))
        other = [f"{name}: {known.get(name)!r} there, {mine.get(name)!r} here" for name in sorted({*known, *mine})
                 if known.get(name) != mine.get(name)]
        if other:
            self._held.close()
            raise ConfigError(f"--output: {self.path} holds the beginning of another run ({'; '.join(other)}); give the same "
                              "options to go on with it, remove it, or name another path")

    def _read(self, name: str) -> dict[Key, dict]:
        """The whole rows of a file; what was cut short at its end is cut off, so that rows can be appended."""
        path = self.path / name
        if not path.exists():
            return {}
        found: dict[Key, dict] = {}
        whole = 0
        data = path.read_bytes()
        for line in _lines(data):
            try:
                row = json.loads(line)
                found[_key(row)] = row
            except (ValueError, KeyError, TypeError):
                break
            whole += len(line)
        if whole < len(data):
            with path.open("r+b") as stream:
                stream.truncate(whole)
        return found


def _lines(data: bytes) -> Iterator[bytes]:
    """Lines that end in a line break."""
    return (line for line in data.splitlines(keepends=True) if line.endswith(b"\n"))


def _key(row: Mapping[str, Any]) -> Key:
    return row["task_id"], row["scenario"], row["sample"]
