"""Runs one process in a box and says how it ended: the public harness's way, with program and tests in one file."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from megatron_ft.evaluation import case
from megatron_ft.evaluation.case import Side
from megatron_ft.evaluation.sandbox import Sandbox
from megatron_ft.evaluation.supervise import Stream, watch
from megatron_ft.evaluation.verdict import Verdict

REPORT_BYTES = 2**12
LAST_WORDS = 300  # characters of the output that serve as a reason


@dataclass(frozen=True)
class Ended:
    """How a process ended."""

    stopped: tuple[str, str] | None
    """Status and reason if it was stopped, for its time, memory or output."""
    status: int | None
    """Its exit status."""
    report: str
    """What it wrote to the descriptor whose number is its last argument."""
    output: str
    """The end of what it wrote to stdout and stderr."""
    wrote: int
    """How many bytes that was."""
    seconds: float

    def verdict(self, passed: bool, seconds: float = 0.0) -> Verdict:
        """The verdict by a rule of the public harness; `seconds` went before."""
        seconds = round(self.seconds + seconds, 3)
        if self.stopped is not None:
            return Verdict(*self.stopped, seconds, self.output)
        if passed:
            return Verdict("passed", "", seconds, self.output)
        said = self.output.strip()[-LAST_WORDS:] or f"exit status {self.status}"
        return Verdict("failed", said, seconds, self.output)


def run(sandbox: Sandbox, side: Side) -> Ended:
    """Run one side by itself.

    >>> from megatron_ft.evaluation.sandbox import Box, find
    >>> run(find(), Side(Box(), ["/bin/sh", "-c", "echo out; exit 3"])).status
    3
    """
    reading, writing = os.pipe()
    report = Stream(reading, REPORT_BYTES, keep=REPORT_BYTES)
    begun = time.monotonic()
    try:
        with side.started(sandbox, (writing,)) as running:
            os.close(writing)
            writing = -1
            how = watch([running.output, report], [running.output], begun + side.box.limits.wall_s, guarded=running)
            status = running.status(within_s=5) if how == "ended" else None
            stopped = case.stopped(how, side.box.limits) if how != "ended" else None
            if stopped is None and case.out_of_cpu(running, status, side.box.limits):
                stopped = "timeout", f"used more than {side.box.limits.cpu_s:g} s of cpu time"
            if report.open and stopped is None:
                watch([report], [report], time.monotonic() + 1)
    finally:
        for descriptor in (writing, reading if report.open else -1):
            if descriptor >= 0:
                os.close(descriptor)
    return Ended(stopped, status, report.text, running.output.text, running.output.count, round(time.monotonic() - begun, 3))
