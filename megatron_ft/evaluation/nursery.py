"""Boxes in which processes are forked for one program after the other; `python_inside/nursery.py` is what runs in them."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from megatron_ft.errors import EvaluationError
from megatron_ft.evaluation import seccomp
from megatron_ft.evaluation.box import Box, processes_allowed, resource_limits
from megatron_ft.evaluation.sandbox import Sandbox
from megatron_ft.evaluation.supervise import DEATH_S, MARK, Scheduled, Stream, drain

READY_S = 60
ANSWER_BYTES = 64


@dataclass
class Forked:
    """One process of a nursery: looked at as a box of its own is (`supervise.Running`)."""

    nursery: Nursery
    output: Stream
    memory_bytes: int
    scheduled_before: Scheduled
    """What the nursery's own processes had had when it started."""
    started: float = field(default_factory=time.monotonic)
    cpu_s: float = 0.0
    """The cpu time that it took, once it has ended."""
    _status: int | None = None

    @property
    def pid(self) -> int:
        """The outermost process, of which all others descend; the nursery's own are among them."""
        return self.nursery.process.pid

    @property
    def lost(self) -> bool:
        """Whether the nursery is gone, so that how the process ended says nothing about it."""
        return not self.nursery.alive

    @property
    def said(self) -> str:
        """The end of what it and the nursery itself wrote."""
        return self.output.text + self.nursery.said()

    def note(self, memory_bytes: int, cpu_s: float) -> None:
        """Looks see the nursery's own cpu time too; what this process took it tells itself."""

    def status(self, within_s: float) -> int | None:
        """Its exit status, waited for up to `within_s` seconds; None if it still runs then, the nursery's if that is gone."""
        if self._status is None:
            self._status, self.cpu_s = self.nursery.answer(within_s) or (None, 0.0)
        return self._status


class Nursery:
    """One box, for one thread: it dies with the thread that made it."""

    def __init__(self, sandbox: Sandbox, box: Box, argv: Sequence[str], half: str, *, with_numpy: bool) -> None:
        """Start it; EvaluationError with what it said if it does not come up.

        Args:
            argv: the command inside; the number of its socket is appended.
            half: which half of a case its processes are.
            with_numpy: load it once for all of them.
        """
        self._limits = box.limits
        uid = sandbox.next_uid()
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  # open as long as the nursery
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = sandbox.privileged_command(box, [*argv, str(theirs.fileno())])
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self._said, stderr=self._said,
                                            pass_fds=(theirs.fileno(),), cwd="/", start_new_session=True)
        setup = {"half": half, "numpy": with_numpy, "uid": uid, "locked": sandbox.locked, "tmp_bytes": box.limits.file_bytes,
                 "filter": seccomp.program(box_stands=True).hex() if sandbox.filtered else "",
                 "mark": MARK.decode(), "limits": resource_limits(box.limits, processes_allowed(box.limits, uid))}
        self._control.settimeout(READY_S)
        try:
            self._control.send(json.dumps(setup).encode())
            came_up = self._control.recv(ANSWER_BYTES) == b"ready"
        except OSError:
            came_up = False
        if not came_up:
            self.close()
            raise EvaluationError(f"a box that forks programs did not come up; it said: {self.said()}")

    @property
    def alive(self) -> bool:
        """Whether it can take an order."""
        return self.process.poll() is None

    @contextlib.contextmanager
    def started(self, *, stdin: bytes, keep: Sequence[int]) -> Iterator[Forked]:
        """Run a process until the block ends; then it and all that it started are dead."""
        reading, writing = os.pipe()
        forked = Forked(self, Stream(reading, self._limits.output_bytes), self._limits.memory_bytes,
                        Scheduled.of(self.process.pid))
        try:
            with tempfile.TemporaryFile() as source:
                source.write(stdin)
                source.seek(0)
                socket.send_fds(self._control, [b"run"], [source.fileno(), writing, *keep])
        except OSError:
            self.close()  # its end is seen by whoever waits for the pipes
        finally:
            os.close(writing)
        try:
            yield forked
        finally:
            self._end(forked)

    def answer(self, within_s: float) -> tuple[int, float] | None:
        """What the nursery tells of its process, exit status and cpu seconds; None if it has not told yet.

        A nursery that is gone tells nothing any more: its own exit status stands for it.
        """
        try:
            self._control.settimeout(max(within_s, 0.001))
            told = self._control.recv(ANSWER_BYTES)
        except TimeoutError:
            return None
        except OSError:
            told = b""
        if not told:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(DEATH_S)  # else it would be our own signal that ends it
            self.close()
            return self.process.returncode, 0.0
        status, cpu_s = told.split()
        return int(status), float(cpu_s)

    def close(self) -> None:
        """End the nursery and what runs in it."""
        self._control.close()
        self.process.kill()
        self.process.wait()

    def said(self) -> str:
        """The end of what the nursery itself wrote."""
        self._said.seek(0)
        return self._said.read()[-2000:].decode("utf-8", "replace").strip()

    def _end(self, forked: Forked) -> None:
        if forked.status(0) is None:
            with contextlib.suppress(OSError):
                self._control.send(b"kill")
            if forked.status(DEATH_S) is None:
                self.close()
        drain(forked.output)

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()
