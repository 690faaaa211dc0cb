"""Compiles a program in a box: the source goes in on stdin, what was built comes out on stdout.

Nothing of the machine can be written from inside, and the source lies under no name there, so that a program cannot
read (`#include`, `include_str!`, `.incbin`) the file that it is compiled in.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from megatron_ft.evaluation import case
from megatron_ft.evaluation.sandbox import Box, Sandbox
from megatron_ft.evaluation.supervise import Stream, started, watch

OUTPUT_TAIL = 4000


@dataclass(frozen=True)
class Built:
    """What a compiler made of a source."""

    data: bytes
    """What it wrote to stdout; empty if it failed."""
    status: str
    """Empty if it succeeded, else the verdict's status."""
    reason: str
    output: str
    """The end of what it wrote to stderr."""
    seconds: float


def build(sandbox: Sandbox, box: Box, script: str, source: bytes) -> Built:
    """Run a shell script that compiles stdin and writes what it made to stdout, messages to stderr.

    It begins in an empty folder.

    >>> from megatron_ft.evaluation.sandbox import find
    >>> build(find(), Box(), "tr a-z A-Z", b"source").data
    b'SOURCE'
    """
    limits = box.limits
    if sandbox.tool == "none":  # a box has a /tmp of its own to begin in
        script = f'folder=$(mktemp -d) && trap "rm -r $folder" EXIT && cd "$folder" && {script}'
    reading, writing = os.pipe()
    made = Stream(reading, limit=limits.file_bytes, keep=limits.file_bytes)
    try:
        with started(sandbox, box, ["/bin/sh", "-c", script], stdin=source, stdout=writing) as running:
            os.close(writing)
            writing = -1
            how = watch([made, running.output], [made, running.output], running.started + limits.wall_s, guarded=running)
            status = running.status(within_s=5) if how == "ended" else None
            timed_out = case.out_of_cpu(running, status, limits)
            seconds = round(time.monotonic() - running.started, 3)
        output = running.output.text
    finally:
        for descriptor in (writing, reading if made.open else -1):
            if descriptor >= 0:
                os.close(descriptor)
    if how != "ended":
        return Built(b"", *case.stopped(how, limits), output, seconds)
    if timed_out:
        return Built(b"", "timeout", f"the compiler used more than {limits.cpu_s:g} s of cpu time", output, seconds)
    if status != 0 or not made.count:
        return Built(b"", "compile error", _first_error(output) or f"the compiler left with {status}", output, seconds)
    return Built(made.tail, "", "", output, seconds)


def _first_error(output: str) -> str:
    """The line of a compiler's messages that says most.

    >>> _first_error("In file included from x:\\n<stdin>:3:4: error: expected ';'\\n   3 | }")
    "<stdin>:3:4: error: expected ';'"
    """
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line.lower()), lines[0] if lines else "")
