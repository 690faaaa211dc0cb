"""The folder of a run while it is made: what has been generated and judged so far survives whatever ends the process."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import textwrap
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from megatron_ft import cli, log
from megatron_ft.errors import ConfigError, DataError

SAMPLES, RESULTS, IDENTITY, SUMMARY = "samples.jsonl", "results.jsonl", "run.json", "summary.json"
LOCK = ".lock"
SHOWN_CHARACTERS = 160  # of a value in an error: lists of problems are long
Key = tuple[str, str, int]
"""task_id, scenario and number of a sample."""


@dataclass(frozen=True)
class FinishedRun:
    """The folder of a run that is over, as it was read."""

    path: Path
    identity: Mapping[str, Any]
    summary: Mapping[str, Any]
    samples: Mapping[Key, Mapping]
    results: Mapping[Key, Mapping]

    @classmethod
    def read(cls, folder: str | Path) -> FinishedRun:
        """Read it; DataError says what is missing or damaged, and where."""
        path = Path(folder)
        partial = unfinished(path)
        if not path.is_dir():
            hint = f"; {partial.name} beside it is unfinished: give its command again" if partial.is_dir() else ""
            raise DataError(f"{path}: there is no such folder{hint}; name the --output of a finished run")
        return cls(path, _object(path / IDENTITY), _object(path / SUMMARY), _rows(path / SAMPLES), _rows(path / RESULTS))


class RunFolder:
    """A hidden folder beside the output, which becomes the output when the run is whole.

    The same command goes on with what is in it. A line that was cut short is dropped, and so made again.
    """

    def __init__(self, output: Path, identity: Mapping[str, Any]) -> None:
        """Begin, or go on with a run of the same identity; ConfigError for another one's, or while a process holds it."""
        self.output, self.identity = output, dict(identity)
        self.path = unfinished(output)
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._held = (self.path / LOCK).open("w")
        cli.hold(self._held, self.path)
        self._require_the_same_run()
        self.samples = self._read(SAMPLES)
        self.results = self._read(RESULTS)
        self._streams = {name: (self.path / name).open("a", encoding="utf-8") for name in (SAMPLES, RESULTS)}
        if self.samples or self.results:
            log.get().info(f"going on with {len(self.samples)} samples and {len(self.results)} verdicts of {self.path}")

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for stream in self._streams.values():
            stream.close()
        if kind is not None and (self.identity.get("solutions") or not self.samples):
            shutil.rmtree(self.path, ignore_errors=True)  # made again in a moment
        elif kind is not None:
            log.get().warning(f"{len(self.samples)} samples and {len(self.results)} verdicts are kept in {self.path}; the same "
                              "command goes on from there")
        self._held.close()

    def add_sample(self, row: Mapping[str, Any]) -> None:
        """Keep one sample: task_id, scenario, sample and what belongs to it."""
        self._add(SAMPLES, self.samples, row)

    def add_result(self, row: Mapping[str, Any]) -> None:
        """Keep one verdict."""
        self._add(RESULTS, self.results, row)

    def finish(self, order: Sequence[Key]) -> None:
        """Bring the rows into this order and move the folder to its place."""
        for name, rows in ((SAMPLES, self.samples), (RESULTS, self.results)):
            self._streams[name].close()
            write_rows(self.path / name, rows, order)
        self.path.rename(self.output)
        (self.output / LOCK).unlink(missing_ok=True)  # whoever waits for the name above finds that it is gone

    def _add(self, name: str, rows: dict[Key, dict], row: Mapping[str, Any]) -> None:
        with self._lock:
            rows[_key(row)] = dict(row)
            self._streams[name].write(json.dumps(row) + "\n")
            self._streams[name].flush()

    def _require_the_same_run(self) -> None:
        place = self.path / IDENTITY
        known = begun(self.output)
        if not known:
            place.write_text(json.dumps(self.identity, indent=2) + "\n", encoding="utf-8")
            return
        mine = json.loads(json.dumps(self.identity))
        other = differing(known, mine, "there", "here")
        if other:
            self._held.close()
            raise ConfigError(f"--output: {self.path} holds the beginning of another run ({other}); give the same "
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


def unfinished(output: Path) -> Path:
    """Where a run lies until it is whole."""
    return output.parent / f".{output.name}.partial"


def begun(output: Path) -> dict[str, Any]:
    """The identity of the run that was begun for this output; {} if none was."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        return json.loads((unfinished(output) / IDENTITY).read_text(encoding="utf-8"))
    return {}


def write_rows(path: Path, rows: Mapping[Key, Mapping], order: Sequence[Key]) -> None:
    """Put rows into a file in this order; a reader sees the old file or the new one."""
    partial = path.parent / f".{path.name}"
    with partial.open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(rows[key]) + "\n" for key in order if key in rows)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(path)


def differing(one: Mapping[str, Any], other: Mapping[str, Any], of_one: str, of_other: str) -> str:
    """What two settings differ in, with both values; "" where they are equal.

    >>> differing({"seed": 1, "mode": "fixed"}, {"seed": 2, "mode": "fixed"}, "there", "here")
    'seed: 1 there, 2 here'
    """
    def short(value: object) -> str:
        return textwrap.shorten(repr(value), SHOWN_CHARACTERS, placeholder=" ...")

    return "; ".join(f"{name}: {short(one.get(name))} {of_one}, {short(other.get(name))} {of_other}"
                     for name in sorted({*one, *other}) if one.get(name) != other.get(name))


def _object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise DataError(f"{path}: is missing; {path.parent} is not the whole --output of a finished run")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: not JSON: {error}; was it copied whole?") from error
    if not isinstance(found, dict):
        raise DataError(f"{path}: a JSON {type(found).__name__}, not an object; was it written by another program?")
    return found


def _rows(path: Path) -> dict[Key, dict]:
    if not path.is_file():
        raise DataError(f"{path}: is missing; {path.parent} is not the whole --output of a finished run")
    found: dict[Key, dict] = {}
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line:
            continue
        try:
            row = json.loads(line)
            key = _key(row)
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}:{number}: no row of a run ({type(error).__name__}: {error}); was it copied whole?"
                            ) from error
        if key in found:
            raise DataError(f"{path}:{number}: sample {key[2]} of {key[0]}/{key[1]} is there twice; take away the wrong row")
        found[key] = row
    return found


def _lines(data: bytes) -> Iterator[bytes]:
    """Lines that end in a line break."""
    return (line for line in data.splitlines(keepends=True) if line.endswith(b"\n"))


def _key(row: Mapping[str, Any]) -> Key:
    return row["task_id"], row["scenario"], row["sample"]
