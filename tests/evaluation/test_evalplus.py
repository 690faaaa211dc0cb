"""EvalPlus' problems in boxes: right, wrong and hostile programs by both modes, and what the canonical solution is for."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from megatron_ft.errors import EvaluationError
from megatron_ft.evaluation import benchmark, scenarios
from megatron_ft.evaluation.build import Built
from megatron_ft.evaluation.evalplus import Oracle
from megatron_ft.evaluation.judging import MODES
from megatron_ft.evaluation.languages.js import JavaScript
from megatron_ft.evaluation.languages.python import Python
from megatron_ft.evaluation.problem import Problem
from tests.evaluation import benchmark_files as files


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Problem]:
    """By entry point."""
    path = tmp_path_factory.mktemp("files") / "file"
    return {problem.entry_point: problem for rows in (files.HUMANEVALPLUS, files.MBPPPLUS)
            for problem in benchmark.read(files.write(path, rows)).problems}


JUDGED = {
    ("half", "right"): "from typing import List\ndef half(numbers: List[float]):\n    return [x * 0.5 for x in numbers]",
    ("half", "wrong in the extra inputs"): "def half(numbers):\n    return [x / 2 if x < 9 else 0.0 for x in numbers]",
    ("half", "wrong in the base inputs"): "def half(numbers):\n    return [x / 2 for x in numbers[1:]]",
    ("half", "a tuple for a list"): "def half(numbers):\n    return tuple(x / 2 for x in numbers)",
    ("half", "raises"): "def half(numbers):\n    return [x / 2 if x != 0.1 else x / 0 for x in numbers]",
    ("half", "leaves"): "import sys\ndef half(numbers):\n    sys.exit(0)",
    ("half", "leaves before"): "import os\nos._exit(0)\ndef half(numbers):\n    pass",
    ("half", "is missing"): "def other(numbers):\n    return numbers",
    ("half", "breaks off"): "def half(numbers):\n    return (",
    ("half", "always agrees"): "class Same(float):\n    __eq__ = lambda self, other: True\n    __hash__ = None\n"
                               "def half(numbers):\n    return Same(7.0)",
    ("half", "bends the tests"): "import python_inside.differential as d\nd.check = lambda *a: None\n"
                                 "def half(numbers):\n    return 0",
    ("first", "right"): "def first(items):\n    return items[0]",
    ("first", "looks like it"): "def first(items):\n    return float(items[0]) if not isinstance(items[0], list) else items[0]",
    ("find_zero", "another way"): "def find_zero(xs):\n    return -xs[0] / xs[1] + 1e-9",
    ("find_zero", "empties its argument"): "def find_zero(xs):\n    xs.clear()\n    return 5.0",
    ("similar_elements", "in another order"): "def similar_elements(a, b):\n    return sorted(set(a) & set(b), reverse=True)",
    ("similar_elements", "one too many"): "def similar_elements(a, b):\n    return [*(set(a) & set(b)), 77]",
    ("pair", "a list for a tuple"): "def pair(x):\n    return [x, x]",
    ("check_str", "found or not"): "def check_str(text):\n    return 'yes' if set(text) & set('aeiou') else None",
    ("check_str", "always"): "def check_str(text):\n    return 'yes'",
}
EXPECTED = {
    "right": "passed passed", "wrong in the extra inputs": "passed failed", "wrong in the base inputs": "failed failed",
    "a tuple for a list": "failed failed", "raises": "passed failed", "leaves": "failed failed",
    "leaves before": "failed failed", "is missing": "failed failed", "breaks off": "compile error compile error",
    "always agrees": "failed failed",
    "bends the tests": "failed failed", "looks like it": "passed failed", "another way": "passed passed",
    "empties its argument": "failed failed", "in another order": "passed passed", "one too many": "failed failed",
    "a list for a tuple": "failed failed",
    "found or not": "passed passed", "always": "passed failed",
}
COMPAT = {"breaks off": "failed failed", "always agrees": "passed passed", "bends the tests": "passed passed",
          "empties its argument": "passed passed"}
"""Where the public harness says something else: program and tests share a process there."""


@pytest.mark.parametrize("mode", MODES)
def test_programs_get_a_verdict_by_the_base_tests_and_one_by_all(python: Python, problems: dict, mode: str) -> None:
    judge = MODES[mode](python, "continue")
    expected = EXPECTED | (COMPAT if mode == "compat" else {})
    found = {}
    for (name, what), program in JUDGED.items():
        verdict = judge.judge(scenarios.task(problems[name], "synthesize", "python", mode=mode), program)
        found[name, what] = f"{verdict.base} {verdict.status}"
    assert found == {(name, what): expected[what] for name, what in JUDGED}


def test_the_reason_has_the_input_and_both_values(python: Python, problems: dict) -> None:
    judge = MODES["fixed"](python, "continue")
    task = scenarios.task(problems["half"], "synthesize", "python")
    verdict = judge.judge(task, JUDGED["half", "wrong in the extra inputs"])
    assert verdict.reason == ("AssertionError: input 1 of 3, half([1e+300, -7.0]) gave [0.0, -3.5], the canonical solution "
                              "[5e+299, -3.5], at test line 3: differential.check(half, CASES)")


def test_the_canonical_solution_is_run_once_for_a_problem(problems: dict) -> None:
    ran = []
    started = threading.Barrier(3)

    def run(script: str, stdin: bytes) -> Built:
        ran.append(script)
        return Built(b"[1, 2, 3, 4, 5]", "", "", "", 0.0)

    oracle = Oracle(run, strict=True)
    texts = []

    def ask() -> None:
        started.wait()
        texts.append(oracle.tests(problems["half"]))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    [thread.start() for thread in threads], [thread.join() for thread in threads]
    assert ran == ["canonical"]
    base, plus = texts[0]
    assert texts == [texts[0]] * 3 and '"outputs": [1, 2]' in base and '"outputs": [3, 4, 5]' in plus


@pytest.mark.parametrize(("solution", "message"), [
    ("def pair(x):\n    return 1 // x\n", r"error: ValueError: input 1, pair\(0\), raises ZeroDivisionErr"),
    ("def pair(x):\n    while True: pass\n", r"it used more than 5 s of cpu time; mend the problem"),
    ("def pear(x):\n    return x\n", r"error: KeyError: 'pair'; mend"),
    ("def pair(x):\n    print('noise')\n    return object()\n",
     r"error: ValueError: input 0, pair\(1\), gives a object, which cannot be compared; mend"),
])
def test_a_canonical_solution_that_says_nothing_stops_the_run(python: Python, tmp_path: Path, solution: str,
                                                              message: str) -> None:
    row = {**files.MBPPPLUS[1], "canonical_solution": solution}
    (problem,) = benchmark.read(files.write(tmp_path / "file", [row])).problems
    judge = MODES["fixed"](python, "continue")
    with pytest.raises(EvaluationError, match=f"Mbpp/7: its canonical solution gives no outputs: {message}"):
        judge.judge(scenarios.task(problem, "synthesize", "python"), "def pair(x):\n    return x, x")


def test_a_language_without_inputs_says_so(python: Python) -> None:
    with pytest.raises(EvaluationError, match="JavaScript has no script 'canonical'; only python problems have inputs"):
        JavaScript(python.sandbox).output_of("canonical", b"")


def test_tests_of_the_program_s_own_objects_share_its_box(python: Python, tmp_path: Path) -> None:
    _, _, chain, rounding, _ = files.MBPP
    found = benchmark.read(files.write(tmp_path / "file", [chain, rounding])).problems
    for mode, statuses in {"fixed": ["passed", "passed"], "compat": ["failed", "failed"]}.items():
        judge = MODES[mode](python, "continue")
        verdicts = [judge.judge(scenarios.task(each, "synthesize", "python", mode=mode), each.canonical_solution)
                    for each in found]
        assert [verdict.status for verdict in verdicts] == statuses, mode  # the public harness runs no set-up
    wrong = found[0].canonical_solution.replace("1 +", "2 +")
    assert MODES["fixed"](python, "").judge(scenarios.task(found[0], "synthesize", "python"), wrong).status == "failed"
