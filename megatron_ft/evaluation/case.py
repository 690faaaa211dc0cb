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
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_ft.errors import EvaluationError
from megatron_ft.evaluation.nursery import Forked, Nursery
from megatron_ft.evaluation.sandbox import Box, Limits, Sandbox
from megatron_ft.evaluation.supervise import KILLED, OUT_OF_CPU, Running, Stream, started, watch
from megatron_ft.evaluation.verdict import Verdict

REPORT_BYTES = 2**17
REASON_CHARACTERS = 2500
STARTS = 3  # a box that did not come up or was killed (memory, processes) is tried again
ENDED = "the program ended before its tests did"
KILLED_ONE, NOT_UP = UNDECIDED = ("killed", "not up")
MEMORY_SHORT = "because memory is short"
"""In the reason of every verdict that another machine, or another hour, may give otherwise."""


@dataclass(frozen=True)
class Side:
    """One of the two boxes. Its descriptors are appended to `argv`: in, out, and for the tests the report."""

    box: Box
    argv: Sequence[str]
    stdin: bytes = b""
    nursery: Nursery | None = None
    """Forks the process, instead of a box made for it alone."""
    executable: Path | None = None
    """What is executed, with `argv` as its words."""
    data: Path | None = None
    """A file whose descriptor comes before the others."""
    hello: bytes = b""
    """Written to the last descriptor before the process can: that the box stands."""

    @contextlib.contextmanager
    def started(self, sandbox: Sandbox, descriptors: Sequence[int]) -> Iterator[Running | Forked]:
        """Run it until the block ends; then every process of it is dead."""
        with contextlib.ExitStack() as stack:
            data = [stack.enter_context(self.data.open("rb")).fileno()] if self.data else []
            keep = [*data, *descriptors]
            if self.nursery is not None:
                yield stack.enter_context(self.nursery.started(self.argv, stdin=self.stdin, keep=keep,
                                                               executable=self.executable, hello=self.hello))
                return
            if self.hello:
                os.write(keep[-1], self.hello)
            argv = [str(self.executable), *self.argv[1:]] if self.executable else self.argv
            yield stack.enter_context(started(sandbox, self.box, [*argv, *map(str, keep)], stdin=self.stdin, keep=keep))


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
    tried = []
    for _ in range(STARTS):
        tested = program()
        with _running(sandbox, tested, tests) as case:
            status, reason = _watched(case, tested.box.limits, name)
            seconds = round(time.monotonic() - case.program.started, 3)
        if status not in UNDECIDED:
            return Verdict(status, reason[:REASON_CHARACTERS], seconds, case.program.output.text)
        tried.append(status)
    if set(tried) == {KILLED_ONE}:  # as a program may kill itself, this is no reason to stop the run
        return Verdict(*killed(reason), seconds, case.program.output.text)
    raise EvaluationError(f"{name}: its boxes did not come up in {STARTS} attempts; they said: "
                          f"{case.program.said}{case.tests.said}")


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


def _watched(case: Case, limits: Limits, name: str) -> tuple[str, str]:
    """Status and reason of a running case; of those in UNDECIDED the reason is the side it is about."""
    how = watch([case.program.output, case.tests.output, case.report], [case.report],
                case.program.started + limits.wall_s, guarded=case.program, others=[case.tests])
    if how != "ended":
        return stopped(how, limits)
    ready, _, said = case.report.text.partition("\n")
    # A token may come some time before the exit status of the process that wrote it, on a machine that stalls.
    status = case.tests.status(within_s=max(limits.wall_s, 5) if said == case.token else 5)
    if said == case.token and status == 0:
        return "passed", ""
    kind = said.partition("\n")[0]
    # A program that went away does so before its status is known; one that is still there when the tests end need not leave.
    ended = case.program.status(within_s=5 if kind == "ended" else 1)
    if out_of_cpu(case.program, ended, limits) or status in OUT_OF_CPU:
        return "timeout", f"used more than {limits.cpu_s:g} s of cpu time"
    if ready == "ready" and (told := _told(said, name)) is not None:
        return told
    if ended in KILLED or status in KILLED:
        return KILLED_ONE, "the program" if ended in KILLED else "the box of its tests"
    if ready != "ready" or kind == "not started" or case.program.lost or case.tests.lost:
        return NOT_UP, ""
    if kind == "ended":
        return "failed", f"{ENDED} ({said_of(ended)})"
    return "failed", f"the tests ended without a verdict ({said_of(status)})"


def said_of(status: int | None) -> str:
    """An exit status in words. (Process 1 of a box that aborts ends by SIGSEGV: the signal that abort sends does not end it.)

    >>> said_of(7), said_of(-11)
    ('exit status 7', 'killed by SIGSEGV')
    """
    if status is None or status >= 0:
        return f"exit status {status}"
    names = {each.value: each.name for each in signal.Signals}
    return f"killed by {names.get(-status, f'signal {-status}')}"


def stopped(how: str, limits: Limits) -> tuple[str, str]:
    """Status and reason for what `watch` stopped a box for."""
    return {
        "timeout": ("timeout", f"not done after {limits.wall_s:g} s"),
        "flood": ("refused", f"wrote more than {limits.output_bytes} bytes"),
        "memory": ("refused", f"its processes used more than {limits.memory_bytes} bytes together"),
    }[how]


def killed(who: str) -> tuple[str, str]:
    """Status and reason for what was killed in every attempt, by whom cannot be known."""
    return "failed", f"{who} was killed in each of {STARTS} attempts, by itself or {MEMORY_SHORT}"


def out_of_cpu(running: Running | Forked, status: int | None, limits: Limits) -> bool:
    """Whether a box ended because its cpu time was used up (a program may hold SIGXCPU, but not the SIGKILL after it).

    Looks come five times a second, so that the last one before the SIGKILL saw half of the time at least.
    """
    return status in OUT_OF_CPU or (status in KILLED and running.cpu_s > limits.cpu_s / 2)


def _told(said: str, name: str) -> tuple[str, str] | None:
    """What the tests found out, in the words of a verdict; None if they found nothing out."""
    kind, _, reason = said.partition("\n")
    if kind == "broken":
        raise EvaluationError(f"{name}: {reason}; the benchmark's tests cannot be executed as they are")
    return (kind, reason) if kind in ("failed", "refused", "compile error") else None
