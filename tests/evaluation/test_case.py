"""Who is to blame when a process of a case is killed or does not come up: no program is, unless it happens each time."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator

import pytest

from megatron_ft.errors import EvaluationError
from megatron_ft.evaluation import alone, case
from megatron_ft.evaluation.box import Box, Limits
from megatron_ft.evaluation.case import STARTS, Side
from megatron_ft.evaluation.languages.js import JavaScript
from megatron_ft.evaluation.languages.python import Python
from megatron_ft.evaluation.sandbox import Sandbox
from megatron_ft.evaluation.supervise import family
from tests.evaluation.conftest import sandbox_or_skip
from tests.evaluation.faulty import DOWN, faulty
from tests.evaluation.problems import make_problem

LIMITS = Limits(cpu_s=5, wall_s=90)
KILLS = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n"
RIGHT = "def double(x):\n    return x * 2\n"
KILLS_WHEN_CALLED = "import os, signal\ndef double(x):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
WRONG_THEN_KILLS = "import atexit, os, signal\natexit.register(lambda: os.kill(os.getpid(), 9))\ndef double(x):\n    return 5\n"


@pytest.fixture
def first() -> Sandbox:
    """The first tool's sandbox."""
    return sandbox_or_skip("bubblewrap")


class InBoxes(Python):
    """Python in a box for each process."""

    def _nursery(self, half: str, with_numpy: bool = False) -> None:
        return None


def judged(boxes: Sandbox, programs: Iterator[str], tests: Iterator[str] | None = None) -> object:
    """The verdict where each attempt has the next program (and, if given, the next text of the tests' own process)."""
    python = InBoxes(boxes, LIMITS)
    problem, made = make_problem(), {}
    judge = case.judge

    def instead(sandbox: Sandbox, name: str, program: Callable[[], Side], yardstick: Callable[[str], Side]) -> object:
        def testing(token: str) -> Side:
            text = next(tests, None) if tests else None
            return yardstick(token) if text is None else Side(Box(limits=LIMITS), ["/bin/sh", "-c", text])
        return judge(sandbox, name, lambda: python._side("program", next(programs).encode()), testing)

    made["judge"], case.judge = case.judge, instead
    try:
        return python.judge(problem, "", RIGHT)
    finally:
        case.judge = made["judge"]


def test_a_program_that_kills_itself_each_time_has_failed(boxes: Sandbox) -> None:
    for program in (KILLS, KILLS_WHEN_CALLED):
        verdict = judged(boxes, iter([program] * STARTS))
        assert verdict.status == "failed"
        assert verdict.reason == "the program was killed in each of 3 attempts, by itself or because memory is short"


def test_a_program_that_was_killed_twice_passes_if_it_is_right(boxes: Sandbox) -> None:
    assert judged(boxes, iter([KILLS_WHEN_CALLED, KILLS, RIGHT])).passed


def test_a_wrong_answer_counts_whatever_ends_the_program_afterwards(first: Sandbox) -> None:
    verdict = judged(first, iter([WRONG_THEN_KILLS]))  # a second attempt would find no program
    assert verdict.status == "failed"
    assert verdict.reason.startswith("AssertionError")


def test_tests_that_were_killed_twice_are_run_again(first: Sandbox) -> None:
    assert judged(first, iter([RIGHT] * STARTS), iter(["kill -9 $$"] * 2)).passed
    verdict = judged(first, iter([RIGHT] * STARTS), iter(["kill -9 $$"] * STARTS))
    assert verdict.status == "failed"
    assert "the box of its tests was killed in each of 3 attempts" in verdict.reason


def test_boxes_that_are_killed_or_do_not_come_up_by_turns_stop_the_run(first: Sandbox) -> None:
    """No program can keep a box from coming up, so that something else is wrong."""
    boxes = faulty(first, DOWN, DOWN)  # the program's and the tests' of the first attempt
    with pytest.raises(EvaluationError, match="did not come up in 3 attempts"):
        judged(boxes, iter([RIGHT, KILLS, KILLS]))


def test_a_forked_program_that_is_killed_is_forked_again(boxes: Sandbox) -> None:
    python = Python(boxes, LIMITS)
    nursery, tests = python._nursery("program"), python._nursery("tests")
    own, begun, killed = family(nursery.process.pid), tests.started, []

    def kill_the_program(*words: object, **options: object) -> object:
        while not killed:
            killed.extend(set(family(nursery.process.pid)) - set(own))
        if tests.started is not begun:
            tests.started = begun
            os.kill(killed[0], signal.SIGKILL)
        return begun(*words, **options)

    tests.started = kill_the_program
    assert python.judge(make_problem(), "", RIGHT).passed
    assert killed
    assert nursery.alive


# The public harness's way: one process.


def test_how_one_process_ended_is_told_without_what_announced_it(boxes: Sandbox) -> None:
    ended = alone.run(boxes, lambda: Side(Box(), ["/bin/sh", "-c", "echo out; exit 3"]))
    assert (ended.status, ended.output, ended.wrote, ended.stopped) == (3, "out\n", 4, None)
    silent = alone.run(boxes, lambda: Side(Box(), ["true"]))
    assert (silent.status, silent.output, silent.wrote) == (0, "", 0)


def test_one_process_that_is_killed_each_time_has_failed_by_every_rule(boxes: Sandbox) -> None:
    verdict = alone.run(boxes, lambda: Side(Box(), ["/bin/sh", "-c", "kill -9 $$"])).verdict(passed=True)
    assert (verdict.status, verdict.reason.partition(",")[0]) == ("failed", "the program was killed in each of 3 attempts")


def test_one_process_that_was_killed_or_did_not_come_up_is_run_again(first: Sandbox) -> None:
    scripts = iter(["of the first box", "kill -9 $$", "echo out"])
    boxes = faulty(first, DOWN)
    assert alone.run(boxes, lambda: Side(Box(), ["/bin/sh", "-c", next(scripts)])).output == "out\n"
    assert boxes.attempts == 3


def test_one_process_whose_box_never_comes_up_stops_the_run(first: Sandbox) -> None:
    with pytest.raises(EvaluationError, match="a program's box did not come up in 3 attempts; it said: no room"):
        alone.run(faulty(first, *[DOWN] * STARTS), lambda: Side(Box(), ["true"]))


def test_node_that_is_killed_does_not_pass_though_it_wrote_nothing(first: Sandbox) -> None:
    if shutil.which("node") is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("no node on PATH: install nodejs")
    js = JavaScript(first)
    assert js.judge_publicly("const silent = 1").passed
    assert js.judge_publicly("process.kill(process.pid, 'SIGKILL')").status == "failed"
