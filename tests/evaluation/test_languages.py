"""What is the same in all languages: how programs are judged, what stops a run, what a missing toolchain says."""

from __future__ import annotations

import gc
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from megatron_ft.errors import EvaluationError
from megatron_ft.evaluation import benchmark, judging, languages, scenarios
from megatron_ft.evaluation.languages.base import Language
from megatron_ft.evaluation.sandbox import Sandbox
from tests.evaluation import cpp_problems, go_problems, java_problems, js_problems, rust_problems
from tests.evaluation.hostile.together import limited
from tests.evaluation.judges import OF, Programs, hurried
from tests.evaluation.problems import make_problem


@pytest.fixture(params=languages.LANGUAGES)
def judge(request: pytest.FixtureRequest, judges: Callable[[str], Language]) -> Language:
    """The judge of each language."""
    return judges(request.param)


@pytest.fixture
def own(judge: Language) -> Programs:
    """Its problem and programs."""
    return OF[judge.name]


@pytest.mark.parametrize("kind", ["right", "prints"])
def test_a_right_program_passes(judge: Language, own: Programs, kind: str) -> None:
    verdict = judge.judge(own.problem, own.problem.prompt, getattr(own, kind))
    assert (verdict.status, verdict.reason) == ("passed", ""), verdict
    assert ("printed" in verdict.output) is (kind == "prints")


@pytest.mark.parametrize(("kind", "status"), [("wrong", "failed"), ("uncompiled", "compile error"), ("throws", "failed"),
                                              ("other", "failed|compile error")])
def test_the_reason_says_what_is_wrong(judge: Language, own: Programs, kind: str, status: str) -> None:
    program, reason = getattr(own, kind)
    verdict = judge.judge(own.problem, own.problem.prompt, program)
    assert re.fullmatch(status, verdict.status), verdict
    assert re.search(reason, verdict.reason), verdict


@pytest.mark.parametrize("mode", ["fixed", "compat"])
def test_without_a_sandbox_programs_that_run_at_once_are_kept_apart(judge: Language, own: Programs, mode: str, tmp_path: Path,
                                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has a folder of its own, in which it begins and of which nothing stays."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    shared = set(Path("/tmp").iterdir())
    asked = scenarios.task(own.problem, "synthesize", judge.name)

    def statuses(unsafe: judging.Judge) -> list[str]:
        with ThreadPoolExecutor(3) as pool:
            verdicts = pool.map(lambda program: unsafe.judge(asked, program), [own.right, own.wrong[0]] * 3)
        return [verdict.status for verdict in verdicts]

    unboxed = Sandbox("none", as_root=False, locked=False, filtered=False)
    assert statuses(judging.MODES[mode](type(judge)(unboxed, judge.limits), "")) == ["passed", "failed"] * 3
    gc.collect()  # ends java's compilers, which stay
    assert not list(tmp_path.glob("megatron_ft-run-*"))
    left = {path.name for path in set(Path("/tmp").iterdir()) - shared}
    assert not {"cache", "made", "main_test.go", "test.js", "Main.class", "Main.java"} & left


def test_leaving_is_no_pass(judge: Language, own: Programs) -> None:
    verdict = judge.judge(own.problem, own.problem.prompt, own.leaves)
    assert (verdict.status, verdict.reason) == ("failed", "the program ended before its tests did (exit status 7)")


def test_a_time_out_names_its_limit(judge: Language, own: Programs) -> None:
    verdict = hurried(judge).judge(own.problem, own.problem.prompt, own.loops)
    assert verdict.status == "timeout", verdict
    assert re.fullmatch(r"used more than \d s of cpu time|not done after 6 s", verdict.reason)


def test_a_program_that_is_too_long_is_not_run(judge: Language, own: Programs) -> None:
    verdict = judge.judge(own.problem, own.problem.prompt, own.right + "\n" * 2**20)
    assert verdict.status == "refused"
    assert "1048576" in verdict.reason


def test_a_helper_that_the_tests_use_is_the_problem_s_own(judge: Language, own: Programs) -> None:
    problem, bent = own.helper
    assert judge.judge(problem, problem.prompt, bent).status == "failed"
    right = judge.assemble(problem, problem.prompt, own.continued)
    assert judge.judge(problem, problem.prompt, right).passed


def test_a_completion_becomes_a_program_that_is_judged(judge: Language, own: Programs) -> None:
    program = judge.assemble(own.problem, own.problem.prompt, own.continued)
    verdict = judge.judge(own.problem, own.problem.prompt, program)
    assert verdict.passed, (program, verdict)


def test_tests_that_cannot_be_run_stop_the_run(judge: Language, own: Programs) -> None:
    problem, said = own.uncompiled_tests
    with pytest.raises(EvaluationError, match=f"{problem.task_id}: its .*{said}" if "(?s)" not in said else said):
        judge.judge(problem, problem.prompt, own.right)


def test_the_toolchain_is_checked_with_a_program_that_passes_and_one_that_fails(judge: Language) -> None:
    told = {"python": {"python", "numpy"}, "js": {"node", "js-md5"}, "java": {"javac"}, "cpp": {"g++"}, "rust": {"rustc"}}
    assert set(judge.check()) == told.get(judge.name, {judge.name})


@pytest.mark.parametrize(("name", "said"), [
    ("js", "there is none on PATH: install the Debian package nodejs"),
    ("java", "not on PATH: install openjdk-17-jdk-headless"), ("go", "not on PATH: install golang-go"),
    ("cpp", "there is none on PATH; install the Debian packages g\\+\\+ libboost-dev libssl-dev"),
    ("rust", "there is no rustc on PATH; install the Debian packages rustc gcc")])
def test_a_missing_toolchain_names_what_to_install(judges: Callable[[str], Language], monkeypatch: pytest.MonkeyPatch,
                                                   name: str, said: str) -> None:
    judge = judges(name)
    monkeypatch.setattr(shutil, "which", lambda tool, *more, **options: None)
    with pytest.raises(EvaluationError, match=said):
        type(judge)(judge.sandbox).check()


# Language -> a problem whose tests hand on what the program returned, a program whose value cannot be handed on, the reason.
OBJECT = java_problems.IMPORTS + "class Own {} class Solution { public Object f(Object x) { BODY } }"
ECHO = "func Echo(x interface{}) interface{} {"
NESTED = "{ List<Object> y = List.of(1); for (int i = 0; i < 499; i++) y = new ArrayList<>(List.of(y)); return y; }"
HANDED_ON = {
    "python": (make_problem(test="double([{1: double(0)}])"), "class Own: pass\ndef double(x): return Own()",
               "TypeError: unusable value <Own object, not carried to the tests>"),
    "python, what was thrown": (
        make_problem(test="try:\n    double(0)\nexcept KeyError as problem:\n    double([problem])"),
        "def double(x): raise KeyError('no')", r"TypeError: unusable value KeyError"),
    "js": (js_problems.js_problem(test="double([double(2)])"), "const double = (x) => new Promise(() => 0).constructor",
           "TypeError: double gets a value of the program that is not carried to its tests"),
    "java": (java_problems.problem_of("public Object f(Object x)", "s.f(List.of(s.f(0)));"),
             OBJECT.replace("BODY", "return new Own();"), "f gets a value of the program that is not carried"),
    "java, itself": (java_problems.problem_of("public Object f(Object x)", "s.f(s.f(0));"),
                     OBJECT.replace("BODY", "return new Own();"), "f gets a value of the program that is not carried"),
    "java, too deep": (java_problems.problem_of("public Object f(Object x)", "s.f(List.of(List.of(List.of(s.f(0)))));"),
                       OBJECT.replace("BODY", NESTED), "f gets a value of the program that is not carried"),
    "java, what was thrown": (
        java_problems.problem_of("public Object f(Object x)",
                                 "try { s.f(0); } catch (IllegalStateException e) { s.f(List.of(e)); }"),
        OBJECT.replace("BODY", "throw new IllegalStateException();"), "f gets a value of the program that is not carried"),
    "go, too deep": (
        go_problems.problem_of("func Echo(", "    assert.NotNil(Echo([]interface{}{[]interface{}{Echo(0)}}))", prompt=ECHO,
                               declaration=ECHO),
        ECHO + "\nfor i := 0; i < 499; i++ { x = []interface{}{x} }\nreturn x\n}", "Echo with a value that is nested too deep"),
    "go, too long": (
        go_problems.problem_of("func Echo(", "    assert.NotNil(Echo([]interface{}{Echo(0), Echo(0)}))", prompt=ECHO,
                               declaration=ECHO),
        ECHO + "\nreturn make([]byte, 20<<20)\n}", "Echo with a value of more bytes than a message may have"),
    "cpp, too long": (cpp_problems.problem("string f(string x)", 'f(f("a") + f("b"));'),
                      "string f(string x){ return string(8000000, 'x'); }", "values that are too long, at call 2"),
    "rust, too long": (rust_problems.problem("f(x: &str) -> String", 'f(&(f("a") + &f("b")));'),
                       'fn f(x: &str) -> String { "x".repeat(8000000) }', "values that are too long, after 2 calls"),
}


@pytest.mark.parametrize("kind", HANDED_ON)
def test_tests_that_hand_on_a_program_s_strange_value_fail_it(judges: Callable[[str], Language], kind: str) -> None:
    """It is the program's choice what it returns: it must neither pass nor stop the run of all the others."""
    problem, program, reason = HANDED_ON[kind]
    verdict = judges(kind.partition(",")[0]).judge(problem, problem.prompt, program)
    assert verdict.status == "failed", verdict
    assert reason in verdict.reason


# Language -> a problem whose tests pass what is their own and cannot be carried, after a call that brought something.
OWN_STRANGE = {
    "python": (make_problem(test="double(1)\ndouble([lambda: 1])"), "a value of type function"),
    "python, an iterator": (make_problem(test="double(1)\ndouble(iter([1]))"), "a value of type list_iterator"),
    "js": (js_problems.js_problem(test="double(1)\ndouble((x) => x)"), "pass double a value of type function"),
    "java": (java_problems.problem_of("public Object f(Object x)", "s.f(1); s.f(List.of(new Thread()));"),
             "its tests pass a value of class java.lang.Thread"),
    "go, too long": (go_problems.problem_of("func Echo(", "    assert.NotNil(Echo(make([]byte, 33<<20)))", prompt=ECHO,
                                            declaration=ECHO), "Echo with a value of more bytes than a message may have"),
    "cpp, too long": (cpp_problems.problem("string f(string x)", "f(string(9000000, 'x'));"),
                      "the tests pass values that are too long, before the first call"),
    "rust, too long": (rust_problems.problem("f(x: &str) -> String", 'f(&"x".repeat(9000000));'),
                       "the tests pass values that are too long, after 0 calls"),
    "rust": (rust_problems.problem("f(x: &dyn Any) -> String", "f(&1u8);", "f(&vec![vec![1u8]]);"), "a dyn Any holds a value"),
}
SAME = {
    "python": "def double(x): return x", "js": "const double = (x) => x", "java": OBJECT.replace("BODY", "return x;"),
    "go": ECHO + " return x }", "cpp": "string f(string x){ return x; }",
    "rust": "use std::any::Any;\nfn f<T: ?Sized>(x: &T) -> String { String::new() }",
}


@pytest.mark.parametrize("kind", OWN_STRANGE)
def test_tests_that_pass_a_strange_value_of_their_own_stop_the_run(judges: Callable[[str], Language], kind: str) -> None:
    problem, reason = OWN_STRANGE[kind]
    name = kind.partition(",")[0]
    program = SAME[name] if kind != "rust" else "use std::any::Any;\nfn f(x: &dyn Any) -> String { String::new() }"
    with pytest.raises(EvaluationError, match=f"{problem.task_id}: .*{re.escape(reason)}.*cannot be executed as they are"):
        judges(name).judge(problem, problem.prompt, program)


def test_an_unknown_language_names_the_known_ones() -> None:
    with pytest.raises(EvaluationError, match="'cobol' cannot be executed here; use one of python, js"):
        languages.get("cobol")


SPREAD = {
    "js": (0, 32, 38, 50, 53, 87, 95, 107, 114, 129, 137, 162),
    "java": (0, 10, 22, 32, 38, 50, 95, 99, 111, 112, 136, 162),
    "go": (0, 10, 12, 22, 27, 32, 38, 72, 95, 111, 112, 136, 162),
    "cpp": (0, 10, 22, 23, 32, 38, 50, 87, 95, 111, 129, 137, 161, 162),
    "rust": (0, 2, 12, 20, 22, 32, 38, 50, 95, 111, 119, 137, 149, 162),
}
# Problem and base -> why its canonical solution does not pass, or not always.
DATA_FAULTS = {
    ("CPP/38", "declaration"): "the declaration holds the first half of the solution's body, which then comes twice",
    ("Go/95", "prompt"): "the order of a map decides what the canonical solution gives",
    ("Go/95", "declaration"): "the same",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SPREAD)
def test_solutions_of_humanevalpack_pass_and_buggy_ones_fail(judges: Callable[[str], Language], humanevalpack: Path,
                                                             name: str) -> None:
    """On both bases; MEGATRON_FT_SWEEP=all takes every problem."""
    known = judges(name)
    judge = limited(known, cpu_s=max(4, known.limits.cpu_s))  # CPP/137's bug never ends
    wrong = []
    for number, row in enumerate(benchmark.read(humanevalpack.with_name(f"{name}.jsonl")).problems):
        if number not in SPREAD[name] and os.environ.get("MEGATRON_FT_SWEEP") != "all":
            continue
        for base in ("prompt", "declaration"):
            for solution, passes in ((row.canonical_solution, True), (row.buggy_solution, False)):
                verdict = judge.judge(row, getattr(row, base), getattr(row, base) + solution)
                if verdict.passed is not passes and not (passes and (row.task_id, base) in DATA_FAULTS):
                    wrong.append((row.task_id, base, passes, verdict))
    assert not wrong
