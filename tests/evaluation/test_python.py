"""How python completions become programs, and how programs are judged."""

from __future__ import annotations

import pytest

from megatron_ft.errors import EvaluationError
from megatron_ft.evaluation import benchmark, languages
from megatron_ft.evaluation.languages import python as python_language
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


def test_the_status_says_what_happened(python: Python) -> None:
    problem = make_problem()
    judged = {body: python.judge(problem, problem.prompt, problem.prompt + body) for body in
              ("    return x * 2\n", "    return x * 3\n", "    return x *\n", "    return y\n")}
    assert [verdict.status for verdict in judged.values()] == ["passed", "failed", "compile error", "failed"]
    reasons = [verdict.reason for verdict in judged.values()]
    assert reasons[0] == ""
    assert reasons[1] == "AssertionError, at test line 2: assert double(2) == 4"
    assert reasons[2].startswith("SyntaxError")
    assert reasons[3].startswith("NameError: name 'y' is not defined, at test line 2")


def test_the_end_of_a_program_before_its_tests_is_named(python: Python) -> None:
    verdict = python.judge(make_problem(), "", "import os\nos._exit(7)")
    assert verdict.reason == "the program ended before its tests did (exit status 7)"


def test_tests_that_fail_after_their_last_call_fail(python: Python) -> None:
    """The token is written after the last statement of the tests, not after the last answer."""
    problem = make_problem(test="double(2)\nraise SystemExit(0)")
    assert python.judge(problem, "", "def double(x):\n    return x * 2\n").status == "failed"


def test_a_token_without_exit_status_zero_is_no_pass(python: Python) -> None:
    problem = make_problem(test="import atexit, os\natexit.register(os._exit, 3)\nassert double(2) == 4")
    verdict = python.judge(problem, "", "def double(x):\n    return x * 2\n")
    assert (verdict.status, verdict.reason) == ("failed", "the tests ended without a verdict (exit status 3)")


def test_tests_that_do_not_compile_stop_the_run(python: Python) -> None:
    with pytest.raises(EvaluationError, match="Own/0: its own text does not run: SyntaxError.*cannot be executed"):
        python.judge(make_problem(test="assert ("), "", "double = abs")


def test_tests_that_pass_what_cannot_be_carried_stop_the_run(python: Python) -> None:
    with pytest.raises(EvaluationError, match="the tests pass a value of type function"):
        python.judge(make_problem(test="double(lambda: 1)"), "", "double = abs")


def test_the_toolchain_is_checked_with_a_program_that_passes_and_one_that_fails(python: Python) -> None:
    assert set(python.check()) == {"python", "numpy"}


def test_a_toolchain_that_does_not_run_stops_the_run(python: Python, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(python_language, "_interpreter", lambda: "/bin/false")
    with pytest.raises(EvaluationError, match="a box that forks programs did not come up; it said: "):
        python.check()


def test_a_time_out_names_its_limit(python: Python) -> None:
    slow = Python(python.sandbox, Limits(cpu_s=5, wall_s=0.5))
    verdict = slow.judge(make_problem(), "", "import time\ntime.sleep(60)")
    assert (verdict.status, verdict.reason) == ("timeout", "not done after 0.5 s")


def test_an_unknown_language_names_the_known_ones() -> None:
    with pytest.raises(EvaluationError, match="'cobol' cannot be executed here; use one of python"):
        languages.get("cobol")
