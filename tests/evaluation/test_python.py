"""How python completions become programs, and how programs are judged."""

from __future__ import annotations

import pytest

from megatron_ft.errors import EvaluationError
from megatron_ft.evaluation import benchmark, interpreter
from megatron_ft.evaluation.languages.python import Python
from megatron_ft.evaluation.sandbox import Limits
from tests.evaluation.problems import make_problem

BASE = 'import math\n\n\ndef helper(x):\n    return x\n\n\ndef double(x):\n    """Twice x."""\n'
BODY = "    return x * 2\n"
HEAD = "import math\n\n\ndef helper(x):\n    return x\n\n\n"

COMPLETIONS = {
    "the body": ("\n    return x * 2", BASE + BODY),
    "the body and a call": ("\n    return x * 2\n\nprint(double(1))\n", BASE + BODY),
    "the body and another function": ("\n    return x * 2\n\n\ndef triple(x):\n    return x * 3", BASE + BODY),
    "the body and a fence": ("\n    return x * 2\n```\nThis doubles.", BASE + BODY),
    "empty lines in the body": ("\n    y = x\n\n    return y * 2\n\n", BASE + "    y = x\n\n    return y * 2\n"),
    "nothing": ("", BASE),
    "the function anew": ("\ndef double(x):\n    return x * 2\n", HEAD + "def double(x):\n    return x * 2\n"),
    "the function anew and a call": (
        "\ndef double(x):\n    return x * 2\n\ndouble(2)\n", HEAD + "def double(x):\n    return x * 2\n"),
    "a fenced answer": (
        "\nHere it is:\n```python\nimport re\n\ndef double(x):\n    return x * 2\n```\nIt doubles.",
        HEAD + "import re\n\ndef double(x):\n    return x * 2\n"),
    "words before the function": (
        "\nSure, this is it.\n\nN = 2\ndef double(x):\n    return x * N\n\nThat was it.",
        HEAD + "N = 2\ndef double(x):\n    return x * N\n"),
    "two fenced blocks": (
        "\nFirst:\n```\nx = 1\n```\nthen\n```py\ndef double(x):\n    return x * 2\n```",
        HEAD + "def double(x):\n    return x * 2\n"),
}


@pytest.mark.parametrize("kind", COMPLETIONS)
def test_a_completion_becomes_the_program_it_means(kind: str) -> None:
    completion, program = COMPLETIONS[kind]
    assert Python.assemble(make_problem(), BASE, completion) == program.rstrip() + "\n"


def test_cutting_changes_no_solution_of_humanevalpack(humanevalpack) -> None:
    for problem in benchmark.read(humanevalpack).problems:
        for base in (problem.prompt, problem.declaration):
            for solution in (problem.canonical_solution, problem.buggy_solution):
                program = Python.assemble(problem, base, "\n" + solution)
                assert program.rstrip() == (base.rstrip() + "\n" + solution).rstrip(), problem.task_id


@pytest.mark.parametrize("solution", [
    "    total = 0\n    for x in xs:\n        if x:\n            total += x\n\n    return total\n",
    "    return [\n        1,\n    ]\n",
])
def test_generation_never_stops_inside_a_body(solution: str) -> None:
    """Whatever part of it has been generated when it is looked at."""
    assert not any(Python.is_complete("\n" + solution[:end], "double") for end in range(len(solution) + 1))


@pytest.mark.parametrize(("completion", "complete"), [
    ("\n    return x", False), ("\n    return x\n", False), ("\n    return x\n\n", False),
    ("\n    a = 1\n    ", False), ("\n    a = 1\n\n\n  \t", False), ("\n    return x\n\nd", False), ("", False), ("\n", False),
    ("\ndef double(x):\n    return x\n\nd", False), (" return x\nprint", False),
    (" return x\nprint(", True), ("\n    return x\n\ndef triple", False), ("\n    return x\n\ndef triple(", True),
    ("\n    return by(x)\n\ndef by(x):\n    return x", False), ("\n    return by(x)\n\ndef by(x):\n    return x\n\n#", False),
    ("\n    return by(x)\n\ndef by(x):\n    return x\n\nassert by(", True), ("\n    return x\n```", True),
    ("\n    return x\n\nThis gives", True), ("\n    return x\n\nResult =", False), ("\n    return x\n\nresult = 1", True),
    ("\n    x = '''\nabc", False), ("\n```python\ndef double(x):\n    return x\n```", True),
    ("\nThe original:\n```python\ndef double(x):\n    return x\n```", False),
    ("\n```python\ndef double(x):\n    return by(x)\n```", False), ("\n```python\ndef double(x):\n    return x\n``", False),
    ("<think>\n```\ndef double(x):\n    return x\n```\n", False),
])
def test_generation_may_stop_when_the_body_is_over(completion: str, complete: bool) -> None:
    assert Python.is_complete(completion, "double") is complete


def test_tests_that_fail_after_their_last_call_fail(python: Python) -> None:
    """The token is written after the last statement of the tests, not after the last answer."""
    problem = make_problem(test="double(2)\nraise SystemExit(0)")
    assert python.judge(problem, "", "def double(x):\n    return x * 2\n").status == "failed"


def test_a_token_without_exit_status_zero_is_no_pass(python: Python) -> None:
    problem = make_problem(test="import atexit, os\natexit.register(os._exit, 3)\nassert double(2) == 4")
    verdict = python.judge(problem, "", "def double(x):\n    return x * 2\n")
    assert (verdict.status, verdict.reason) == ("failed", "the tests ended without a verdict (exit status 3)")


def test_a_toolchain_that_does_not_run_stops_the_run(python: Python, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreter, "interpreter", lambda: "/bin/false")
    with pytest.raises(EvaluationError, match="a box that forks programs did not come up; it said: "):
        python.check()


def test_a_time_out_names_its_limit(python: Python) -> None:
    slow = Python(python.sandbox, Limits(cpu_s=5, wall_s=0.5))
    verdict = slow.judge(make_problem(), "", "import time\ntime.sleep(60)")
    assert (verdict.status, verdict.reason) == ("timeout", "not done after 0.5 s")
