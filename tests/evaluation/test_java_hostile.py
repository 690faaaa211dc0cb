"""What hostile Java programs answer their tests with; what they try in every language is in test_hostile.py."""

from __future__ import annotations

from dataclasses import replace

import pytest

from megatron_ft.evaluation.languages.java import Java
from tests.evaluation import java_problems
from tests.evaluation.hostile.together import judged, limited
from tests.evaluation.java_problems import PROBLEM, TWICE, java_or_skip, problem_of


@pytest.fixture(scope="module")
def java() -> Java:
    """The judge of Java programs."""
    return java_or_skip(replace(java_problems.LIMITS, cpu_s=20, wall_s=120))


# What is said of the class Solution -> the statuses. In each twice gives 5 where 4 is right.
PROGRAMS = {
    "hangs before its tests": ("static { for (int i = 0; i < 1;) {} } int twice(int x) { return 5; } }", {"timeout"}),
    "throws what ends a JVM": ("int twice(int x) { throw new ThreadDeath(); } }", {"failed"}),
    "throws an exception that cannot be read": (
        "int twice(int x) { throw new RuntimeException() { public String getMessage() { throw this; } }; } }", {"failed"}),
    "throws an exception whose name is a lie": (
        "static class StackOverflowError extends RuntimeException {} int twice(int x) { throw new StackOverflowError(); } }",
        {"failed"}),
    "has no such method": ("int thrice(int x) { return 5; } }", {"failed"}),
    "is long to compile": ("int twice(int x) { return " + "1+" * 3000 + "5; } }", {"failed", "compile error"}),
    "does not end": ("int twice(int x) { return 4; ", {"compile error"}),
    "ends itself from a hook": (
        "{ Runtime.getRuntime().addShutdownHook(new Thread(() -> { while (true); })); }"
        " int twice(int x) { System.exit(0); return 4; } }",
        {"timeout"}),
    "has half a character": ("int twice(int x) { return 5; } // \udc80\n}", {"failed"}),
    "escapes from a comment": ("int twice(int x) { return 5; } // \\u000a }", {"failed"}),
}


# Nested, long, negative, mixed up.
ANSWERS = [
    [118, *b"L\x00\x7f\xff\xff\xff"], [118, *b"s\x7f\xff\xff\xff"], [118, *b"G\x00\x00\x00\x00\x7f\xff\xff\xff"],
    [118, *b"A\x7f\x00\x00\x00\x00\x00"], [118, *b"A\x01\x63\x00\x00\x00\x00"], [118, *b"M\x00\x00\x00\x00\x01I"],
    [118, *(b"L\x00\x00\x00\x00\x01" * 1200)], [118, *b"X\x7f\xff\xff\xff\x00\x00\x00\x01\x01U"], [118],
    [120], [120, 78, 78, 78],
    [118, *b"S\x02\x00\x00\x00\x02NN"], [], [7, 7, 7],
]


def answering(data: list[int]) -> str:
    """A program that sends this message in the place of an answer, on every descriptor, and then waits."""
    message = "".join(f"{value:02x}" for value in [*len(data).to_bytes(4, "big"), *data])
    return ("class Solution { public Object any() throws Exception {"
            f" byte[] b = new java.math.BigInteger(\"7f{message}\", 16).toByteArray();"
            " var f = java.io.FileDescriptor.class.getDeclaredField(\"fd\"); f.setAccessible(true);"
            " for (int i = 3; i < 1024; i++) try { var d = new java.io.FileDescriptor(); f.setInt(d, i);"
            " new java.io.FileOutputStream(d).write(b, 1, b.length - 1); } catch (Exception e) {}"
            " Thread.sleep(1000000); return 4; } }")


def test_hostile_programs_do_not_pass(java: Java) -> None:
    hurried = limited(java, cpu_s=2)
    programs = {kind: (hurried if "timeout" in statuses else java, "class Solution { " + text)
                for kind, (text, statuses) in PROGRAMS.items()}
    for kind, verdict in judged(programs, lambda judge, text: judge.judge(PROBLEM, TWICE, text)).items():
        assert verdict.status in PROGRAMS[kind][1], (kind, verdict)


def test_answers_of_any_bytes_are_refused_or_wrong(java: Java) -> None:
    problem = problem_of("public Object any()", "check(Objects.equals(4, s.any()));")
    programs = {str(answer): (java, answering(answer)) for answer in ANSWERS}
    for answer, verdict in judged(programs, lambda judge, text: judge.judge(problem, "", text)).items():
        assert verdict.status in ("refused", "failed"), (answer, verdict)


def test_a_list_that_equals_everything_is_just_its_items(java: Java) -> None:
    problem = problem_of("public List<Integer> f()", "check(s.f().equals(List.of(4))); check(List.of(4).equals(s.f()));")
    lying = ("class Same extends ArrayList<Integer> { public boolean equals(Object o) { return true; } }"
             " class Solution { public List<Integer> f() { Same s = new Same(); s.add(5); return s; } }")
    assert java.judge(problem, "", lying).status == "failed"


def test_an_object_of_the_program_s_own_class_equals_nothing(java: Java) -> None:
    problem = problem_of("public Object f()", "check(s.f().equals(4)); check(s.f().equals(s.f()));")
    lying = ("class Same { public boolean equals(Object o) { return true; } }"
             " class Solution { public Object f() { return new Same(); } }")
    assert java.judge(problem, "", lying).status == "failed"
    endless = "class Solution { public Object f() { List<Object> l = new ArrayList<>(); l.add(l); return l; } }"
    assert "nested too deep" in java.judge(problem, "", endless).reason
