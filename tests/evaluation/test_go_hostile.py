"""Hostile Go programs, one by one: none passes, none outlives its run, none reaches out of its box."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from megatron_ft.evaluation.languages.go import Go
from tests.evaluation.go_problems import DOUBLE, PROBLEM, SHORT, go_or_skip, problem_of
from tests.evaluation.test_hostile import alive, wait_until


@pytest.fixture(scope="module")
def go() -> Go:
    """The judge of Go programs."""
    return go_or_skip()


@pytest.fixture(scope="module")
def hurried() -> Go:
    """The same with little time."""
    return go_or_skip(SHORT)


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
        'for i := 0; i < 1024; i++ { syscall.Write(i, []byte("ready\\npassed\\n")) }\nreturn false', {"failed", "refused"}),
    "writes an answer of its own to every file": (
        "answer := append([]byte{10, 0, 0, 0, 1, 5}, make([]byte, 8)...)\n"
        "for i := 3; i < 1024; i++ { syscall.Write(i, answer) }\nreturn false", {"failed", "refused"}),
    "announces an answer without end": (
        'for i := 3; i < 1024; i++ { syscall.Write(i, []byte("\\xff\\xff\\xff\\xff")) }\nreturn false', {"failed", "refused"}),
    "closes every file": ("for i := 0; i < 1024; i++ { syscall.Close(i) }\nreturn true", {"failed"}),
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
    "reserves more than there is": ("var a [1 << 30]byte\n" + DOUBLE + "return 4 + int(a[x]) }", {"refused"}),
    "has a zero byte": (DOUBLE + "return 4 } // \0", {"compile error"}),
    "has half a character": (DOUBLE + "return 5 } // \udc80", {"failed", "compile error"}),
    "defines nothing": ("var x = 1", {"compile error"}),
    "is longer than a program": ("//" + "#" * 2**20, {"refused"}),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_does_not_work(go: Go, hurried: Go, attack: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, statuses = ATTACKS[attack]
    monkeypatch.setenv("SECRET_OF_THE_TEST", "1")
    with socket.create_server(("127.0.0.1", 0)) as server:
        program = ("func succeeded() bool {\n" + text.replace("PORT", str(server.getsockname()[1])) + "\n}\n"
                   + DOUBLE + "if succeeded() { return x * 2 }\nreturn -1\n}")
        verdict = (hurried if "timeout" in statuses else go).judge(PROBLEM, DOUBLE, program)
    assert verdict.status in statuses, verdict


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


def test_an_orphan_in_a_session_of_its_own_is_killed(go: Go) -> None:
    marker = f"{os.getpid()}{time.monotonic_ns()}"
    orphan = (f'func init() {{ c := exec.Command("sleep", "3600.{marker}")\n'
              "c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}\nc.Start() }\n" + DOUBLE + "return x * 2 }")
    verdict = go.judge(PROBLEM, DOUBLE, orphan)
    assert verdict.passed, verdict
    wait_until(lambda: not alive(marker))


def test_deleting_everything_deletes_nothing_outside(go: Go, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text("here")
    attack = ('func init() { for _, p := range []string{"/box", "/tmp", "/etc", "/usr", "/bin"} { os.RemoveAll(p) }\n'
              f'os.Symlink("{kept}", "/tmp/link"); os.WriteFile("/tmp/link", []byte("gone"), 0o644) }}\n'
              + DOUBLE + "return x * 2 }")
    assert go.judge(PROBLEM, DOUBLE, attack).passed
    assert kept.read_text() == "here"
    assert not Path("/tmp/link").exists()
