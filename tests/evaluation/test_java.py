"""Java programs are judged as one JVM with their tests would."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from megatron_ft.errors import EvaluationError
from megatron_ft.evaluation.languages.base import Language
from megatron_ft.evaluation.languages.java import Java, method_begun
from tests.evaluation.java_problems import PROBLEM, TWICE, problem_of


@pytest.fixture
def java(judges: Callable[[str], Language]) -> Java:
    """The judge of Java programs."""
    return judges("java")


@pytest.mark.parametrize(("body", "status", "reason"), [
    ("return x * 2; }", "compile error", "reached end of file while parsing"),
    ("return new int[0][x].length / (x - 2); } }", "failed", "ArithmeticException: / by zero"),
    ("return twice(x); } }", "failed", "StackOverflowError"),
    ("return 4; } public int twice(long x) { return 5; } }", "passed", ""),
    ("return 4; }\npublic static void main(String[] a) { System.exit(1); } }\npublic class Main {\n    }", "passed", ""),
])
def test_the_status_and_the_reason_say_what_happened(java: Java, body: str, status: str, reason: str) -> None:
    verdict = java.judge(PROBLEM, TWICE, TWICE + body)
    assert verdict.status == status, verdict
    assert reason in verdict.reason


@pytest.mark.parametrize("program", [
    "public class Solution { public int twice(int x) { List<Integer> l = List.of(x, x); return l.get(0) + l.get(1); } }",
    "class Solution { int twice(int... x) { return 0; } static int twice(int x) { return x * 2; } }",
    "package mine; class Solution { private Integer twice(int x) { return x * 2; } }",
    "abstract class Base { public int twice(int x) { return x * 2; } } class Solution extends Base {}",
    "record Pair(int a, int b) {} class Solution { int twice(int x) { var p = new Pair(x, x); return p.a() + p.b(); } }",
], ids=["public, without imports", "static, overloaded", "package", "inherited", "record"])
def test_a_right_program_passes_however_it_is_written(java: Java, program: str) -> None:
    verdict = java.judge(PROBLEM, TWICE, program)
    assert verdict.passed, verdict


VALUES = [
    "null", "true", "(byte) -8", "(short) 300", "-7", "Long.MIN_VALUE", "0.1f", "0.1", "Double.MIN_VALUE", "-0.0", "Double.NaN",
    "'\\uffff'", '""', '"\\0\\ud800x☃"', "new ArrayList<>()", "List.of(1, 2L, 2.5, \"x\", 'c')", "Arrays.asList(1, null)",
    "new LinkedList<>(List.of(1))", "List.of(List.of(), List.of(1))", "Map.of()", "new HashMap<>(Map.of(1, \"a\", \"b\", 2.5))",
    "new TreeMap<>(Map.of(\"b\", 1, \"a\", 2))", "Set.of(1)", "new TreeSet<>(List.of(3, 1, 2))", "Optional.empty()",
    "Optional.of(List.of(1))", "OptionalInt.of(3)", "OptionalDouble.of(0.1)",
    "new java.math.BigInteger(\"-1\" + \"0\".repeat(40))",
    "new java.math.BigDecimal(\"1.50\")", "new AbstractMap.SimpleEntry<>(1, 2)",
]
ARRAYS = ["new int[] {1, -2}", "new int[0][3]", "new String[][] {{\"a\"}, null}", "new char[] {'x'}", "new double[] {0.1}",
          "new Object[] {1, null, new int[] {2}}", "new boolean[] {true}", "new List[] {List.of(1)}"]


def test_values_of_every_type_come_back_as_they_went(java: Java) -> None:
    checks = [f"{{ Object v = {value}; check(Objects.equals(v, s.echo(v))); }}" for value in VALUES]
    checks += [f"{{ Object v = {value}; Object w = s.echo(v); check(v.getClass() == w.getClass());"
               " check(Objects.deepEquals(v, w)); }" for value in ARRAYS]
    checks += ['check(s.echo(new StringBuilder("ab")).toString().equals("ab"));',
               'check(s.echo(new TreeMap<>(Map.of("b", 1, "a", 2))).toString().equals("{a=2, b=1}"));']
    problem = problem_of("public Object echo(Object value)", "\n".join(checks))
    verdict = java.judge(problem, problem.prompt, problem.prompt + "return value; } }")
    assert verdict.passed, verdict


def test_types_are_told_apart_as_equals_does(java: Java) -> None:
    problem = problem_of("public List<Object> one()", "check(s.one().equals(List.of(1)));")
    for value, status in (("1", "passed"), ("1L", "failed"), ("1.0", "failed"), ('"1"', "failed"), ("'1'", "failed")):
        verdict = java.judge(problem, "", f"class Solution {{ public List<Object> one() {{ return List.of({value}); }} }}")
        assert verdict.status == status, verdict


def test_a_primitive_is_widened_as_java_does(java: Java) -> None:
    problem = problem_of("public double f(long x)", "check(s.f(3) == 3);")
    assert java.judge(problem, "", "class Solution { int f(long x) { return (int) x; } }").passed
    assert java.judge(problem, "", "class Solution { float f(double x) { return (float) x; } }").passed
    assert not java.judge(problem, "", "class Solution { String f(double x) { return \"3\"; } }").passed


def test_what_a_call_changed_in_place_is_seen_by_the_tests(java: Java) -> None:
    problem = problem_of(
        "public void change(List<Integer> a, int[] b, Map<String, Integer> c, List<List<Integer>> d, Set<Integer> e,"
        " StringBuilder f)",
        "List<Integer> a = new ArrayList<>(List.of(3, 1, 2)), fixed = Arrays.asList(2, 1); int[] b = {1, 2};\n"
        "Map<String, Integer> c = new HashMap<>(Map.of(\"x\", 1)); Set<Integer> e = new TreeSet<>(Set.of(1));\n"
        "List<List<Integer>> d = new ArrayList<>(); d.add(new ArrayList<>(List.of(1)));\n"
        "StringBuilder f = new StringBuilder(\"x\");\n"
        "s.change(a, b, c, d, e, f); s.change(fixed, new int[2], new HashMap<>(), new ArrayList<>(d), new HashSet<>(), f);\n"
        "check(a.equals(List.of(1, 2, 3)) && fixed.equals(List.of(1, 2)) && Arrays.equals(b, new int[] {1, 9}));\n"
        "check(c.equals(Map.of(\"y\", 2)) && d.equals(List.of(List.of(1, 7))) && e.equals(Set.of(5)));\n"
        "check(f.toString().equals(\"xyy\"));")
    body = ('Collections.sort(a); b[1] = 9; c.clear(); c.put("y", 2); if (d.get(0).size() < 2) d.get(0).add(7);'
            ' e.clear(); e.add(5); f.append("y"); } }')
    verdict = java.judge(problem, problem.prompt, problem.prompt + body)
    assert verdict.passed, verdict


def test_what_cannot_be_changed_stays_so(java: Java) -> None:
    """As in one JVM: a program that adds to what Arrays.asList made runs into an exception there too."""
    for made in ("Arrays.asList(1)", "List.of(1)"):
        problem = problem_of("public int count(List<Integer> a)", f"check(s.count({made}) == 2);")
        verdict = java.judge(problem, problem.prompt, problem.prompt + "a.add(1); return a.size(); } }")
        assert "UnsupportedOperationException" in verdict.reason


def test_an_object_keeps_its_state_between_calls(java: Java) -> None:
    problem = problem_of("public int next()", "check(s.next() == 1 && s.next() == 2 && new Solution().next() == 1);")
    assert java.judge(problem, "", "class Solution { int n; public int next() { return ++n; } }").passed


def test_an_exception_is_what_a_test_may_catch(java: Java) -> None:
    problem = problem_of("public int f(int x) throws java.io.IOException",
                         "try { s.f(1); check(false); } catch (java.io.IOException expected) { check(s.f(2) == 4); }")
    program = ("class Own extends java.io.IOException {} class Solution { public int f(int x) throws Own "
               "{ if (x == 1) throw new Own(); return x * 2; } }")
    assert java.judge(problem, "", program).passed


@pytest.mark.parametrize(("head", "expected"), [
    ("public static <T extends Comparable<T>> Map<String, List<T>> f(final Map<String, List<T>> a, int[] b, T... c) throws E",
     ("f", ("a", "b", "c"), True, False)),
    ("void g()", ("g", (), False, True)),
    ("public int[][] h(@Deprecated int x)", ("h", ("x",), False, False)),
])
def test_the_method_that_a_prompt_begins_is_found(head: str, expected: tuple) -> None:
    assert method_begun(problem_of(head, "")) == expected


def test_a_prompt_without_a_method_stops_the_run(java: Java) -> None:
    with pytest.raises(EvaluationError, match="Java/own: its prompt does not end with the head of a method"):
        java.judge(replace(PROBLEM, prompt="class Solution {\n    int x;\n"), "", "class Solution {}")


def test_programs_compiled_at_the_same_time_do_not_meet(java: Java) -> None:
    """And a compiler that died with the thread that started it is replaced."""
    def right(number: int) -> bool:
        program = TWICE + f"return x + {number}; }} }}"
        return java.judge(PROBLEM, TWICE, program).passed == (number == 2)

    for _ in range(2):
        with ThreadPoolExecutor(3) as pool:
            assert all(pool.map(right, range(4)))
    assert threading.active_count() < 20
