"""Verdicts of earlier runs: the same program against the same tests, judged the same way, is not run again.

A verdict depends on the problem, the program, the language's toolchain, the mode, the time that was asked for, the kind of
box and the evaluator's own code; the cache is keyed by all of them. Time-outs are not kept, as another machine may be
quicker, nor what was killed perhaps for want of memory, nor anything without a sandbox, where a program could have written
it.

Every run appends to a file of its own and reads those of all, so that jobs on many nodes need no lock on a shared file
system. A line that was cut short is passed over.
"""

from __future__ import annotations

import json
import os
import secrets
import threading
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import IO

from megatron_ft import log
from megatron_ft.evaluation import toolchain_cache
from megatron_ft.evaluation.benchmark import Problem
from megatron_ft.evaluation.case import MEMORY_SHORT
from megatron_ft.evaluation.sandbox import Sandbox
from megatron_ft.evaluation.scenarios import Task
from megatron_ft.evaluation.toolchain_cache import digest
from megatron_ft.evaluation.verdict import Verdict

VARIABLE = "MEGATRON_FT_VERDICTS"
KEPT = ("passed", "failed", "compile error", "refused")
EVALUATOR = Path(__file__).parent


@dataclass(frozen=True)
class Circumstances:
    """What verdicts of one language depend on beside the problem and the program."""

    language: str
    mode: str
    toolchain: Mapping[str, str]
    """Tool -> version."""
    sandbox: Sandbox
    timeout_s: float
    """As it was asked for: limits that follow the machine's speed mean the same work everywhere."""

    def folder(self) -> str:
        """The name of the folder of these verdicts."""
        told = [self.language, self.mode, sorted(self.toolchain.items()), repr(self.sandbox), self.timeout_s, own_digest()]
        return f"{self.language}-{self.mode}-{digest(json.dumps(told))[:16]}"


class VerdictCache:
    """The verdicts of one language under the same circumstances; to be used by several threads."""

    def __init__(self, circumstances: Circumstances) -> None:
        self.path = root() / circumstances.folder()
        self._known = dict(_read(self.path))
        self._lock = threading.Lock()
        self._stream: IO[str] | None = None
        self._writable = True

    def get(self, task: Task, program: str) -> Verdict | None:
        """What was said of this program before."""
        return self._known.get(key(task, program))

    def put(self, task: Task, program: str, verdict: Verdict) -> None:
        """Keep a verdict, if it is one that holds elsewhere; a folder that cannot be written is warned of once."""
        if verdict.status not in KEPT or MEMORY_SHORT in verdict.reason:
            return
        name = key(task, program)
        with self._lock:
            self._known[name] = verdict
            if not self._writable:
                return
            try:
                self._append(json.dumps({"key": name, **asdict(verdict)}) + "\n")
            except OSError as error:
                self._writable = False
                log.get().warning(f"verdicts are not kept for later runs: {error}; name another folder in ${VARIABLE}")

    def close(self) -> None:
        """End the file of this run."""
        if self._stream is not None:
            self._stream.close()

    def _append(self, line: str) -> None:
        if self._stream is None:
            self.path.mkdir(parents=True, exist_ok=True)
            self._stream = (self.path / f"{secrets.token_hex(8)}.jsonl").open("x", encoding="utf-8")
        self._stream.write(line)
        self._stream.flush()


def root() -> Path:
    """Where verdicts lie: $MEGATRON_FT_VERDICTS, else beside the toolchains' cache."""
    return Path(os.environ.get(VARIABLE) or toolchain_cache.root() / "verdicts")


def key(task: Task, program: str) -> str:
    """What tells a program and its tests apart.

    A problem's tests are the same in every scenario; what stands before a program's own text may not be.
    """
    return digest("\0".join((_of_problem(task.problem), digest(task.base), digest(program))))


@cache
def _of_problem(problem: Problem) -> str:
    return digest(repr(problem))


@cache
def own_digest() -> str:
    """Of all that the evaluator consists of."""
    files = sorted(path for path in EVALUATOR.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return digest("\0".join(f"{path.relative_to(EVALUATOR)}\0{sha256(path.read_bytes()).hexdigest()}" for path in files))


def _read(folder: Path) -> Iterator[tuple[str, Verdict]]:
    for path in sorted(folder.glob("*.jsonl")):
        try:
            data = path.read_bytes()
        except OSError as error:
            log.get().warning(f"verdicts of earlier runs cannot be read: {error}")
            continue
        for line in data.splitlines():
            try:
                row = json.loads(line)
                yield row.pop("key"), Verdict(**row)
            except (ValueError, KeyError, TypeError, AttributeError):
                continue  # cut short, or written by something else: its program is run again
