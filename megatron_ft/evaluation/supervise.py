"""Starts boxes, reads what they write without ever keeping much of it, and kills them as a tree."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO

from megatron_ft.errors import EvaluationError
from megatron_ft.evaluation.sandbox import Box, Sandbox

TAIL_BYTES = 4000
READ_BYTES = 2**16
DEATH_S = 5
OUT_OF_CPU = (128 + signal.SIGXCPU, -signal.SIGXCPU)


@dataclass
class Stream:
    """What came out of one pipe: how much, and the last `keep` bytes of it."""

    descriptor: int
    limit: int
    keep: int = TAIL_BYTES
    count: int = 0
    tail: bytes = b""
    open: bool = True

    def read(self) -> None:
        """Take what is there; closes at the end of the pipe."""
        data = os.read(self.descriptor, READ_BYTES)
        self.count += len(data)
        self.tail = (self.tail + data)[-self.keep:]
        if not data:
            self.open = False
            os.close(self.descriptor)

    @property
    def text(self) -> str:
        """The end of what was written."""
        return self.tail.decode("utf-8", "replace")


@dataclass
class Running:
    """One box: its process, its output (stdout and stderr together), when it started."""

    process: subprocess.Popen
    output: Stream
    started: float = field(default_factory=time.monotonic)

    def status(self, within_s: float) -> int | None:
        """Its exit status, waited for up to `within_s` seconds; None if it still runs then."""
        try:
            return self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            return None


@contextlib.contextmanager
def started(sandbox: Sandbox, box: Box, argv: Sequence[str], *, stdin: bytes = b"",
            keep: Sequence[int] = ()) -> Iterator[Running]:
    """Run `argv` in a new box until the block ends; then every process of the box is dead and waited for.

    Args:
        stdin: what the program finds on its standard input, from a file that has no name.
        keep: descriptors that the program gets, under the same numbers.
    """
    with tempfile.TemporaryFile() as source:
        source.write(stdin)
        source.seek(0)
        running = _start(sandbox.command(box, list(argv)), source, keep, box.limits.output_bytes)
    try:
        yield running
    finally:
        kill(running)


def _start(command: list[str], source: IO[bytes], keep: Sequence[int], output_bytes: int) -> Running:
    reading, writing = os.pipe()
    try:
        process = subprocess.Popen(command, stdin=source, stdout=writing, stderr=writing, pass_fds=tuple(keep),
                                   cwd="/", start_new_session=True)
    except OSError as error:
        os.close(reading)
        raise EvaluationError(f"a box could not be started: {error}") from error
    finally:
        os.close(writing)
    return Running(process, Stream(reading, output_bytes))


def watch(streams: Sequence[Stream], until: Sequence[Stream], deadline: float) -> str:
    """Read the streams until those of `until` have ended.

    Returns:
        "ended", "timeout" when the deadline (time.monotonic) came first, or "flood" when one wrote over its limit.
    """
    with selectors.DefaultSelector() as selector:
        for stream in streams:
            if stream.open:
                selector.register(stream.descriptor, selectors.EVENT_READ, stream)
        while any(stream.open for stream in until):
            left = deadline - time.monotonic()
            ready = selector.select(max(left, 0))
            if left <= 0:
                return "timeout"
            for key, _ in ready:
                selector.unregister(key.fd)
                key.data.read()
                if key.data.count > key.data.limit:
                    return "flood"
                if key.data.open:
                    selector.register(key.fd, selectors.EVENT_READ, key.data)
    return "ended"


def kill(running: Running) -> None:
    """Kill the box's outermost process, which takes the whole box with it, and wait until all of it is gone."""
    if running.process.returncode is None:  # not waited for yet, so its id is still its own
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.process.pid, signal.SIGKILL)
    running.process.kill()
    running.process.wait()
    deadline = time.monotonic() + DEATH_S
    while running.output.open and time.monotonic() < deadline:  # every process of the box holds this pipe
        running.output.limit = running.output.count + 2**40
        watch([running.output], [running.output], deadline)
    if running.output.open:
        running.output.open = False
        os.close(running.output.descriptor)
