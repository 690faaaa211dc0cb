"""Starts boxes, reads what they write without ever keeping much of it, and kills them as a tree."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from megatron_ft.errors import EvaluationError
from megatron_ft.evaluation.box import Box, Limits
from megatron_ft.evaluation.sandbox import Sandbox
from megatron_ft.evaluation.scratch import Scratch
from megatron_ft.evaluation.tmp_memory import held_bytes

TAIL_BYTES = 4000
READ_BYTES = 2**16
DEATH_S = 5
PATIENCE = 10  # times its seconds that a box may get on a machine that has no core for it
STARVED = 0.1  # share of its seconds for which a thread was ready to run and did not, where that is so
ENOUGH = 0.5  # share of its seconds that a program may run, all its processes together, and count as starved
LOOK_EVERY_S = 0.2  # between two looks at a box's memory
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
MARK = b"\x01up\n"
"""What a box writes before anything of a program: without it, it did not come up."""
ANNOUNCE = r"printf '\001up\n'"
"""The shell's command for it."""
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
KILLED = (128 + signal.SIGKILL, -signal.SIGKILL)
OUT_OF_CPU = (128 + signal.SIGXCPU, -signal.SIGXCPU)


@dataclass
class Stream:
    """What came out of one pipe: how much, and the last `keep` bytes of it."""

    descriptor: int
    limit: int
    keep: int = TAIL_BYTES
    count: int = 0
    open: bool = True
    head: bytes = b""
    """The first bytes of it, as many as a mark has."""
    _kept: bytearray = field(default_factory=bytearray)

    def read(self) -> None:
        """Take what is there; closes at the end of the pipe."""
        data = os.read(self.descriptor, READ_BYTES)
        self.count += len(data)
        self.head += data[:len(MARK) - len(self.head)]
        self._kept += data
        if len(self._kept) > 2 * self.keep:
            del self._kept[:-self.keep]
        if not data:
            self.open = False
            os.close(self.descriptor)

    @property
    def tail(self) -> bytes:
        """The end of what was written."""
        return bytes(self._kept[-self.keep:])

    @property
    def text(self) -> str:
        """The same as text."""
        return self.tail.decode("utf-8", "replace")


@dataclass(frozen=True)
class Scheduled:
    """What processes have had of the machine's cores."""

    ran_s: float = 0.0
    """CPU seconds of all of them, and of those that have ended and were waited for."""
    waits_s: Mapping[str, float] = field(default_factory=dict)
    """Thread -> for how long it was ready to run and had no core; nothing where the kernel does not count it."""

    @classmethod
    def of(cls, pid: int) -> Scheduled:
        """A process and all that descend from it, until now."""
        processes, waits = family(pid), {}
        for each in processes:
            with contextlib.suppress(OSError):
                for thread in Path(f"/proc/{each}/task").iterdir():
                    waits[thread.name] = int(_read(f"{thread}/schedstat", "0 0").split()[1]) / 1e9
        return cls(sum(cpu_s(each, waited_for=True) for each in processes), waits)

    def longest_wait_s(self, before: Scheduled) -> float:
        """What the thread that waited longest has waited since then."""
        return max((waited - before.waits_s.get(thread, 0) for thread, waited in self.waits_s.items()), default=0.0)


@dataclass
class Running:
    """One box: its process, its output (stdout and stderr together), when it started."""

    process: subprocess.Popen
    output: Stream
    memory_bytes: int
    started: float = field(default_factory=time.monotonic)
    scheduled_before: Scheduled = Scheduled()
    """What its processes had had when it started."""
    peak_bytes: int = 0
    """The most memory that a look has seen in use."""
    cpu_s: float = 0.0
    """The cpu time of its busiest process at the last look."""

    @property
    def pid(self) -> int:
        """The outermost process, of which all others descend."""
        return self.process.pid

    @property
    def lost(self) -> bool:
        """Whether it is gone with what ran it; never, as this box holds one program."""
        return False

    @property
    def said(self) -> str:
        """The end of what it wrote."""
        return self.output.text

    def note(self, memory_bytes: int, cpu_s: float) -> None:
        """Keep what a look has seen."""
        self.peak_bytes, self.cpu_s = max(self.peak_bytes, memory_bytes), max(self.cpu_s, cpu_s)

    def status(self, within_s: float) -> int | None:
        """Its exit status, waited for up to `within_s` seconds; None if it still runs then."""
        try:
            return self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            return None


@contextlib.contextmanager
def started(sandbox: Sandbox, box: Box, argv: Sequence[str], *, stdin: bytes = b"", keep: Sequence[int] = (),
            stdout: int | None = None) -> Iterator[Running]:
    """Run `argv` in a new box until the block ends; then every process of the box is dead and waited for.

    Without a sandbox it begins in a folder of its own, which is removed.

    Args:
        stdin: what the program finds on its standard input.
        keep: descriptors that the program gets, under the same numbers.
        stdout: where its standard output goes, if not to where stderr goes.
    """
    with contextlib.ExitStack() as stack:
        folder = "/tmp"  # of the box
        if sandbox.tool == "none":
            folder = str(stack.enter_context(contextlib.closing(Scratch("megatron_ft-run"))).path)
        with to_read(stdin) as source:
            running = _start(sandbox.command(box, argv, keep, folder), source, keep, stdout, box.limits)
        try:
            yield running
        finally:
            kill(running)


@contextlib.contextmanager
def to_read(content: bytes) -> Iterator[int]:
    """A descriptor to read this from and for nothing else: behind one for writing a program could fill the disk."""
    with contextlib.ExitStack() as stack:
        reading, writing = os.pipe()
        stack.callback(os.close, reading)
        with open(writing, "wb", buffering=0) as pipe:
            os.set_blocking(writing, False)
            fits = not content or pipe.write(content) == len(content)
        if not fits:
            written = stack.enter_context(tempfile.TemporaryFile())
            written.write(content)
            written.flush()
            reading = stack.enter_context(open(f"/proc/self/fd/{written.fileno()}", "rb")).fileno()
        yield reading


def _start(command: list[str], source: int, keep: Sequence[int], stdout: int | None, limits: Limits) -> Running:
    begun = time.monotonic()  # not when Popen returns: its process may have waited long for a core by then
    reading, writing = os.pipe()
    try:
        process = subprocess.Popen(command, stdin=source, stdout=writing if stdout is None else stdout, stderr=writing,
                                   pass_fds=tuple(keep), cwd="/", start_new_session=True)
    except OSError as error:
        os.close(reading)
        raise EvaluationError(f"a box could not be started: {error}") from error
    finally:
        os.close(writing)
    return Running(process, Stream(reading, limits.output_bytes), limits.memory_bytes, begun)


def watch(streams: Sequence[Stream], until: Sequence[Stream], deadline: float, guarded: Running | None = None,
          others: Sequence[Running] = ()) -> str:
    """Read the streams until those of `until` have ended.

    Args:
        deadline: of the guarded box (time.monotonic); later on a machine that has no core for it, see `extended`.
        others: boxes that the guarded one waits for.

    Returns:
        "ended", "timeout" when the deadline (time.monotonic) came first, "flood" when a stream went over its limit, or
        "memory" when the processes of the guarded box did so together.
    """
    looked, is_last = time.monotonic(), False
    with selectors.PollSelector() as selector:
        for stream in streams:
            if stream.open:
                selector.register(stream.descriptor, selectors.EVENT_READ, stream)
        while any(stream.open for stream in until):
            left = deadline - time.monotonic()
            ready = selector.select(min(max(left, 0), LOOK_EVERY_S))
            if left <= 0:
                later = deadline if guarded is None or is_last else extended(deadline, [guarded, *others])
                if later <= deadline:
                    return "timeout"
                deadline, is_last = later, True
            if guarded is not None and time.monotonic() - looked > LOOK_EVERY_S:
                looked = time.monotonic()
                if over_memory(guarded):
                    return "memory"
            for key, _ in ready:
                key.data.read()
                if key.data.count > key.data.limit:
                    return "flood"
                if not key.data.open:
                    selector.unregister(key.fd)
    return "ended"


def extended(deadline: float, boxes: Sequence[Running]) -> float:
    """A deadline, put off to PATIENCE times the seconds if one of its boxes has lacked a core for a good part of them.

    Not if the first, which may be hostile, got much of them: its processes then fight each other.
    """
    allowed = deadline - boxes[0].started
    now = [Scheduled.of(box.pid) for box in boxes]
    waited_s = max(each.longest_wait_s(box.scheduled_before) for each, box in zip(now, boxes, strict=True))
    ran_s = now[0].ran_s - boxes[0].scheduled_before.ran_s
    starved = waited_s > STARVED * allowed and ran_s < ENOUGH * allowed
    return boxes[0].started + PATIENCE * allowed if starved else deadline


def over_memory(guarded: Running) -> bool:
    """Look at a box: whether its processes and its /tmp use more memory together than they may."""
    processes = family(guarded.pid)
    in_tmp = held_bytes(processes[-1])  # the outermost may still be those that make the box
    resident = sum(resident_bytes(each) for each in processes) + in_tmp
    guarded.note(resident, max(map(cpu_s, processes)))
    # Adding up each process's share of what they have in common takes longer, so it is done last.
    return resident > guarded.memory_bytes and sum(map(shared_out_bytes, processes)) + in_tmp > guarded.memory_bytes


def resident_bytes(pid: int) -> int:
    """The memory of a process; nothing if it ended meanwhile."""
    return int(_read(f"/proc/{pid}/statm", "0 0").split()[1]) * PAGE_BYTES


def shared_out_bytes(pid: int) -> int:
    """The same, of pages that several processes have its share only; where this cannot be read, as `resident_bytes`."""
    told = _read(f"/proc/{pid}/smaps_rollup", "").partition("\nPss:")[2].split(None, 1)
    return int(told[0]) * 1024 if told else resident_bytes(pid)


def cpu_s(pid: int, *, waited_for: bool = False) -> float:
    """The cpu time of a process, and if `waited_for` of its children that have ended; nothing if it ended meanwhile."""
    fields = _read(f"/proc/{pid}/stat", "").rpartition(")")[2].split()  # its name may hold anything
    return sum(map(int, fields[11:15 if waited_for else 13])) / CLOCK_TICKS


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    found = [pid]
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += [each for child in _read(f"{task}/children", "").split() for each in family(int(child))]
    return found


def _read(path: str, otherwise: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return otherwise


def kill(running: Running) -> None:
    """Kill the box's outermost process, which takes the whole box with it, and wait until all of it is gone."""
    if running.process.returncode is None:  # not waited for yet, so its id is still its own
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.process.pid, signal.SIGKILL)
    running.process.kill()
    running.process.wait()
    drain(running.output)


def drain(output: Stream) -> None:
    """Read a dead box's output to its end, which shows that all of the box is gone, as every process of it holds the pipe."""
    deadline = time.monotonic() + DEATH_S
    while output.open and time.monotonic() < deadline:
        output.limit = output.count + 2**40
        watch([output], [output], deadline)
    if output.open:
        output.open = False
        os.close(output.descriptor)
