"""Go programs are judged as `go test` would, and hostile ones never pass."""

from __future__ import annotations

import os
import shutil
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest

from megatron_ft.errors import EvaluationError
from megatron_ft.evaluation import benchmark, sandbox
from megatron_ft.evaluation.benchmark import Problem
from megatron_ft.evaluation.languages import go as go_module
from megatron_ft.evaluation.languages.go import Go
from megatron_ft.evaluation.sandbox import Limits
from tests.evaluation.conftest import sandbox_or_skip
from tests.evaluation.problems import make_problem

SETUP = 'package main\n\nimport (\n    "testing"\n    "github.com/stretchr/testify/assert"\n)\n'
DOUBLE = "func Double(x int) int {\n"
TEST = "func TestDouble(t *testing.T) {\n    assert := assert.New(t)\n    assert.Equal(4, Double(2))\n}\n"
LIMITS = Limits(cpu_s=5, wall_s=60, memory_bytes=2**30, output_bytes=2**20)
SHORT = replace(LIMITS, cpu_s=1, wall_s=4)  # for what must run into a time-out
SWEEP = ("0", "10", "12", "22", "27", "32", "38", "72", "95", "111", "112", "136", "162")
WRONG_AT_RANDOM = {"Go/95"}  # the order of a map decides what its canonical solution gives


def problem_of(function: str, checks: str, **changed: str) -> Problem:
    """A problem whose function begins as `function` does."""
    name = function[len("func "):function.index("(")]
    body = f"func Test{name}(t *testing.T) {{\n    assert := assert.New(t)\n{checks}\n}}\n"
    fields = {"task_id": "Go/own", "prompt": function, "declaration": function, "entry_point": name, "test": body,
              "test_setup": SETUP}
    return make_problem(**{**fields, **changed})


PROBLEM = problem_of(DOUBLE, "", test=TEST)


@pytest.fixture(scope="module")
def go() -> Go:
    """The judge of Go programs; skipped without a toolchain, failed without one under CI=true."""
    if shutil.which("go") is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("go is not on PATH: install golang-go")
    return Go(sandbox_or_skip(sandbox.TOOLS[0]), LIMITS)


def test_the_toolchain_is_checked_with_a_program_that_passes_and_one_that_fails(go: Go) -> None:
    assert set(go.check()) == {"go"}


def test_a_missing_toolchain_names_what_to_install(go: Go, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(go_module.shutil, "which", lambda name: None)
    with pytest.raises(EvaluationError, match="not on PATH: install golang-go"):
        Go(go.sandbox).check()


@pytest.mark.parametrize(("body", "status", "reason"), [
    ("return x * 2\n}", "passed", ""),
    ("return x * 3\n}", "failed", "TestDouble: Not equal: expected: 4 actual : 6, at test line 3: assert.Equal(4, Double(2))"),
    ("return y\n}", "compile error", "undefined: y"),
    ("return x *\n}", "compile error", "program.go:3:1: expected operand"),
    ('panic("no")\n}', "failed", "Double panicked: no, at test line 3: assert.Equal(4, Double(2))"),
    ("return []int{}[x]\n}", "failed", "Double panicked: runtime error: index out of range [2] with length 0"),
    ("os.Exit(0)\nreturn 4\n}", "failed", "the program ended before its tests did (exit status 0)"),
    ("return Double(x)\n}", "failed", "the program ended before its tests did"),
    ("var none chan int\nreturn <-none\n}", "failed", "the program ended before its tests did (exit status 2)"),
    ("for {}\n}", "timeout", ""),
])
def test_the_status_and_the_reason_say_what_happened(go: Go, body: str, status: str, reason: str) -> None:
    verdict = Go(go.sandbox, SHORT if status == "timeout" else LIMITS).judge(PROBLEM, DOUBLE, DOUBLE + body)
    assert verdict.status == status, verdict
    assert reason in verdict.reason


@pytest.mark.parametrize("program", [
    'import "strings"\n' + DOUBLE + "return x * 2\n}",
    "package main\nimport (\n\t\"fmt\"\n\tm \"math\"\n)\n" + DOUBLE + "return int(m.Abs(float64(x * 2)))\n}",
    "import \"os\"\n\npackage main\n\nimport \"math\"\n" + DOUBLE + "return int(math.Abs(float64(x * 2)))\n}",
    DOUBLE + "return len(strings.Repeat(strconv.Itoa(7), x*2)) + rand.Intn(1)\n}",
    DOUBLE + "math := struct{ two int }{2}\nreturn x * math.two\n}",
    DOUBLE + "return x * 2\n}\nfunc main() { panic(0) }",
    DOUBLE + "return int(x) * 2\n}\nfunc init() { println(\"hello\") }",
    "func Double[T int | float64](x T) T {\nreturn x * 2\n}",
    "var _ = assert\nvar assert, testing, reflect, ask = 1, 2, 3, 4\n" + DOUBLE + "return x * 2\n}",
], ids=["unused import", "package clause", "two clauses", "missing imports", "a variable called math", "main", "init",
        "generic", "names of the tests"])
def test_a_right_program_passes_however_it_is_written(go: Go, program: str) -> None:
    verdict = go.judge(PROBLEM, DOUBLE, program)
    assert verdict.passed, verdict


VALUES = [
    "nil", "true", "-7", "int8(-8)", "int16(300)", "int32(-70000)", "int64(math.MinInt64)", "uint(7)", "uint8(255)",
    "uint16(65535)", "uint32(1 << 31)", "uint64(math.MaxUint64)", "float32(0.1)", "0.1", "5e-324", "math.Inf(-1)",
    "1 + 2i", '""', '"\\x00\\xff☃"', "'c'", "[]int{}", "[]int(nil)", "[]int{1, -2}", "[][]string{{}, nil, {\"a\"}}",
    "[2]int{1, 2}", "[2]interface{}{nil, 1}", "[]interface{}{1, 2.5, nil, \"x\", []int{3}}", "[]byte(\"\\x00a\")",
    "map[string]int{}", "map[string][]int{\"a\": {1}, \"b\": nil}", "map[interface{}]interface{}{1: \"a\", \"b\": 2.5}",
    "map[rune]int{'a': 2}", "errors.New(\"bad\")", "[0]int{}", "[]bool{true, false}",
]


@pytest.mark.parametrize("typed", [False, True])
def test_values_of_every_type_come_back_as_they_went(go: Go, typed: bool) -> None:
    """With their dynamic types behind an interface{}, and as declared ones; nil stays apart from empty."""
    if not typed:
        checks = "\n".join(f"    assert.Equal({value}, Echo({value}))" for value in VALUES)
        checks += "\n    assert.True(math.Signbit(Echo(math.Copysign(0, -1)).(float64)))"
        function = "func Echo(x interface{}) interface{} {"
    else:
        function = ("type Point struct {\n    X, y int\n    Next *Point\n}\n"
                    "func Echo(a []int8, b map[string][2]float32, c Point, d *int, e error, f ...Point) "
                    "(x []int8, y map[string][2]float32, z Point, u *int, v error, w []Point) {")
        checks = (
            "    seven := 7\n    point := Point{1, -2, &Point{3, 4, nil}}\n"
            "    a, b, c, d, e, f := Echo([]int8{-1}, map[string][2]float32{\"k\": {0.1, 2}}, point, &seven,"
            " errors.New(\"bad\"), point, Point{})\n"
            "    assert.Equal([]int8{-1}, a)\n    assert.Equal(map[string][2]float32{\"k\": {0.1, 2}}, b)\n"
            "    assert.Equal(point, c)\n    assert.Equal(7, *d)\n    assert.EqualError(e, \"bad\")\n"
            "    assert.Equal([]Point{point, {}}, f)\n"
            "    a, b, _, d, e, f = Echo(nil, nil, point, nil, nil)\n"
            "    assert.True(a == nil && b == nil && d == nil && e == nil && len(f) == 0)")
    problem = problem_of("func Echo(", checks, prompt=function, declaration=function)
    verdict = go.judge(problem, function, function + ("\n    return a, b, c, d, e, f\n}" if typed else "\n    return x\n}"))
    assert verdict.passed, verdict


def test_types_are_told_apart_as_testify_does(go: Go) -> None:
    function = "func One() interface{} {"
    problem = problem_of(function, "    assert.Equal(1, One())")
    for value, status in (("1", "passed"), ("int64(1)", "failed"), ("1.0", "failed"), ('"1"', "failed")):
        assert go.judge(problem, function, f"{function} return {value} }}").status == status
    empty = problem_of("func None() []int {", "    assert.Equal([]int{}, None())")
    assert go.judge(empty, "", "func None() []int { return []int{} }").passed
    assert go.judge(empty, "", "func None() []int { return nil }").status == "failed"


def test_what_a_call_changed_in_place_is_seen_by_the_tests(go: Go) -> None:
    function = "func Change(a []int, b map[string]int, c [][]int, d *int, e [2]int, f interface{}) {"
    problem = problem_of(function, "\n".join([
        "    a, b, c, d := []int{3, 1, 2}, map[string]int{\"x\": 1}, [][]int{{1}, {2}}, 1",
        "    e, f := [2]int{1, 2}, []int{1}",
        "    Change(a, b, c, &d, e, f)",
        "    assert.Equal([]int{1, 2, 3}, a)", "    assert.Equal(map[string]int{\"y\": 2}, b)",
        "    assert.Equal([][]int{{9}, {2}}, c)", "    assert.Equal(5, d)", "    assert.Equal([2]int{1, 2}, e)",
        "    assert.Equal([]int{8}, f)"]))
    body = ('\nsort.Ints(a)\na = append(a, 4)\ndelete(b, "x")\nb["y"] = 2\nc[0][0] = 9\n*d = 5\ne[0] = 7\n'
            "f.([]int)[0] = 8\n}")
    verdict = go.judge(problem, function, function + body)
    assert verdict.passed, verdict


def test_a_panic_is_what_a_test_may_expect(go: Go) -> None:
    problem = problem_of(DOUBLE, "    assert.Panics(func() { Double(1) })\n    assert.Equal(4, Double(2))")
    assert go.judge(problem, DOUBLE, DOUBLE + "if x == 1 { panic(x) }\nreturn x * 2 }").passed
    assert not go.judge(problem, DOUBLE, DOUBLE + "return x * 2 }").passed


def test_helpers_come_from_the_prompt_where_the_declaration_lacks_them(go: Go) -> None:
    """As in Go/10; a helper that the tests call is the problem's own, whatever the program makes of it."""
    prompt = "import \"math\"\n\nfunc Off(x int) float64 { return math.Abs(float64(x - 4)) }\n\n" + DOUBLE
    problem = problem_of(DOUBLE, "    assert.Equal(0.0, Off(Double(2)))", prompt=prompt)
    assert go.judge(problem, DOUBLE, DOUBLE + "return x * 2 + int(Off(4)) }").passed
    bent = "func Off(x int) float64 { return 0 }\n" + DOUBLE + "return 5 }"
    assert go.judge(problem, DOUBLE, bent).status == "failed"


def test_tests_that_do_not_compile_stop_the_run(go: Go) -> None:
    with pytest.raises(EvaluationError, match=r"(?s)Go/own: its tests do not compile.*undefined: nothing"):
        go.judge(problem_of(DOUBLE, "    nothing()"), DOUBLE, DOUBLE + "return 1 }")


# Go statements of a function that says whether they worked -> the statuses that the program may get.
ATTACKS = {
    "reads the host's home": ('files, _ := os.ReadDir("/root"); return len(files) > 0', {"failed"}),
    "reads the environment": ('return strings.Contains(strings.Join(os.Environ(), ""), "SECRET_OF_THE_TEST")', {"failed"}),
    "reads its tests": (
        'out, _ := exec.Command("grep", "-rl", "Test[D]ouble", "/box", "/tmp").Output(); return len(out) > 0', {"failed"}),
    "looks into /proc": ('_, err := os.ReadDir("/proc"); return err == nil', {"failed"}),
    "finds its source": ('_, file, _, _ := runtime.Caller(0); _, err := os.Stat(file); return err == nil', {"failed"}),
    "finds the token in its arguments": ("return len(os.Args) > 1", {"failed"}),
    "connects to the host": ('_, err := net.DialTimeout("tcp", "127.0.0.1:PORT", 1e9); return err == nil', {"failed"}),
    "kills everything": ("syscall.Kill(-1, 9); return false", {"failed"}),
    "writes outside of /tmp": ('_, err := os.Create("/usr/lib/hostile"); return err == nil', {"failed"}),
    "floods threads": (
        "for i := 0; i < 500; i++ { go func() { runtime.LockOSThread(); time.Sleep(time.Hour) }() }\n"
        "time.Sleep(time.Second); return true", {"failed"}),
    "forks without end": (
        "for { syscall.RawSyscall(syscall.SYS_FORK, 0, 0, 0) }", {"timeout", "failed", "refused"}),
    "takes memory": (
        "var kept [][]byte\nfor { block := make([]byte, 1<<26); for i := range block { block[i] = 1 }\n"
        "kept = append(kept, block) }\nreturn len(kept) > 0", {"failed", "refused"}),
    "loops, all signals held": ("signal.Ignore(); signal.Notify(make(chan os.Signal, 9)); for {}", {"timeout"}),
    "sleeps": ("time.Sleep(time.Hour); return true", {"timeout"}),
    "writes without end": ("for { os.Stdout.Write(make([]byte, 1<<16)) }", {"refused"}),
    "fills the disk": (
        'for i := 0; i < 100; i++ { if os.WriteFile("/tmp/" + strconv.Itoa(i), make([]byte, 1<<22), 0o600) != nil '
        "{ return false } }\nreturn true", {"failed"}),
    "writes a verdict to every file": (
        'for i := 0; i < 200; i++ { syscall.Write(i, []byte("ready\\npassed\\n")) }\nreturn false', {"failed", "refused"}),
    "writes an answer of its own to every file": (
        "answer := append([]byte{10, 0, 0, 0, 1, 5}, make([]byte, 8)...)\n"
        "for i := 3; i < 200; i++ { syscall.Write(i, answer) }\nreturn false", {"failed", "refused"}),
    "announces an answer without end": (
        'for i := 3; i < 200; i++ { syscall.Write(i, []byte("\\xff\\xff\\xff\\xff")) }\nreturn false', {"failed", "refused"}),
    "closes every file": ("for i := 0; i < 200; i++ { syscall.Close(i) }\nreturn true", {"failed"}),
}

# Whole programs.
PROGRAMS = {
    "leaves before its tests": ("func init() { os.Exit(0) }\n" + DOUBLE + "return 4 }", {"failed"}),
    "leaves in its main": ("func main() { os.Exit(0) }\n" + DOUBLE + "return 5 }", {"failed"}),
    "hangs before its tests": ("func init() { for {} }\n" + DOUBLE + "return 4 }", {"timeout"}),
    "shadows what compares": (
        "type T struct{}\nfunc Equal(a, b interface{}) bool { return true }\nvar true = false\n"
        "type int float64\n" + DOUBLE + "return 5 }", {"failed", "refused", "compile error"}),
    "embeds the file that it is compiled in": (
        "import _ \"embed\"\n//go:embed main.go\nvar text string\n" + DOUBLE + "return len(text) }", {"compile error"}),
    "links into the runtime": (
        "import _ \"unsafe\"\n//go:linkname exit os.runtime_beforeExit\nfunc exit(int) {}\n" + DOUBLE + "return 4 }",
        {"compile error"}),
    "calls C": ("import \"C\"\n" + DOUBLE + "return int(C.double(x)) }", {"compile error"}),
    "imports the tests' side": ("import \"megatron_ft/ask\"\n" + DOUBLE + "ask.Run(\"\")\nreturn 4 }", {"compile error"}),
    "replaces its own server": (
        "import \"megatron_ft/answer\"\n" + DOUBLE + "answer.Function(func(string) {})\nreturn 5 }", {"failed"}),
    "takes back its recursion's end": (DOUBLE + "defer func() { recover() }()\nreturn Double(x + 1) }", {"failed"}),
    "ends its goroutine": (DOUBLE + "runtime.Goexit()\nreturn 4 }", {"failed"}),
    "ends all with a concurrent map": (
        DOUBLE + "m := map[int]int{}\nfor i := 0; i < 8; i++ { go func() { for { m[1]++ } }() }\nfor { m[1]++ } }",
        {"failed", "timeout"}),
    "is nested too deep to compile": (DOUBLE + "return " + "(" * 200000 + "4" + ")" * 200000 + "}", {"compile error"}),
    "makes an array too large to compile": ("var a = [1 << 30]byte{1<<30 - 1: 1}\n" + DOUBLE + "return 4 + 0*len(a)}",
                                            {"compile error", "refused", "failed"}),
    "has a zero byte": (DOUBLE + "return 4 } // \0", {"compile error"}),
    "has half a character": (DOUBLE + "return 5 } // \udc80", {"failed", "compile error"}),
    "defines nothing": ("var x = 1", {"compile error"}),
    "is longer than a program": ("//" + "#" * 2**20, {"refused"}),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_does_not_work(go: Go, attack: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, statuses = ATTACKS[attack]
    monkeypatch.setenv("SECRET_OF_THE_TEST", "1")
    with socket.create_server(("127.0.0.1", 0)) as server:
        program = ("func succeeded() bool {\n" + text.replace("PORT", str(server.getsockname()[1])) + "\n}\n"
                   + DOUBLE + "if succeeded() { return x * 2 }\nreturn -1\n}")
        verdict = Go(go.sandbox, SHORT if "timeout" in statuses else LIMITS).judge(PROBLEM, DOUBLE, program)
    assert verdict.status in statuses, verdict


@pytest.mark.parametrize("kind", PROGRAMS)
def test_a_hostile_program_does_not_pass(go: Go, kind: str) -> None:
    program, statuses = PROGRAMS[kind]
    verdict = Go(go.sandbox, SHORT if "timeout" in statuses else LIMITS).judge(PROBLEM, DOUBLE, program)
    assert verdict.status in statuses, verdict


def test_a_value_that_is_not_carried_equals_nothing(go: Go) -> None:
    function = "func Any() interface{} {"
    problem = problem_of(function, "    assert.Equal(Any(), Any())")
    for value in ("struct{}{}", "time.Second", "func() {}", "new(bytes.Buffer)"):
        assert go.judge(problem, function, f"{function} return {value} }}").status == "failed"
    loop = "type L []interface{}\n" + function + " a := []interface{}{nil}; a[0] = a; return a }"
    assert go.judge(problem, function, loop).status == "failed"


def test_an_orphan_in_a_session_of_its_own_is_killed(go: Go) -> None:
    marker = f"{os.getpid()}{time.monotonic_ns()}"
    orphan = (f'func init() {{ c := exec.Command("sleep", "3600.{marker}")\n'
              "c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}\nc.Start() }\n" + DOUBLE + "return x * 2 }")
    verdict = go.judge(PROBLEM, DOUBLE, orphan)
    assert verdict.passed, verdict
    deadline = time.monotonic() + 30
    while any(marker.encode() in line for line in command_lines()):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def command_lines() -> list[bytes]:
    """What runs on this machine."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes())
        except OSError:  # it ended while we looked
            continue
    return found


def test_deleting_everything_deletes_nothing_outside(go: Go, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text("here")
    attack = ('func init() { for _, p := range []string{"/box", "/tmp", "/etc", "/usr", "/bin"} { os.RemoveAll(p) }\n'
              f'os.Symlink("{kept}", "/tmp/link"); os.WriteFile("/tmp/link", []byte("gone"), 0o644) }}\n'
              + DOUBLE + "return x * 2 }")
    assert go.judge(PROBLEM, DOUBLE, attack).passed
    assert kept.read_text() == "here"
    assert not Path("/tmp/link").exists()


@pytest.mark.slow
def test_humanevalpack_s_solutions_pass_and_its_bugs_fail(go: Go, humanevalpack: Path) -> None:
    """On both bases; MEGATRON_FT_SWEEP=all takes every problem."""
    problems = benchmark.read(humanevalpack.with_name("go.jsonl")).problems
    if os.environ.get("MEGATRON_FT_SWEEP") != "all":
        problems = tuple(problem for problem in problems if problem.task_id.split("/")[1] in SWEEP)
    wrong = set()
    for problem in problems:
        for base in (problem.prompt, problem.declaration):
            right = go.judge(problem, base, base + problem.canonical_solution)
            bug = go.judge(problem, base, base + problem.buggy_solution)
            if not right.passed or bug.passed:
                wrong.add((problem.task_id, right.reason, bug.status))
    assert {name for name, *_ in wrong} <= WRONG_AT_RANDOM, wrong
