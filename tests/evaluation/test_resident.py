"""Tests of one case after the other in one process: as long as nothing of one can matter to the next, and no longer."""

from __future__ import annotations

import os
import re
import signal

import pytest

from megatron_ft.evaluation.languages.python import Python
from megatron_ft.evaluation.sandbox import Limits, Sandbox
from megatron_ft.evaluation.supervise import family
from megatron_ft.evaluation.verdict import Verdict
from tests.evaluation.problems import make_problem

RIGHT = "def double(x):\n    return x * 2\n"
WHO = "import os\nassert double(2) == 4\nassert False, os.getpid()"


def judged(python: Python, test: str, program: str = RIGHT) -> Verdict:
    return python.judge(make_problem(test=test), "", program)


def process(python: Python) -> int:
    """Which process runs the tests of this thread's cases."""
    verdict = judged(python, WHO)
    assert verdict.status == "failed", verdict
    return int(re.match(r"AssertionError: (\d+), at test line 3", verdict.reason)[1])


@pytest.mark.parametrize(("test", "program", "status"), [
    ("assert double(2) == 4", RIGHT, "passed"),
    ("assert double(2) == 4", "def double(x):\n    return x * 3\n", "failed"),
    ("import math, sys\nleft = [sys, double]\nassert double(math.inf) == math.inf", RIGHT, "passed"),
])
def test_it_stays_after_the_usual(python: Python, test: str, program: str, status: str) -> None:
    before = process(python)
    assert judged(python, test, program).status == status
    assert process(python) == before


@pytest.mark.parametrize(("test", "program", "status"), [
    ("import colorsys\nassert double(2) == 4", RIGHT, "passed"),
    ("import builtins\nbuiltins.left = 1\nassert double(2) == 4", RIGHT, "passed"),
    ("import sys\nsys.setrecursionlimit(5000)\nassert double(2) == 4", RIGHT, "passed"),
    ("import io, sys\nsys.stdout = io.StringIO()\nassert double(2) == 4", RIGHT, "passed"),
    ("import _thread, time\n_thread.start_new_thread(time.sleep, (60,))\nassert double(2) == 4", RIGHT, "passed"),
    ("import atexit\natexit.register(print)\nassert double(2) == 4", RIGHT, "passed"),
    ("assert double(2) == 4", "def double(x):\n    return ['much'] * 300_000\n", "failed"),
    ("assert double(2) == 4", "def double(x):\n    raise MemoryError\n", "failed"),
    ("assert double(2) == 4", "import os\ndef double(x):\n    os._exit(0)\n", "failed"),
    ("assert double(2) == 4", "def double(x):\n    while True: pass\n", "timeout"),
    ("import os\nassert double(2) == 4\nos._exit(0)", RIGHT, "failed"),
    ("while True: double(2)", RIGHT, "timeout"),
], ids=str)
def test_it_is_another_after_what_may_matter(boxes: Sandbox, test: str, program: str, status: str) -> None:
    python = Python(boxes, Limits(cpu_s=5, wall_s=2))
    before = process(python)
    assert judged(python, test, program).status == status
    assert process(python) != before
    assert judged(python, "import builtins\nassert not hasattr(builtins, 'left')\nassert double(2) == 4").status == "passed"


def test_the_cpu_time_of_a_case_is_its_own(boxes: Sandbox) -> None:
    python = Python(boxes, Limits(cpu_s=2, wall_s=60))
    before = process(python)
    for _ in range(3):
        verdict = judged(python, "import time\nbegun = time.process_time()\n"
                                 "while time.process_time() < begun + 1.2: pass\nassert double(2) == 4")
        assert verdict.status == "passed", verdict
    assert process(python) == before
    verdict = judged(python, "while True: pass")
    assert (verdict.status, verdict.reason) == ("timeout", "used more than 2 s of cpu time")
    assert process(python) != before


def test_one_that_is_killed_between_cases_is_replaced(boxes: Sandbox) -> None:
    python = Python(boxes)
    before = process(python)
    nursery = python._nursery("tests")
    resident = family(nursery.process.pid)[-1]
    os.kill(resident, signal.SIGKILL)
    assert judged(python, "assert double(2) == 4").status == "passed"
    assert process(python) != before
    assert nursery.alive
