"""A machine that has no core for a program takes none of its time away; one that sleeps has no more of it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from megatron_ft.evaluation import supervise
from megatron_ft.evaluation.box import Limits
from megatron_ft.evaluation.languages.js import JavaScript
from megatron_ft.evaluation.languages.python import Python
from tests.evaluation.conftest import sandbox_or_skip
from tests.evaluation.js_problems import js_problem
from tests.evaluation.problems import make_problem

LIMITS = Limits(cpu_s=10, wall_s=2)
BURNERS = 6
BUSY = "import time\nend = time.process_time() + 0.6\nwhile time.process_time() < end:\n    pass\n"


@pytest.fixture
def starved() -> Iterator[None]:
    """What is started here shares one core with others that never rest."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    # Each in a session of its own: a kernel that shares cores out among sessions first would give all of them one share.
    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"], start_new_session=True) for _ in range(BURNERS)]
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()
        os.sched_setaffinity(0, before)


@pytest.mark.slow
def test_a_program_that_waits_for_a_core_is_waited_for(starved: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "PATIENCE", 100)  # the machine that runs this test may be as busy
    python = Python(sandbox_or_skip("bubblewrap"), LIMITS)
    assert python.judge(make_problem(), "", f"{BUSY}def double(x):\n    return x * 2\n").passed
    assert JavaScript(sandbox_or_skip("bubblewrap"), Limits(cpu_s=10, wall_s=2, address_space=False, processes=40)).judge(
        js_problem(), "",
        "const end = process.cpuUsage().user + 6e5; while (process.cpuUsage().user < end);\nconst double = (x) => x + x").passed
    monkeypatch.setattr(supervise, "PATIENCE", 0)
    assert python.judge(make_problem(), "", f"{BUSY}def double(x):\n    return x * 2\n").status == "timeout"


def test_a_program_that_starves_itself_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its processes end soon, as a fork bomb's do: what they ran counts after their end too."""
    monkeypatch.setattr(supervise, "STARVED", -1.0)
    monkeypatch.setattr(supervise, "ENOUGH", 0.15)  # the machine that runs this test may be busy
    forks = ("import os\nfor _ in range(3):\n    if os.fork() == 0:\n        while True:\n            if os.fork() == 0:\n"
             "                sum(range(3 * 10**6))\n                os._exit(0)\n            os.wait()\nos.wait()\n")
    verdict = Python(sandbox_or_skip("bubblewrap"), Limits(cpu_s=30, wall_s=4)).judge(make_problem(), "", forks)
    assert verdict.status == "timeout"
    assert verdict.seconds < supervise.PATIENCE * 4 / 2


def test_a_program_that_sleeps_is_not(starved: None) -> None:
    python = Python(sandbox_or_skip("bubblewrap"), LIMITS)
    verdict = python.judge(make_problem(), "", "import time\ndef double(x):\n    time.sleep(3600)\n")
    assert (verdict.status, verdict.reason) == ("timeout", "not done after 2 s")
    assert verdict.seconds < supervise.PATIENCE * LIMITS.wall_s / 2
