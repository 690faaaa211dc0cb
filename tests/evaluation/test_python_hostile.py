"""What hostile Python programs answer their tests with; what they try in every language is in test_hostile.py."""

from __future__ import annotations

import pytest

from megatron_ft.evaluation.languages.python import Python
from megatron_ft.evaluation.sandbox import TOOLS, Limits
from tests.evaluation.conftest import sandbox_or_skip
from tests.evaluation.problems import make_problem

LIMITS = Limits(cpu_s=10, wall_s=60, memory_bytes=512 * 2**20, output_bytes=2**20)
FIND_ANSWERS = """
import os
def is_open(descriptor):
    try: return bool(os.fstat(descriptor))
    except OSError: return False
ANSWERS = max(filter(is_open, range(3, 1024)))  # the pipe to the tests
"""

# Whole programs.
PROGRAMS = {
    "is interrupted when it is called": ("def double(x):\n    raise KeyboardInterrupt", {"failed"}),
    "is a number that equals everything": (
        "class Same(int):\n    def __eq__(self, other): return True\n    __hash__ = int.__hash__\n"
        "def double(x):\n    return Same(5)", {"failed"}),
    "is a list that equals everything": (
        "class Same(list):\n    def __eq__(self, other): return True\n    def __iter__(self): return iter([1, 1])\n"
        "def double(x):\n    return 4 if x == 2 else Same()", {"failed"}),
    "pretends to be a list": (
        "class Same:\n    __class__ = list\n    def __eq__(self, other): return True\n"
        "def double(x):\n    return Same()", {"failed", "refused"}),
    "replaces stdout": (
        "import sys\nclass Out:\n    def write(self, text): return len(text)\n    def flush(self): pass\n"
        "sys.stdout = sys.stderr = Out()\ndef double(x):\n    return 5", {"failed"}),
    "answers no JSON": (
        "import os, sys\ndef double(x):\n    os.write(ANSWERS, b'passed\\n' * 9)", {"refused"}),
    "answers nested without end": (
        "import os, sys\ndef double(x):\n    os.write(ANSWERS, b'{\"value\":' + b'[' * 50000 + b'\\n')",
        {"refused"}),
    "answers no value": (
        "import os, sys\ndef double(x):\n"
        "    os.write(ANSWERS, b'{\"value\": {\"t\": \"set\", \"v\": [[1]]}}\\n')", {"refused"}),
    "answers with a type of its own": (
        "import os, sys\ndef double(x):\n"
        "    os.write(ANSWERS, b'{\"value\": {\"t\": \"eval\", \"v\": \"exit(0)\"}}\\n')", {"refused"}),
    "answers with another exception than it has": (
        "class SystemExit(Exception): pass\ndef double(x):\n    raise SystemExit(0)", {"failed"}),
    "answers with an exception that ends tests": (
        "import os, sys\ndef double(x):\n"
        "    os.write(ANSWERS, b'{\"error\": [\"SystemExit\"], \"text\": \"0\"}\\n')", {"failed"}),
    "loads as what it is not": (
        "import os, sys\n"
        "os.write(ANSWERS, b'{\"names\": {\"check\": {\"value\": 1}, \"double\": {\"value\": 4}}}\\n')",
        {"failed", "refused"}),
}


@pytest.fixture(scope="module")
def python() -> Python:
    """The judge in the first sandbox that works."""
    return Python(sandbox_or_skip(TOOLS[0]), LIMITS)


@pytest.mark.parametrize("kind", PROGRAMS)
def test_a_hostile_program_does_not_pass(python: Python, kind: str) -> None:
    program, statuses = PROGRAMS[kind]
    verdict = python.judge(make_problem(), "", FIND_ANSWERS + program if "ANSWERS" in program else program)
    assert verdict.status in statuses, verdict


def test_a_helper_that_the_tests_use_is_the_problem_s_own(python: Python) -> None:
    """HumanEvalPack's Python/32 checks a root with `poly`, which the prompt defines and a program could redefine."""
    base = "def off(x):\n    return abs(x - 4)\n\n\ndef double(x):\n"
    problem = make_problem(test="def check(double):\n    assert off(double(2)) == 0\ncheck(double)")
    bent = "def off(x):\n    return 0\n\ndef double(x):\n    return 5\n"
    assert python.judge(problem, base, bent).status == "failed"
    assert python.judge(problem, base, base + "    return x * 2\n").passed


def test_a_flood_is_cut_off_and_its_end_is_kept(python: Python) -> None:
    program = "print('a' * 9000, 'the end')\ndef double(x):\n    return x"
    verdict = python.judge(make_problem(), "", program)
    assert verdict.status == "failed"
    assert verdict.output.endswith("the end\n")
    assert len(verdict.output) <= 4000
