"""Runs one process in a box and says how it ended: the public harness's way, with program and tests in one file."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from megatron_ft.errors import EvaluationError
from megatron_ft.evaluation import case
from megatron_ft.evaluation.case import Side
from megatron_ft.evaluation.sandbox import Sandbox
from megatron_ft.evaluation.supervise import ANNOUNCE, KILLED, MARK, Stream, watch
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
        said = self.output.strip()[-LAST_WORDS:] or case.said_of(self.status)
        return Verdict("failed", said, seconds, self.output)


def run(sandbox: Sandbox, side: Callable[[], Side]) -> Ended:
    """Run one side by itself, made anew for each attempt; EvaluationError if its box does not come up.

    >>> from megatron_ft.evaluation.sandbox import Box, find
    >>> run(find(), lambda: Side(Box(), ["/bin/sh", "-c", "echo out; exit 3"])).status
    3
    """
    tried = []
    for _ in range(case.STARTS):
        ended, status = _attempt(sandbox, side())
        if status is None:
            return ended
        tried.append(status)
    if set(tried) == {case.KILLED_ONE}:
        return replace(ended, stopped=case.killed("the program"))
    raise EvaluationError(f"a program's box did not come up in {case.STARTS} attempts; it said: {ended.output}")


def _attempt(sandbox: Sandbox, side: Side) -> tuple[Ended, str | None]:
    """How it ended; what of UNDECIDED it is, if that says nothing on the program."""
    if side.nursery is None:  # whose processes announce themselves
        side = replace(side, argv=["/bin/sh", "-c", f'{ANNOUNCE}; exec "$@"', "sh", *side.argv])
    limits = side.box.limits
    reading, writing = os.pipe()
    report = Stream(reading, REPORT_BYTES, keep=REPORT_BYTES)
    begun = time.monotonic()
    try:
        with side.started(sandbox, (writing,)) as running:
            os.close(writing)
            writing = -1
            how = watch([running.output, report], [running.output], begun + limits.wall_s, guarded=running)
            status = running.status(within_s=5) if how == "ended" else None
            stopped = case.stopped(how, limits) if how != "ended" else None
            if stopped is None and case.out_of_cpu(running, status, limits):
                stopped = "timeout", f"used more than {limits.cpu_s:g} s of cpu time"
            if report.open and stopped is None:
                watch([report], [report], time.monotonic() + 1)
    finally:
        for descriptor in (writing, reading if report.open else -1):
            if descriptor >= 0:
                os.close(descriptor)
    output = running.output
    up = output.head == MARK
    undecided = None
    if stopped is None and (not up or running.lost and status not in KILLED):
        undecided = case.NOT_UP
    elif stopped is None and status in KILLED:
        undecided = case.KILLED_ONE
    ended = Ended(stopped, status, report.text, output.text.removeprefix(MARK.decode()) if up else running.said,
                  output.count - len(MARK), round(time.monotonic() - begun, 3))
    return ended, undecided
