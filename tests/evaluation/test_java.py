"""Java programs are judged as one JVM with their tests would, and hostile ones never pass."""

from __future__ import annotations

import os
import shutil
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from megatron_ft.errors import EvaluationError
from megatron_ft.evaluation import benchmark, sandbox
from megatron_ft.evaluation.benchmark import Problem
from megatron_ft.evaluation.languages import java as java_module
from megatron_ft.evaluation.languages.java import Java, method_begun
from megatron_ft.evaluation.sandbox import Limits
from tests.evaluation.conftest import sandbox_or_skip
from tests.evaluation.problems import make_problem

IMPORTS = "import java.util.*;\nimport java.lang.*;\n\n"
TWICE = IMPORTS + "class Solution {\n    public int twice(int x) {\n"
LIMITS = Limits(cpu_s=8, wall_s=60, memory_bytes=2**30, output_bytes=2**20, address_space=False, processes=40)
SHORT = replace(LIMITS, cpu_s=2, wall_s=6)  # for what must run into a time-out
SWEEP = ("0", "10", "22", "32", "38", "50", "95", "99", "111", "112", "136", "162")


def problem_of(head: str, checks: str, *, helpers: str = "") -> Problem:
    """A problem whose method begins with `head`; `checks` are statements of its tests, in which `s` is the Solution."""
    prompt = f"{IMPORTS}class Solution {{\n{helpers}    {head} {{\n"
    test = ("public class Main {\n    static void check(boolean right) { if (!right) throw new AssertionError(); }\n"
            f"    public static void main(String[] args) throws Exception {{\n        Solution s = new Solution();\n{checks}\n"
            "    }\n}\n")
    return make_problem(task_id="Java/own", prompt=prompt, declaration=prompt, test=test, entry_point="any")


PROBLEM = problem_of("public int twice(int x)", "check(s.twice(2) == 4);")


@pytest.fixture(scope="module")
def java() -> Java:
    """The judge of Java programs; skipped without a toolchain, failed without one under CI=true."""
    if shutil.which("javac") is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("no javac on PATH: install openjdk-17-jdk-headless")
    return Java(sandbox_or_skip(sandbox.TOOLS[0]), LIMITS)


@pytest.fixture(scope="module")
def hurried(java: Java) -> Java:
    """The same with little time."""
    return Java(java.sandbox, SHORT)


def test_the_toolchain_is_checked_with_a_program_that_passes_and_one_that_fails(java: Java) -> None:
    assert set(java.check()) == {"javac"}


def test_a_missing_toolchain_names_what_to_install(java: Java, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(java_module.shutil, "which", lambda name: None)
    with pytest.raises(EvaluationError, match="not on PATH: install openjdk-17-jdk-headless"):
        Java(java.sandbox).check()


@pytest.mark.parametrize(("body", "status", "reason"), [
    ("return x * 2; } }", "passed", ""),
    ("return x * 3; } }", "failed", "AssertionError, at test line 2: static void check(boolean right)"),
    ("return x * 3; } }", "failed", "its last calls: twice(2) gave 6"),
    ("return y; } }", "compile error", "Solution.java:6: error: cannot find symbol; symbol:   variable y"),
    ("return x * 2; }", "compile error", "reached end of file while parsing"),
    ('throw new IllegalStateException("no"); } }', "failed", "IllegalStateException: no, at test line 5: check(s.twice(2) == 4);"),
    ("return new int[0][x].length / (x - 2); } }", "failed", "ArithmeticException: / by zero"),
    ("System.exit(0); return 4; } }", "failed", "the program ended before its tests did (exit status 0)"),
    ("return twice(x); } }", "failed", "StackOverflowError"),
    ("for (;;) {} } }", "timeout", ""),
    ("return 4; } public int twice(long x) { return 5; } }", "passed", ""),
    ("return 4; }\npublic static void main(String[] a) { System.exit(1); } }\npublic class Main {\n    }", "passed", ""),
])
def test_the_status_and_the_reason_say_what_happened(java: Java, hurried: Java, body: str, status: str, reason: str) -> None:
    verdict = (hurried if status == "timeout" else java).judge(PROBLEM, TWICE, TWICE + body)
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
    "Optional.of(List.of(1))", "OptionalInt.of(3)", "OptionalDouble.of(0.1)", "new java.math.BigInteger(\"-1\" + \"0\".repeat(40))",
    "new java.math.BigDecimal(\"1.50\")", "new AbstractMap.SimpleEntry<>(1, 2)",
]
ARRAYS = ["new int[] {1, -2}", "new int[0][3]", "new String[][] {{\"a\"}, null}", "new char[] {'x'}", "new double[] {0.1}",
          "new Object[] {1, null, new int[] {2}}", "new boolean[] {true}", "new List[] {List.of(1)}"]


def test_values_of_every_type_come_back_as_they_went(java: Java) -> None:
    checks = [f"{{ Object v = {value}; check(Objects.equals(v, s.echo(v))); }}" for value in VALUES]
    checks += [f"{{ Object v = {value}; Object w = s.echo(v); check(v.getClass() == w.getClass());"
               " check(Objects.deepEquals(v, w)); }" for value in ARRAYS]
    checks += ['check(s.echo(new StringBuilder("ab")).toString().equals("ab"));',
               'check(new ArrayList<>(((Map<?, ?>) s.echo(new TreeMap<>(Map.of("b", 1, "a", 2)))).keySet()).equals(List.of("a", "b")));']
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
        "public void change(List<Integer> a, int[] b, Map<String, Integer> c, List<List<Integer>> d, Set<Integer> e, StringBuilder f)",
        "List<Integer> a = new ArrayList<>(List.of(3, 1, 2)), fixed = Arrays.asList(2, 1); int[] b = {1, 2};\n"
        "Map<String, Integer> c = new HashMap<>(Map.of(\"x\", 1)); Set<Integer> e = new TreeSet<>(Set.of(1));\n"
        "List<List<Integer>> d = new ArrayList<>(); d.add(new ArrayList<>(List.of(1))); StringBuilder f = new StringBuilder(\"x\");\n"
        "s.change(a, b, c, d, e, f); s.change(fixed, new int[2], new HashMap<>(), new ArrayList<>(d), new HashSet<>(), f);\n"
        "check(a.equals(List.of(1, 2, 3)) && fixed.equals(List.of(1, 2)) && Arrays.equals(b, new int[] {1, 9}));\n"
        "check(c.equals(Map.of(\"y\", 2)) && d.equals(List.of(List.of(1, 7))) && e.equals(Set.of(5)) && f.toString().equals(\"xyy\"));")
    body = ('Collections.sort(a); b[1] = 9; c.clear(); c.put("y", 2); if (d.get(0).size() < 2) d.get(0).add(7); e.clear(); e.add(5);'
            ' f.append("y"); } }')
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


def test_a_helper_that_the_tests_use_is_the_problem_s_own(java: Java) -> None:
    problem = problem_of("public int twice(int x)", "check(s.off(s.twice(2)) == 0);",
                         helpers="    int off(int x) { return Math.abs(x - 4); }\n")
    assert not java.judge(problem, "", "class Solution { int off(int x) { return 0; } int twice(int x) { return 5; } }").passed
    assert java.judge(problem, "", problem.prompt + "return x * 2 + off(4); } }").passed


@pytest.mark.parametrize(("head", "expected"), [
    ("public static <T extends Comparable<T>> Map<String, List<T>> f(final Map<String, List<T>> a, int[] b, T... c) throws Error",
     ("f", ("a", "b", "c"), True, False)),
    ("void g()", ("g", (), False, True)),
    ("public int[][] h(@Deprecated int x)", ("h", ("x",), False, False)),
])
def test_the_method_that_a_prompt_begins_is_found(head: str, expected: tuple) -> None:
    assert method_begun(problem_of(head, "")) == expected


def test_a_prompt_without_a_method_stops_the_run(java: Java) -> None:
    with pytest.raises(EvaluationError, match="Java/own: its prompt does not end with the head of a method"):
        java.judge(replace(PROBLEM, prompt="class Solution {\n    int x;\n"), "", "class Solution {}")


def test_tests_that_do_not_compile_stop_the_run(java: Java) -> None:
    with pytest.raises(EvaluationError, match=r"(?s)Java/own: its tests do not compile.*cannot find symbol"):
        java.judge(problem_of("public int f(int x)", "nothing();"), "", "class Solution {}")


def test_tests_that_pass_what_cannot_be_carried_stop_the_run(java: Java) -> None:
    with pytest.raises(EvaluationError, match="its tests pass a value of class java.lang.Thread"):
        java.judge(problem_of("public int f(Object x)", "s.f(new Thread());"), "", "class Solution { int f(Object x) { return 1; } }")


def test_programs_compiled_at_the_same_time_do_not_meet(java: Java) -> None:
    """And a compiler that died with the thread that started it is replaced."""
    def right(number: int) -> bool:
        program = TWICE + f"return x + {number}; }} }}"
        return java.judge(PROBLEM, TWICE, program).passed == (number == 2)

    for _ in range(2):
        with ThreadPoolExecutor(3) as pool:
            assert all(pool.map(right, range(4)))
    assert threading.active_count() < 20


# Java statements of a method that says whether they worked -> the statuses that the program may get.
ATTACKS = {
    "reads the host's home": ('return new java.io.File("/root").list() != null;', {"failed"}),
    "reads the environment": ('return System.getenv().toString().contains("SECRET_OF_THE_TEST");', {"failed"}),
    "reads its tests": (
        'return new ProcessBuilder("grep", "-rl", "s[.]twice", "/box", "/tmp").start().getInputStream().read() >= 0;', {"failed"}),
    "looks into /proc": ('return new java.io.File("/proc").list() != null;', {"failed"}),
    "connects to the host": ('return new java.net.Socket("127.0.0.1", PORT).isConnected();', {"failed"}),
    "kills everything": ('new ProcessBuilder("/bin/sh", "-c", "kill -9 -1").start().waitFor(); return false;', {"failed"}),
    "writes outside of /tmp": ('return new java.io.File("/usr/lib/hostile").createNewFile();', {"failed"}),
    "floods threads": (
        "for (int i = 0; i < 500; i++) new Thread(() -> { try { Thread.sleep(100000); } catch (Exception e) {} }).start();"
        " return true;", {"failed", "refused"}),
    "forks without end": (
        'new ProcessBuilder("/bin/sh", "-c", "f() { f | f & }; f").start(); Thread.sleep(2000); return false;',
        {"timeout", "failed", "refused"}),
    "takes memory": ("List<long[]> kept = new ArrayList<>(); while (true) kept.add(new long[1 << 20]);", {"failed", "refused"}),
    "takes memory outside of its heap": (
        "List<Object> kept = new ArrayList<>(); while (true) { java.nio.ByteBuffer b = java.nio.ByteBuffer.allocateDirect(1 << 26);"
        " for (int i = 0; i < 1 << 26; i += 4096) b.put(i, (byte) 1); kept.add(b); }", {"failed", "refused"}),
    "sleeps": ("Thread.sleep(1000000); return true;", {"timeout"}),
    "writes without end": ("while (true) System.out.write(new byte[1 << 16]);", {"refused"}),
    "writes a verdict to every file": (
        'for (int i = 0; i < 100; i++) try { out(i).write("ready\\npassed\\n".getBytes()); } catch (Exception e) {} return false;',
        {"failed", "refused"}),
    "writes an answer of its own to every file": (
        "for (int i = 3; i < 100; i++) try { out(i).write(new byte[] {0, 0, 0, 6, 'v', 'I', 0, 0, 0, 5, 'U'}); } catch (Exception e) {}"
        " return false;", {"failed", "refused"}),
    "announces an answer without end": (
        "for (int i = 3; i < 100; i++) try { out(i).write(new byte[] {127, -1, -1, -1}); } catch (Exception e) {} return false;",
        {"failed", "refused"}),
    "finds the tests' classes": ('return Class.forName("Main") != null;', {"failed"}),
    "finds the tests' side at work": (
        'var f = Class.forName("megatron_ft.Ask").getDeclaredField("pipes"); f.setAccessible(true); return f.get(null) != null;',
        {"failed"}),
}

# What is said of the class Solution -> the statuses. In each twice gives 5 where 4 is right.
PROGRAMS = {
    "leaves before its tests": ("static { System.exit(0); } int twice(int x) { return 5; } }", {"failed"}),
    "halts in its constructor": ("Solution() { Runtime.getRuntime().halt(0); } int twice(int x) { return 5; } }", {"failed"}),
    "hangs before its tests": ("static { for (int i = 0; i < 1;) {} } int twice(int x) { return 5; } }", {"timeout"}),
    "shadows what compares": (
        "int twice(int x) { return 5; } } class AssertionError extends Exception {} class Objects {} class List {}"
        " class Boolean {} class Main { public static void main(String[] a) {} }", {"failed"}),
    "throws what ends a JVM": ("int twice(int x) { throw new ThreadDeath(); } }", {"failed"}),
    "throws an exception that cannot be read": (
        "int twice(int x) { throw new RuntimeException() { public String getMessage() { throw this; } }; } }", {"failed"}),
    "throws an exception whose name is a lie": (
        "static class StackOverflowError extends RuntimeException {} int twice(int x) { throw new StackOverflowError(); } }",
        {"failed"}),
    "has no such method": ("int thrice(int x) { return 5; } }", {"failed"}),
    "is deep to compile": ("int twice(int x) { return " + "(" * 9000 + "5" + ")" * 9000 + "; } }", {"failed", "compile error"}),
    "is long to compile": ("int twice(int x) { return " + "1+" * 3000 + "5; } }", {"failed", "compile error"}),
    "makes a constant too large": (
        'static final String A = "' + "a" * 60000 + '", B = A + A + A + A + A + A; int twice(int x) { return B.length(); } }',
        {"failed", "compile error"}),
    "does not end": ("int twice(int x) { return 4; ", {"compile error"}),
    "ends itself from a hook": (
        "{ Runtime.getRuntime().addShutdownHook(new Thread(() -> { while (true); })); } int twice(int x) { System.exit(0); return 4; } }",
        {"timeout"}),
    "has half a character": ("int twice(int x) { return 5; } // \udc80\n}", {"failed"}),
    "escapes from a comment": ("int twice(int x) { return 5; } // \\u000a }", {"failed"}),
    "is longer than a program": ("int twice(int x) { return 4; } //" + "#" * 2**20 + "\n}", {"refused"}),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_does_not_work(java: Java, hurried: Java, attack: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, statuses = ATTACKS[attack]
    monkeypatch.setenv("SECRET_OF_THE_TEST", "1")
    with socket.create_server(("127.0.0.1", 0)) as server:
        program = (TWICE + "try { if (succeeded()) return x * 2; } catch (Throwable problem) { System.out.println(problem); }\n"
                   "return -1; }\nstatic java.io.OutputStream out(int number) throws Exception {\n"
                   "var d = new java.io.FileDescriptor(); var f = java.io.FileDescriptor.class.getDeclaredField(\"fd\");\n"
                   "f.setAccessible(true); f.setInt(d, number); return new java.io.FileOutputStream(d); }\n"
                   "static boolean succeeded() throws Throwable {\n" + text.replace("PORT", str(server.getsockname()[1])) + "\n} }")
        verdict = (hurried if "timeout" in statuses else java).judge(PROBLEM, TWICE, program)
    assert verdict.status in statuses, verdict


@pytest.mark.parametrize("kind", PROGRAMS)
def test_a_hostile_program_does_not_pass(java: Java, hurried: Java, kind: str) -> None:
    program, statuses = PROGRAMS[kind]
    verdict = (hurried if "timeout" in statuses else java).judge(PROBLEM, TWICE, "class Solution { " + program)
    assert verdict.status in statuses, verdict


def test_a_list_that_equals_everything_is_just_its_items(java: Java) -> None:
    problem = problem_of("public List<Integer> f()", "check(s.f().equals(List.of(4))); check(List.of(4).equals(s.f()));")
    lying = ("class Same extends ArrayList<Integer> { public boolean equals(Object o) { return true; } public int hashCode() { return 0; } }"
             " class Solution { public List<Integer> f() { Same s = new Same(); s.add(5); return s; } }")
    assert java.judge(problem, "", lying).status == "failed"


def test_an_object_of_the_program_s_own_class_equals_nothing(java: Java) -> None:
    problem = problem_of("public Object f()", "check(s.f().equals(4)); check(s.f().equals(s.f()));")
    lying = ("class Same { public boolean equals(Object o) { return true; } }"
             " class Solution { public Object f() { return new Same(); } }")
    assert java.judge(problem, "", lying).status == "failed"
    endless = "class Solution { public Object f() { List<Object> l = new ArrayList<>(); l.add(l); return l; } }"
    assert "nested too deep" in java.judge(problem, "", endless).reason


def test_an_orphan_in_a_session_of_its_own_is_killed(java: Java) -> None:
    marker = f"{os.getpid()}{time.monotonic_ns()}"
    orphan = (f'class Solution {{ static {{ try {{ new ProcessBuilder("setsid", "sleep", "3600.{marker}").start(); }}'
              " catch (Exception e) {} } int twice(int x) { return x * 2; } }")
    verdict = java.judge(PROBLEM, TWICE, orphan)
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


def test_deleting_everything_deletes_nothing_outside(java: Java, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text("here")
    attack = ('class Solution { static { try { new ProcessBuilder("/bin/sh", "-c", "rm -rf /box /tmp/* /etc /usr/lib/jvm 2>/dev/null; '
              f'ln -s {kept} /tmp/link; echo gone > /tmp/link").start().waitFor(); }} catch (Exception e) {{}} }}'
              " int twice(int x) { return x * 2; } }")
    verdict = java.judge(PROBLEM, TWICE, attack)
    assert verdict.passed, verdict
    assert kept.read_text() == "here"
    assert not Path("/tmp/link").exists()


@pytest.mark.slow
def test_humanevalpack_s_solutions_pass_and_its_bugs_fail(java: Java, humanevalpack: Path) -> None:
    """On both bases; MEGATRON_FT_SWEEP=all takes every problem."""
    problems = benchmark.read(humanevalpack.with_name("java.jsonl")).problems
    if os.environ.get("MEGATRON_FT_SWEEP") != "all":
        problems = tuple(problem for problem in problems if problem.task_id.split("/")[1] in SWEEP)
    wrong = set()
    for problem in problems:
        for base in (problem.prompt, problem.declaration):
            right = java.judge(problem, base, base + problem.canonical_solution)
            bug = java.judge(problem, base, base + problem.buggy_solution)
            if not right.passed or bug.passed:
                wrong.add((problem.task_id, right.reason, bug.status))
    assert not wrong
