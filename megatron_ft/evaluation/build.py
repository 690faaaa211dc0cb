"""Compiles a program in a box: the source goes in on stdin, what was built comes out on stdout.

Nothing of the machine can be written from inside, and the source lies under no name there, so that a program cannot
read (`#include`, `include_str!`, `.incbin`) the file that it is compiled in.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass, replace
from pathlib import Path

from megatron_ft.errors import EvaluationError
from megatron_ft.evaluation import case
from megatron_ft.evaluation.box import Box
from megatron_ft.evaluation.nursery import Nursery
from megatron_ft.evaluation.sandbox import Sandbox
from megatron_ft.evaluation.supervise import ANNOUNCE, KILLED, MARK, Stream, started, watch

# A driver says so of what it started, and leaves as it does after an error. A source can make it say anything, so that it
# counts only if the kernel has killed something meanwhile.
KILLED_PART = re.compile(r"Killed signal terminated program|terminated with signal 9|signal: 9|signal: killed", re.IGNORECASE)


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


def build(sandbox: Sandbox, box: Box, script: str, source: bytes, nursery: Nursery | None = None) -> Built:
    """Run a shell script that compiles stdin and writes what it made to stdout, messages to stderr.

    It begins in an empty folder, in a box made for it alone or forked by a nursery. A box that does not come up, or a compiler
    that is killed from outside, is no program's fault: it is tried again, and then an EvaluationError.

    >>> from megatron_ft.evaluation.sandbox import find
    >>> build(find(), Box(), "tr a-z A-Z", b"source").data
    b'SOURCE'
    """
    for _ in range(case.STARTS):
        attempt = _attempt(sandbox, box, script, source, nursery)
        if attempt.trouble is None:
            return attempt.built
    trouble = f"{attempt.trouble} in {case.STARTS} attempts"
    if attempt.peak_bytes > box.limits.memory_bytes / 2:  # no program's compiler takes that much, if it is not made to
        return replace(attempt.built, status="refused", reason=f"{trouble}, when it used {attempt.peak_bytes} bytes")
    raise EvaluationError(f"{trouble}; the most memory that it was seen to use is {attempt.peak_bytes} of the "
                          f"{box.limits.memory_bytes} bytes that it may. Give the job more memory, or run fewer programs at a "
                          f"time (--workers). It said: {attempt.built.output}")


@dataclass(frozen=True)
class _Attempt:
    """One run of a compiler."""

    built: Built
    trouble: str | None
    """What happened to it that is not the source's doing."""
    peak_bytes: int


def _attempt(sandbox: Sandbox, box: Box, script: str, source: bytes, nursery: Nursery | None) -> _Attempt:
    limits = box.limits
    reading, writing = os.pipe()
    most = limits.file_bytes + len(MARK)
    made = Stream(reading, limit=most, keep=most)
    ooms = oom_kills()
    try:
        argv = ["/bin/sh", "-c", f"{ANNOUNCE}\n{script}"]
        with (nursery.started(argv, stdin=source, stdout=writing) if nursery is not None else
              started(sandbox, box, argv, stdin=source, stdout=writing)) as running:
            os.close(writing)
            writing = -1
            how = watch([made, running.output], [made, running.output], running.started + limits.wall_s, guarded=running)
            status = running.status(within_s=limits.wall_s) if how == "ended" else None
            seconds = round(time.monotonic() - running.started, 3)
    finally:
        for descriptor in (writing, reading if made.open else -1):
            if descriptor >= 0:
                os.close(descriptor)
    output = running.output.text
    trouble = None
    if how != "ended":
        told = case.stopped(how, limits)
    elif case.out_of_cpu(running, status, limits):
        told = "timeout", f"the compiler used more than {limits.cpu_s:g} s of cpu time"
    elif status == 0 and made.count > len(MARK):
        return _Attempt(Built(made.tail[len(MARK):], "", "", output, seconds), None, running.peak_bytes)
    else:
        told = "compile error", _first_error(output) or f"the compiler left with {status}"
        if made.head != MARK:
            trouble = "a compiler's box did not come up"
        elif status in KILLED or (KILLED_PART.search(output) and oom_kills() > ooms):
            trouble = f"a compiler was killed from outside, perhaps {case.MEMORY_SHORT},"
    return _Attempt(Built(b"", *told, output, seconds), trouble, running.peak_bytes)


def oom_kills(vmstat: Path = Path("/proc/vmstat")) -> int:
    """How many processes the kernel has killed for want of memory, on this machine or in its jobs."""
    return int(dict(line.split() for line in vmstat.read_text().splitlines()).get("oom_kill", 0))


def _first_error(output: str) -> str:
    """The line of a compiler's messages that says most.

    >>> _first_error("In file included from x:\\n<stdin>:3:4: error: expected ';'\\n   3 | }")
    "<stdin>:3:4: error: expected ';'"
    """
    lines = [line.strip() for line in output.splitlines() if line.strip() and not line.startswith("# ")]  # go's, of a package
    return next((line for line in lines if "error" in line.lower()), lines[0] if lines else "")
