"""What hostile Go programs answer their tests with; what they try in every language is in test_hostile.py."""

from __future__ import annotations

import pytest

from megatron_ft.evaluation.languages.go import Go
from tests.evaluation.go_problems import DOUBLE, PROBLEM, SHORT, go_or_skip, problem_of


@pytest.fixture(scope="module")
def go() -> Go:
    """The judge of Go programs."""
    return go_or_skip()


@pytest.fixture(scope="module")
def hurried() -> Go:
    """The same with little time."""
    return go_or_skip(SHORT)


# Whole programs.
PROGRAMS = {
    "leaves in its main": ("func main() { os.Exit(0) }\n" + DOUBLE + "return 5 }", {"failed"}),
    "hangs before its tests": ("func init() { for {} }\n" + DOUBLE + "return 4 }", {"timeout"}),
    "links into the runtime": (
        "import _ \"unsafe\"\n//go:linkname exit os.runtime_beforeExit\nfunc exit(int) {}\n" + DOUBLE + "return 4 }",
        {"compile error"}),
    "calls C": ("import \"C\"\n" + DOUBLE + "return int(C.double(x)) }", {"compile error"}),
    "imports the tests' side": ("import \"megatron_ft/ask\"\n" + DOUBLE + "ask.Run(\"\")\nreturn 4 }", {"compile error"}),
    "takes back its recursion's end": (DOUBLE + "defer func() { recover() }()\nreturn Double(x + 1) }", {"failed"}),
    "reserves more than there is": ("var a [1 << 30]byte\n" + DOUBLE + "return 4 + int(a[x]) }", {"refused"}),
    "has half a character": (DOUBLE + "return 5 } // \udc80", {"failed", "compile error"}),
}


@pytest.mark.parametrize("kind", PROGRAMS)
def test_a_hostile_program_does_not_pass(go: Go, hurried: Go, kind: str) -> None:
    program, statuses = PROGRAMS[kind]
    verdict = (hurried if "timeout" in statuses else go).judge(PROBLEM, DOUBLE, program)
    assert verdict.status in statuses, verdict


def test_a_value_that_is_not_carried_equals_nothing(go: Go) -> None:
    function = "func Any() interface{} {"
    problem = problem_of(function, "    assert.Equal(Any(), Any())")
    for value in ("struct{}{}", "time.Second", "func() {}", "new(bytes.Buffer)"):
        assert go.judge(problem, function, f"{function} return {value} }}").status == "failed"
    loop = "type L []interface{}\n" + function + " a := []interface{}{nil}; a[0] = a; return a }"
    assert go.judge(problem, function, loop).status == "failed"


@pytest.mark.parametrize("answer", [
    [1, 17, *[255] * 3, *[0] * 5, 20, 0, 0],  # an array of 16 million interfaces
    [1, 17, 1, *[0] * 7, 17, *[255] * 7, 127, 20, 0, 0], [1, 23, 2, 1, 255, 255, 255, 127, 0], [1, *[23] * 3000],
    [1, 21, 23, 2, 2, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0, *[0] * 16],  # a map whose keys are slices
    [1, 24, 255, 255, 255, 127], [1, 200], [1], [], [1, 25, 1], [1, 19], [1, 20, 0, 2, 0], [7, 7, 7],
])
def test_an_answer_of_any_bytes_is_refused_or_wrong(go: Go, answer: list[int]) -> None:
    function = "func Any() interface{} {"
    problem = problem_of(function, "    assert.Equal(4, Any())")
    message = [*len(answer).to_bytes(4, "little"), *answer]
    program = (f"{function} for i := 3; i < 1024; i++ {{ syscall.Write(i, []byte{{{', '.join(map(str, message))}}}) }}\n"
               "time.Sleep(time.Hour); return 4 }")
    verdict = go.judge(problem, function, program)
    assert verdict.status in ("refused", "failed"), verdict
    assert verdict.seconds < 20
