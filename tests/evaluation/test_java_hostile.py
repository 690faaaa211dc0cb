"""Hostile Java programs, one by one: none passes, none outlives its run, none reaches out of its box."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from megatron_ft.evaluation.languages.java import Java
from tests.evaluation.java_problems import PROBLEM, SHORT, TWICE, java_or_skip, problem_of
from tests.evaluation.test_hostile import alive, wait_until


@pytest.fixture(scope="module")
def java() -> Java:
    """The judge of Java programs."""
    return java_or_skip()


@pytest.fixture(scope="module")
def hurried() -> Java:
    """The same with little time."""
    return java_or_skip(SHORT)


# Java statements of a method that says whether they worked -> the statuses that the program may get.
ATTACKS = {
    "reads the host's home": ('return new java.io.File("/root").list() != null;', {"failed"}),
    "reads the environment": ('return System.getenv().toString().contains("SECRET_OF_THE_TEST");', {"failed"}),
    "reads its tests": (
        'return new ProcessBuilder("grep", "-rl", "s[.]twice", "/box", "/tmp").start().getInputStream().read() >= 0;',
        {"failed"}),
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
    "takes memory": (
        "List<long[]> kept = new ArrayList<>(); while (true) kept.add(new long[1 << 20]);", {"failed", "refused"}),
    "takes memory outside of its heap": (
        "List<Object> kept = new ArrayList<>();"
        " while (true) { java.nio.ByteBuffer b = java.nio.ByteBuffer.allocateDirect(1 << 26);"
        " for (int i = 0; i < 1 << 26; i += 4096) b.put(i, (byte) 1); kept.add(b); }", {"failed", "refused"}),
    "sleeps": ("Thread.sleep(1000000); return true;", {"timeout"}),
    "writes without end": ("while (true) System.out.write(new byte[1 << 16]);", {"refused"}),
    "writes a verdict to every file": (
        'for (int i = 0; i < 1024; i++) try { out(i).write("ready\\npassed\\n".getBytes()); } catch (Exception e) {}'
        " return false;",
        {"failed", "refused"}),
    "writes an answer of its own to every file": (
        "for (int i = 3; i < 1024; i++) try { out(i).write(new byte[] {0, 0, 0, 7, 'v', 'I', 0, 0, 0, 5, 'U'}); }"
        " catch (Exception e) {} return false;", {"failed", "refused"}),
    "announces an answer without end": (
        "for (int i = 3; i < 1024; i++) try { out(i).write(new byte[] {127, -1, -1, -1}); } catch (Exception e) {}"
        " return false;",
        {"failed", "refused"}),
    "finds the tests' classes": ('return Class.forName("Main") != null;', {"failed"}),
    "finds the tests' side at work": (
        'var f = Class.forName("megatron_ft.Ask").getDeclaredField("pipes"); f.setAccessible(true);'
        " return f.get(null) != null;",
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
        "{ Runtime.getRuntime().addShutdownHook(new Thread(() -> { while (true); })); }"
        " int twice(int x) { System.exit(0); return 4; } }",
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
                   "static boolean succeeded() throws Throwable {\n"
                   + text.replace("PORT", str(server.getsockname()[1])) + "\n} }")
        verdict = (hurried if "timeout" in statuses else java).judge(PROBLEM, TWICE, program)
    assert verdict.status in statuses, verdict


@pytest.mark.parametrize("kind", PROGRAMS)
def test_a_hostile_program_does_not_pass(java: Java, hurried: Java, kind: str) -> None:
    program, statuses = PROGRAMS[kind]
    verdict = (hurried if "timeout" in statuses else java).judge(PROBLEM, TWICE, "class Solution { " + program)
    assert verdict.status in statuses, verdict


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


@pytest.mark.parametrize("answer", [
    [118, *b"L\x00\x7f\xff\xff\xff"], [118, *b"s\x7f\xff\xff\xff"], [118, *b"G\x00\x00\x00\x00\x7f\xff\xff\xff"],
    [118, *b"A\x7f\x00\x00\x00\x00\x00"], [118, *b"A\x01\x63\x00\x00\x00\x00"], [118, *b"M\x00\x00\x00\x00\x01I"],
    [118, *(b"L\x00\x00\x00\x00\x01" * 1200)], [118, *b"X\x7f\xff\xff\xff\x00\x00\x00\x01\x01U"], [118],
    [120], [120, 78, 78, 78],
    [118, *b"S\x02\x00\x00\x00\x02NN"], [], [7, 7, 7],
])
def test_an_answer_of_any_bytes_is_refused_or_wrong(java: Java, answer: list[int]) -> None:
    """Nested, long, negative, mixed up; written by the program itself in place of an answer."""
    problem = problem_of("public Object any()", "check(Objects.equals(4, s.any()));")
    message = [*len(answer).to_bytes(4, "big"), *answer]
    data = "".join(f"{value:02x}" for value in message)
    program = ("class Solution { public Object any() throws Exception {"
               f" byte[] b = new java.math.BigInteger(\"7f{data}\", 16).toByteArray();"
               " var f = java.io.FileDescriptor.class.getDeclaredField(\"fd\"); f.setAccessible(true);"
               " for (int i = 3; i < 1024; i++) try { var d = new java.io.FileDescriptor(); f.setInt(d, i);"
               " new java.io.FileOutputStream(d).write(b, 1, b.length - 1); } catch (Exception e) {}"
               " Thread.sleep(100000); return 4; } }")
    verdict = java.judge(problem, "", program)
    assert verdict.status in ("refused", "failed"), verdict
    assert verdict.seconds < 20


def test_an_orphan_in_a_session_of_its_own_is_killed(java: Java) -> None:
    marker = f"{os.getpid()}{time.monotonic_ns()}"
    orphan = (f'class Solution {{ static {{ try {{ new ProcessBuilder("setsid", "sleep", "3600.{marker}").start(); }}'
              " catch (Exception e) {} } int twice(int x) { return x * 2; } }")
    verdict = java.judge(PROBLEM, TWICE, orphan)
    assert verdict.passed, verdict
    wait_until(lambda: not alive(marker))


def test_deleting_everything_deletes_nothing_outside(java: Java, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text("here")
    attack = ('class Solution { static { try { new ProcessBuilder("/bin/sh", "-c", "rm -rf /box /tmp/* /etc 2>/dev/null; '
              f'ln -s {kept} /tmp/link; echo gone > /tmp/link").start().waitFor(); }} catch (Exception e) {{}} }}'
              " int twice(int x) { return x * 2; } }")
    verdict = java.judge(PROBLEM, TWICE, attack)
    assert verdict.passed, verdict
    assert kept.read_text() == "here"
    assert not Path("/tmp/link").exists()
