"""Judges a program: it runs in one box, the tests of its problem in another, and pipes between them carry plain values.

The tests call the program's functions over the pipes and compare on their side. So the tests, the values they expect, the
end token and the process that writes it are out of the program's reach in every language: it can neither read nor forge
a verdict. How values look on the pipes is a matter between the two sides of one language. What the tests tell the
evaluator over a third pipe is the same for all:

    ready\\n                the tests' box stands
    TOKEN                  the last statement of the tests is behind them, or
    KIND\\nREASON           why they ended: failed, refused (the program broke the protocol), compile error, ended (the
                           program's end of the pipes is closed), not started (its box did not come up), broken (the tests
                           themselves cannot be run)

A pass is the token and exit status 0 of the tests.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from megatron_ft.errors import EvaluationError
from megatron_ft.evaluation.nursery import Forked, Nursery
from megatron_ft.evaluation.sandbox import Box, Limits, Sandbox
from megatron_ft.evaluation.supervise import KILLED, OUT_OF_CPU, Running, Stream, started, watch
from megatron_ft.evaluation.verdict import Verdict

REPORT_BYTES = 2**17
REASON_CHARACTERS = 2500
STARTS = 3  # a box that did not come up (memory, processes) is tried again before the run stops
ENDED = "the program ended before its tests did"


@dataclass(frozen=True)
class Side:
    """One of the two boxes. Its descriptors are appended to `argv`: in, out, and for the tests the report."""

    box: Box
    argv: Sequence[str]
    stdin: bytes = b""
    nursery: Nursery | None = None
    """Forks the process, instead of a box made for it alone."""

    def started(self, sandbox: Sandbox, descriptors: Sequence[int]) -> contextlib.AbstractContextManager[Running | Forked]:
        """Run it until the block ends; then every process of it is dead."""
        if self.nursery is not None:
            return self.nursery.started(stdin=self.stdin, keep=descriptors)
        return started(sandbox, self.box, [*self.argv, *map(str, descriptors)], stdin=self.stdin, keep=descriptors)


@dataclass
class Case:
    """The two boxes while they run."""

    program: Running | Forked
    tests: Running | Forked
    report: Stream
    token: str


def judge(sandbox: Sandbox, name: str, program: Callable[[], Side], tests: Callable[[str], Side]) -> Verdict:
    """The verdict on a program; EvaluationError where none is possible.

    Args:
        name: the problem's, for errors.
        program: makes the side of the program.
        tests: makes the side of the tests for the token that they write when they are over.
    """
    lost = False
    for _ in range(STARTS):
        tested = program()
        with _running(sandbox, tested, tests) as case:
            happened = _watched(case, tested.box.limits, name)
            seconds = round(time.monotonic() - case.program.started, 3)
            lost = lost or case.program.lost
        if happened is not None:
            status, reason = happened
            return Verdict(status, reason[:REASON_CHARACTERS], seconds, case.program.output.text)
    if lost:
        return Verdict("refused", f"its box was killed from outside, {STARTS} times (is memory short?)", seconds, "")
    raise EvaluationError(f"{name}: its boxes did not come up in {STARTS} attempts; they said: "
                          f"{case.program.output.text}{case.tests.output.text}")


@contextlib.contextmanager
def _running(sandbox: Sandbox, program: Side, tests: Callable[[str], Side]) -> Iterator[Case]:
    """Both boxes, running, joined by pipes; dead afterwards."""
    token = secrets.token_hex(16)
    yardstick = tests(token)
    with contextlib.ExitStack() as stack:
        calls, answers, report = os.pipe(), os.pipe(), os.pipe()
        ours = {*calls, *answers, report[1]}
        stack.callback(lambda: [os.close(end) for end in ours])
        verdict = Stream(report[0], limit=REPORT_BYTES, keep=REPORT_BYTES)
        stack.callback(lambda: verdict.open and os.close(verdict.descriptor))
        tested = stack.enter_context(program.started(sandbox, (calls[0], answers[1])))
        testing = stack.enter_context(yardstick.started(sandbox, (answers[0], calls[1], report[1])))
        while ours:  # the boxes have them now; an end kept here would hide that a box is gone
            os.close(ours.pop())
        yield Case(tested, testing, verdict, token)


def _watched(case: Case, limits: Limits, name: str) -> tuple[str, str] | None:
    """Status and reason of a running case; None when a box did not come up."""
    how = watch([case.program.output, case.tests.output, case.report], [case.report],
                case.program.started + limits.wall_s, guarded=case.program)
    if how != "ended":
        return stopped(how, limits)
    ready, _, said = case.report.text.partition("\n")
    # A token may come some time before the exit status of the process that wrote it, on a machine that stalls.
    status = case.tests.status(within_s=max(limits.wall_s, 5) if said == case.token else 5)
    if said == case.token and status == 0:
        return "passed", ""
    ended = case.program.status(within_s=1)
    if case.program.lost or case.tests.lost:
        return None
    if out_of_cpu(case.program, ended, limits) or status in OUT_OF_CPU:
        return "timeout", f"used more than {limits.cpu_s:g} s of cpu time"
    return _told(said, status, ended, name) if ready == "ready" else None


def stopped(how: str, limits: Limits) -> tuple[str, str]:
    """Status and reason for what `watch` stopped a box for."""
    return {
        "timeout": ("timeout", f"not done after {limits.wall_s:g} s"),
        "flood": ("refused", f"wrote more than {limits.output_bytes} bytes"),
        "memory": ("refused", f"its processes used more than {limits.memory_bytes} bytes together"),
    }[how]


def out_of_cpu(running: Running | Forked, status: int | None, limits: Limits) -> bool:
    """Whether a box ended because its cpu time was used up (a program may hold SIGXCPU, but not the SIGKILL after it)."""
    at_hard_limit = status in KILLED and time.monotonic() - running.started > limits.cpu_s
    return status in OUT_OF_CPU or at_hard_limit


def _told(said: str, status: int | None, ended: int | None, name: str) -> tuple[str, str] | None:
    """What the tests reported, in the words of a verdict; None if the program's box did not come up."""
    kind, _, reason = said.partition("\n")
    if kind == "not started":
        return None
    if kind == "broken":
        raise EvaluationError(f"{name}: {reason}; the benchmark's tests cannot be executed as they are")
    if kind == "ended":
        return "failed", f"{ENDED} (exit status {ended})"
    if kind in ("failed", "refused", "compile error"):
        return kind, reason
    return "failed", f"the tests ended without a verdict (exit status {status})"
