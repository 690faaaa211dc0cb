"""The tests of many problems built at once judge as those built one by one."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from megatron_ft.errors import EvaluationError
from megatron_ft.evaluation.benchmark import Problem
from megatron_ft.evaluation.languages import cpp_together
from megatron_ft.evaluation.languages.base import Language
from megatron_ft.evaluation.languages.compiled import Compiled
from megatron_ft.evaluation.languages.tests_builder import TOGETHER, BuiltHalf, TestsBuilder
from tests.evaluation import go_problems
from tests.evaluation.judges import OF
from tests.evaluation.problems import make_problem

CAN = ("go", "cpp", "rust")
MANY = [make_problem(task_id=f"own/{number}") for number in range(2 * TOGETHER + 3)]


class Builds:
    """What was built, in place of a compiler; those with a problem of `failing` cannot be built together."""

    def __init__(self, *failing: Problem) -> None:
        self.failing, self.done = set(failing), []

    def __call__(self, problems: Sequence[Problem]) -> Path | None:
        self.done.append(tuple(problems))
        return None if len(problems) > 1 and self.failing & set(problems) else Path(problems[0].task_id)


def test_problems_that_are_expected_are_built_together_and_others_alone() -> None:
    builds = Builds()
    builder = TestsBuilder(builds)
    builder.expect(MANY[:-1])
    builder.expect(MANY[:-1])
    assert builder.of(MANY[1]) == BuiltHalf(Path("own/0"), ("1",))
    assert builder.of(MANY[TOGETHER + 5]) == BuiltHalf(Path(f"own/{TOGETHER}"), ("5",))
    assert builder.of(MANY[-1]) == BuiltHalf(Path(MANY[-1].task_id))
    assert [len(each) for each in builds.done] == [TOGETHER, TOGETHER, 1]


def test_where_one_of_them_does_not_build_each_is_built_by_itself() -> None:
    builds = Builds(MANY[2])
    builder = TestsBuilder(builds)
    builder.expect(MANY[:4])
    assert [builder.of(problem).artifact.name for problem in MANY[:3]] == ["0", "1", "2"]
    assert builds.done == [tuple(MANY[:4]), (MANY[0],), (MANY[1],), (MANY[2],)]


def test_what_building_raises_is_raised_to_all_who_ask() -> None:
    def fail(problems: Sequence[Problem]) -> Path:
        raise EvaluationError("no room")

    builder = TestsBuilder(fail)
    builder.expect(MANY[:4])
    for problem in MANY[:2]:
        with pytest.raises(EvaluationError, match="no room"):
            builder.of(problem)


def test_a_thread_that_would_wait_builds_what_is_next() -> None:
    both = threading.Barrier(2, timeout=30)
    builds = Builds()

    def build(problems: Sequence[Problem]) -> Path | None:
        both.wait()  # comes to an end only if two build at the same time
        return builds(problems)

    builder = TestsBuilder(build)
    builder.expect(MANY[:2 * TOGETHER])
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(builder.of, MANY[:2]))
    assert [each.words for each in found] == [("0",), ("1",)]
    assert sorted(map(len, builds.done)) == [TOGETHER, TOGETHER]


@pytest.fixture
def noted(judges: Callable[[str], Language], monkeypatch: pytest.MonkeyPatch) -> Callable[[str], tuple[Compiled, list[str]]]:
    """A fresh judge of a language, and a list of the halves that it builds."""
    def make(name: str) -> tuple[Compiled, list[str]]:
        known, halves = judges(name), []
        build = type(known)._build

        def note(judge: Compiled, half: str, source: str) -> object:
            halves.append(half)
            return build(judge, half, source)

        monkeypatch.setattr(type(known), "_build", note)
        return type(known)(known.sandbox, known.limits), halves
    return make


@pytest.mark.parametrize("name", CAN)
def test_verdicts_are_those_of_tests_built_alone(noted: Callable[[str], tuple[Compiled, list[str]]], name: str) -> None:
    judge, halves = noted(name)
    own = OF[name]
    bent, program = own.helper
    judge.expect([bent, own.problem, replace(own.problem, task_id="Own/again")])
    assert judge.judge(own.problem, "", own.right).passed
    for (text, pattern), status in ((own.wrong, "failed"), (own.throws, "failed"), (own.uncompiled, "compile error")):
        verdict = judge.judge(own.problem, "", text)
        assert (verdict.status, bool(re.search(pattern, verdict.reason))) == (status, True), verdict
    assert judge.judge(bent, "", program).status == "failed"
    assert judge.judge(bent, "", own.right).passed
    assert (halves.count("together"), halves.count("tests")) == (1, 0)


@pytest.mark.parametrize("name", CAN)
def test_tests_that_do_not_compile_are_named_and_hold_up_no_others(noted: Callable[[str], tuple[Compiled, list[str]]],
                                                                   name: str) -> None:
    judge, halves = noted(name)
    own = OF[name]
    uncompiled, said = own.uncompiled_tests
    uncompiled = replace(uncompiled, task_id="Own/uncompiled")
    judge.expect([own.problem, uncompiled])
    assert judge.judge(own.problem, "", own.right).passed
    with pytest.raises(EvaluationError, match="Own/uncompiled: its tests " + said.replace("(?s)", "")[:14]):
        judge.judge(uncompiled, "", own.right)
    assert halves.count("together") == 1


@pytest.mark.parametrize(("name", "added"), [
    ("go", "\nvar made = 1\n"), ("go", "\nfunc init() {}\n"),
    ("cpp", "\nint made = 1;\n"), ("cpp", "\n#define made 1\n"), ("cpp", "\nstruct Made { Made(); } made;\n")])
def test_what_would_run_in_the_tests_of_others_goes_alone(judges: Callable[[str], Language], name: str, added: str) -> None:
    problem = OF[name].problem
    assert judges(name).goes_with_others(problem)
    assert not judges(name).goes_with_others(replace(problem, test=problem.test + added))
    if name == "go":
        assert not judges(name).goes_with_others(replace(problem, prompt=f"{added}{go_problems.DOUBLE}"))


@pytest.mark.parametrize("tests", [
    "int main(){ return 1; }", "int main( void )\n{ char brace = '}'; if (brace != '}') return 1; }",
    "/* int main(){ } */\nint main(){ const char* text = \"}\"; (void) text; } // int main(){\nbool helper(){ return true; }"])
def test_a_main_becomes_a_function_that_returns_0_as_it_would(tests: str, judges: Callable[[str], Language]) -> None:
    assert cpp_together.has_one_main(tests)
    judge = judges("cpp")
    alone = replace(OF["cpp"].problem, test=tests, task_id="Own/alone")
    verdicts = []
    for expected in ([], [alone, OF["cpp"].problem]):
        fresh = type(judge)(judge.sandbox, judge.limits)
        fresh.expect(expected)
        verdicts.append(fresh.judge(alone, "", OF["cpp"].right).status)
    assert verdicts == (["failed"] * 2 if "return 1; }" in tests[:24] else ["passed"] * 2)
