"""Tests of one case after the other in one process: as long as nothing of one can matter to the next, and no longer."""

from __future__ import annotations

import os
import signal

import pytest

from megatron_ft.evaluation.languages.python import Python
from megatron_ft.evaluation.sandbox import Limits, Sandbox
from megatron_ft.evaluation.supervise import family
from megatron_ft.evaluation.verdict import Verdict
from tests.evaluation.problems import make_problem

RIGHT = "def double(x):\n    return x * 2\n"


def judged(python: Python, test: str, program: str = RIGHT) -> Verdict:
    return python.judge(make_problem(test=test), "", program)


def process(python: Python) -> int:
    """Which process runs the tests of this thread's cases."""
    assert judged(python, "assert double(2) == 4").status == "passed"
    return family(python._nursery("tests").process.pid)[-1]


@pytest.mark.parametrize(("test", "program", "status"), [
    ("assert double(2) == 4", RIGHT, "passed"),
    ("assert double(2) == 4", "def double(x):\n    return x * 3\n", "failed"),
    ("import math, sys\nleft = [sys, double]\nassert double(math.inf) == math.inf", RIGHT, "passed"),
])
def test_it_stays_after_the_usual(python: Python, test: str, program: str, status: str) -> None:
    before = process(python)
    assert judged(python, test, program).status == status
    assert process(python) == before


USED = "\nassert double(2) == 4"
LEFT_BY_TESTS = {
    "a module": "import colorsys",
    "a built-in": "import builtins\nbuiltins.left = 1",
    "another value in a module": "import math\nmath.pi = 3",
    "no value in a module": "import math\ndel math.pi",
    "a recursion limit": "import sys\nsys.setrecursionlimit(5000)",
    "a standard stream": "import io, sys\nsys.stdout = io.StringIO()",
    "where modules are": "import sys\nsys.path.append('/left')",
    "a trace": "import sys\nsys.settrace(lambda *_: None)",
    "a thread that has not run yet": "import _thread, time\n_thread.start_new_thread(time.sleep, (60,))",
    "a thread": "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()",
    "a process": "import os, time\nif not os.fork():\n    time.sleep(60)",
    "a process that has ended": "import os\nif not os.fork():\n    os._exit(0)",
    "a function to be called": "import atexit\natexit.register(print)",
    "the handler of a signal": "import signal\nsignal.signal(signal.SIGALRM, signal.SIG_IGN)",
    "a file": "open('left', 'w').close()",
    "a folder to be in": "import os\nos.chdir('/')",
    "a variable": "import os\nos.environ['LEFT'] = '1'",
}
NOTHING_LEFT = """import builtins, math, os, sys
assert not hasattr(builtins, "left") and math.pi > 3 and sys.getrecursionlimit() < 5000 and sys.gettrace() is None
assert sys.stdout is sys.__stdout__ and "/left" not in sys.path and os.listdir() == [] and "LEFT" not in os.environ
assert os.getcwd() == "/tmp" and double(2) == 4"""


@pytest.mark.parametrize("left", LEFT_BY_TESTS)
def test_it_is_another_after_tests_that_leave(left: str, boxes: Sandbox) -> None:
    python = Python(boxes, Limits(cpu_s=5, wall_s=10))
    before = process(python)
    nursery = python._nursery("tests").process.pid
    alive = family(nursery)
    verdict = judged(python, LEFT_BY_TESTS[left] + USED)
    assert (verdict.status, verdict.reason) == ("passed", "")
    assert set(family(nursery)) < set(alive), "it has ended, and so has what it started"
    assert judged(python, NOTHING_LEFT).status == "passed"
    assert process(python) != before


@pytest.mark.parametrize(("test", "program", "status"), [
    pytest.param("assert double(2) == 4", "def double(x):\n    return ['much'] * 300_000\n", "failed", id="much memory"),
    pytest.param("assert double(2) == 4", "def double(x):\n    raise MemoryError\n", "failed", id="an exception"),
    pytest.param("assert double(2) == 4", "import os\ndef double(x):\n    os._exit(0)\n", "failed", id="a program that left"),
    pytest.param("assert double(2) == 4", "def double(x):\n    while True: pass\n", "timeout", id="a program without end"),
    pytest.param("import os\nassert double(2) == 4\nos._exit(0)", RIGHT, "failed", id="tests that left"),
    pytest.param("while True: double(2)", RIGHT, "timeout", id="tests without end"),
])
def test_it_is_another_after_what_may_matter(boxes: Sandbox, test: str, program: str, status: str) -> None:
    python = Python(boxes, Limits(cpu_s=5, wall_s=2))
    before = process(python)
    assert judged(python, test, program).status == status
    assert process(python) != before


def test_the_cpu_time_of_a_case_is_its_own(boxes: Sandbox) -> None:
    python = Python(boxes, Limits(cpu_s=2, wall_s=60))
    before = process(python)
    for _ in range(4):
        verdict = judged(python, "import time\nbegun = time.process_time()\n"
                                 "while time.process_time() < begun + 0.9: pass\nassert double(2) == 4")
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
