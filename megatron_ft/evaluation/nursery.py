"""Boxes in which processes are forked for one program after the other; `python_inside/nursery.py` is what runs in them.

To make a box takes 12 ms of cpu time, as it runs six commands one after the other; to fork a process in one that stands, into
namespaces of its own, takes 2.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from megatron_ft.errors import EvaluationError
from megatron_ft.evaluation import interpreter, seccomp
from megatron_ft.evaluation.box import Box, processes_allowed, resource_limits
from megatron_ft.evaluation.box_commands import variables
from megatron_ft.evaluation.sandbox import Sandbox
from megatron_ft.evaluation.supervise import DEATH_S, MARK, Scheduled, Stream, drain, to_read

COMMAND = "command"
READY_S = 60
SCHEDULED_KEPT_S = 1.0
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
    peak_bytes: int = 0
    """The most memory that a look has seen in use."""
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
        """Keep what a look has seen; of cpu time it sees the nursery's own too, which tells itself what this process took."""
        self.peak_bytes = max(self.peak_bytes, memory_bytes)

    def status(self, within_s: float) -> int | None:
        """Its exit status, waited for up to `within_s` seconds; None if it still runs then, the nursery's if that is gone."""
        if self._status is None:
            self._status, self.cpu_s = self.nursery.answer(within_s) or (None, 0.0)
        return self._status


class Nursery:
    """One box, for one thread at a time: it dies with the thread that made it."""

    def __init__(self, sandbox: Sandbox, box: Box, runs: str = COMMAND, *, with_numpy: bool = False) -> None:
        """Start it; EvaluationError with what it said if it does not come up.

        Args:
            box: what its processes find around them.
            runs: what they are: commands, or a script of python's.
            with_numpy: load it once for all of them.
        """
        self._limits = box.limits
        self._looked, self._had = -SCHEDULED_KEPT_S, Scheduled()
        ours = box if runs != COMMAND else replace(
            box, read_only={**interpreter.shown(), **box.read_only}, environment=interpreter.environment([interpreter.INSIDE]))
        uid = sandbox.next_uid()
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  # open as long as the nursery
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = sandbox.privileged_command(ours, [*interpreter.argv("nursery"), str(theirs.fileno())])
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self._said, stderr=self._said,
                                            pass_fds=(theirs.fileno(),), cwd="/", start_new_session=True)
        limits = resource_limits(box.limits, processes_allowed(box.limits, uid))
        setup = {"runs": runs, "numpy": with_numpy, "uid": uid, "locked": sandbox.locked, "tmp_bytes": box.limits.file_bytes,
                 "filter": seccomp.program(box_stands=True).hex() if sandbox.filtered else "", "limits": limits,
                 "mark": MARK.decode(), "environment": variables(box)}
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
    def started(self, argv: Sequence[str] = (), *, stdin: bytes, keep: Sequence[int] = (), stdout: int | None = None,
                executable: Path | None = None, hello: bytes = b"") -> Iterator[Forked]:
        """Run a process until the block ends; then it and all that it started are dead.

        Args:
            argv: a command, to which the numbers of the kept descriptors are appended.
            stdin: what it finds on its standard input.
            keep: descriptors that it gets, under other numbers.
            stdout: where its standard output goes, if not to where stderr goes.
            executable: what to execute in place of the first word; it need not be in the box.
            hello: what goes to the last of the kept descriptors once the process has given up its rights.
        """
        order = {"argv": list(argv), "executes": executable is not None, "hello": hello.hex()}
        with contextlib.ExitStack() as stack:
            source = stack.enter_context(to_read(stdin))
            program = [stack.enter_context(executable.open("rb")).fileno()] if executable else []
            reading, writing = os.pipe()
            stack.callback(os.close, writing)
            forked = Forked(self, Stream(reading, self._limits.output_bytes), self._limits.memory_bytes, self._scheduled())
            standard = [source, writing if stdout is None else stdout, writing]
            try:
                socket.send_fds(self._control, [json.dumps(order).encode()], [*standard, *program, *keep])
            except OSError:
                self.close()  # its end is seen by whoever waits for the pipes
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

    def _scheduled(self) -> Scheduled:
        """What its processes have had, a second ago at most: to ask takes longer than to fork."""
        now = time.monotonic()
        if now - self._looked > SCHEDULED_KEPT_S:
            self._looked, self._had = now, Scheduled.of(self.process.pid)
        return self._had

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


class Nurseries:
    """The nurseries of one sandbox: for each thread one of each kind, made when it is first asked for."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._mine = threading.local()
        self._left: dict[str, list[Nursery]] = defaultdict(list)

    def get(self, box: Box, half: str, runs: str = COMMAND, *, with_numpy: bool = False) -> Nursery | None:
        """This thread's nursery for such a box and for one half of a case, alive; None without a sandbox.

        A nursery has one process at a time, and the halves of a case run together. For `runs` see Nursery.
        """
        if self._sandbox.tool == "none":
            return None
        kind = repr((box, half, runs, with_numpy))
        mine, left = vars(self._mine), self._left[kind]
        while kind not in mine or not mine[kind].alive:
            try:
                mine[kind] = left.pop()
            except IndexError:
                mine[kind] = Nursery(self._sandbox, box, runs, with_numpy=with_numpy)
        return mine[kind]

    def leave(self) -> None:
        """Let this thread's be those of whichever threads ask next; they die with it all the same."""
        for kind, nursery in vars(self._mine).items():
            self._left[kind].append(nursery)
        vars(self._mine).clear()
