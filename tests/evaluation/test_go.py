"""Go programs are judged as `go test` would."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from megatron_ft.errors import EvaluationError
from megatron_ft.evaluation import toolchain_cache
from megatron_ft.evaluation.languages import go as go_module
from megatron_ft.evaluation.languages.base import Language
from megatron_ft.evaluation.languages.go import Go
from tests.evaluation.go_problems import DOUBLE, PROBLEM, SETUP, problem_of


@pytest.fixture
def go(judges: Callable[[str], Language]) -> Go:
    """The judge of Go programs."""
    return judges("go")


def test_missing_packages_name_what_to_install(go: Go, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(go_module, "DEBIAN_PACKAGES", "/nowhere")
    monkeypatch.delenv("GOPATH", raising=False)
    with pytest.raises(EvaluationError, match="lies in none of /nowhere: install golang-github-stretchr-testify-dev"):
        Go(go.sandbox).check()


@pytest.mark.parametrize(("body", "status", "reason"), [
    ("return x * 3\n}", "failed", "TestDouble: Not equal: expected: 4 actual : 6, at test line 3: assert.Equal(4, Double(2))"),
    ("return y\n}", "compile error", "undefined: y"),
    ("return []int{}[x]\n}", "failed", "Double panicked: runtime error: index out of range [2] with length 0"),
    ("return Double(x)\n}", "failed", "the program ended before its tests did"),
    ("var none chan int\nreturn <-none\n}", "failed", "the program ended before its tests did (exit status 2)"),
])
def test_the_status_and_the_reason_say_what_happened(go: Go, body: str, status: str, reason: str) -> None:
    verdict = go.judge(PROBLEM, DOUBLE, DOUBLE + body)
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


def test_tests_of_http_handlers_are_none_that_can_be_judged(go: Go) -> None:
    """testify gets a stand-in for net/http: what it cannot do must not look like a wrong program. Tests have the real one."""
    program = DOUBLE + "return x * 2 }"
    setup = SETUP.replace('"testing"', '"testing"; "net/http"')
    known = problem_of(DOUBLE, "    assert.Equal(http.StatusText(404), \"Not Found\")\n    assert.Equal(4, Double(2))",
                       test_setup=setup)
    assert go.judge(known, DOUBLE, program).passed
    handler = "http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {})"
    handled = problem_of(DOUBLE, f'    assert.HTTPSuccess({handler}, "GET", "/", nil)', test_setup=setup)
    with pytest.raises(EvaluationError, match="tests do not compile"):
        go.judge(handled, DOUBLE, program)


def test_a_testify_that_asks_more_of_the_stand_in_gets_the_real_one(go: Go, monkeypatch: pytest.MonkeyPatch,
                                                                   tmp_path: Path) -> None:
    testify = tmp_path / "src" / go_module.TESTIFY
    shutil.copytree(go_module._testify(), testify)
    (testify / "assert" / "more.go").write_text('package assert\n\nimport "net/http"\n\nvar More = http.StatusTeapot\n')
    monkeypatch.setattr(go_module, "DEBIAN_PACKAGES", str(tmp_path))
    monkeypatch.setenv("GOPATH", "/usr/share/gocode")  # for what testify itself needs
    monkeypatch.setenv(toolchain_cache.VARIABLE, str(tmp_path / "cache"))
    newer = Go(go.sandbox, go.limits)
    assert newer.judge(problem_of(DOUBLE, "    assert.Equal(418, 414+Double(2))"), DOUBLE, DOUBLE + "return x * 2 }").passed
    assert "testify/vendor" not in (newer._toolchain / "tests.link").read_text()
