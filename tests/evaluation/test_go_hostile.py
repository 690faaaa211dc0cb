"""What hostile Go programs answer their tests with; what they try in every language is in test_hostile.py."""

from __future__ import annotations

from dataclasses import replace

import pytest

from megatron_ft.evaluation.languages.go import Go
from tests.evaluation import go_problems
from tests.evaluation.go_problems import DOUBLE, PROBLEM, go_or_skip, problem_of
from tests.evaluation.hostile.together import judged, limited


@pytest.fixture(scope="module")
def go() -> Go:
    """The judge of Go programs."""
    return go_or_skip(replace(go_problems.LIMITS, cpu_s=10, wall_s=120))


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


ANSWERS = [
    [1, 17, *[255] * 3, *[0] * 5, 20, 0, 0],  # an array of 16 million interfaces
    [1, 17, 1, *[0] * 7, 17, *[255] * 7, 127, 20, 0, 0], [1, 23, 2, 1, 255, 255, 255, 127, 0], [1, *[23] * 3000],
    [1, 21, 23, 2, 2, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0, *[0] * 16],  # a map whose keys are slices
    [1, 24, 255, 255, 255, 127], [1, 200], [1], [], [1, 25, 1], [1, 19], [1, 20, 0, 2, 0], [7, 7, 7],
]
ANY = "func Any() interface{} {"


def answering(data: list[int]) -> str:
    """A program that sends this message in the place of an answer, on every descriptor, and then waits."""
    message = [*len(data).to_bytes(4, "little"), *data]
    return (f"{ANY} for i := 3; i < 1024; i++ {{ syscall.Write(i, []byte{{{', '.join(map(str, message))}}}) }}\n"
            "time.Sleep(time.Hour); return 4 }")


def test_a_value_that_is_not_carried_equals_nothing(go: Go) -> None:
    problem = problem_of(ANY, "    assert.Equal(Any(), Any())")
    values = ("struct{}{}", "time.Second", "func() {}", "new(bytes.Buffer)")
    programs = {value: (go, f"{ANY} return {value} }}") for value in values}
    programs["a loop"] = go, "type L []interface{}\n" + ANY + " a := []interface{}{nil}; a[0] = a; return a }"
    for kind, verdict in judged(programs, lambda judge, text: judge.judge(problem, ANY, text)).items():
        assert verdict.status == "failed", (kind, verdict)


def test_hostile_programs_do_not_pass(go: Go) -> None:
    hurried = limited(go, cpu_s=1)
    programs = {kind: (hurried if "timeout" in statuses else go, text) for kind, (text, statuses) in PROGRAMS.items()}
    for kind, verdict in judged(programs, lambda judge, text: judge.judge(PROBLEM, DOUBLE, text)).items():
        assert verdict.status in PROGRAMS[kind][1], (kind, verdict)


def test_answers_of_any_bytes_are_refused_or_wrong(go: Go) -> None:
    problem = problem_of(ANY, "    assert.Equal(4, Any())")
    programs = {str(answer): (go, answering(answer)) for answer in ANSWERS}
    for answer, verdict in judged(programs, lambda judge, text: judge.judge(problem, ANY, text)).items():
        assert verdict.status in ("refused", "failed"), (answer, verdict)
