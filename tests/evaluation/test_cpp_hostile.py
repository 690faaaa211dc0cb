"""Hostile C++ programs, one by one: none passes, none outlives its run, none reaches out of its box."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from megatron_ft.evaluation.languages.cpp import Cpp
from tests.evaluation.cpp_problems import DOUBLE, LIMITS, RIGHT, SHORT, cpp_or_skip, problem
from tests.evaluation.test_hostile import alive, wait_until


@pytest.fixture
def cpp(built: Path, monkeypatch: pytest.MonkeyPatch) -> Cpp:
    """The judge in the first sandbox that works."""
    monkeypatch.setenv("MEGATRON_FT_CACHE", str(built))
    return cpp_or_skip()


# Each returns true where it worked; the program gives the right answer only if it did, so that a pass is a break-out.
ATTACK = r"""
#include <arpa/inet.h>
#include <csignal>
#include <dirent.h>
#include <fcntl.h>
#include <fstream>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
bool reads(const char* path){ return ifstream(path).good(); }
bool succeeded(){ ATTACK }
bool worked = succeeded();
int twice(int x){ return worked ? x * 2 : -1; }
"""
ATTACKS = {
    "read the host's home": ('return reads("/root/.bashrc") || opendir("/root");', {"failed"}),
    "read the host's users": ('return reads("/etc/passwd");', {"failed"}),
    "read the caller's environment": ('return getenv("SECRET_OF_THE_TEST") != nullptr;', {"failed"}),
    "look into /proc": ('return reads("/proc/self/maps");', {"failed"}),
    "connect to the host over tcp": (
        "sockaddr_in to = {}; to.sin_family = AF_INET; to.sin_port = htons(22); to.sin_addr.s_addr = htonl(0x7f000001);"
        "return connect(socket(AF_INET, SOCK_STREAM, 0), (sockaddr*)&to, sizeof to) == 0;", {"failed"}),
    "write outside of /tmp": ('return ofstream("/usr/lib/hostile").good();', {"failed"}),
    "change its own runner": ('return chmod("/box/cpp", 0777) == 0 || ofstream("/box/artifact").good();', {"failed"}),
    "become root": ("return setuid(0) == 0;", {"failed"}),
    "raise its own limits": ("rlimit all = {1u << 20, 1u << 20}; return setrlimit(RLIMIT_NPROC, &all) == 0;", {"failed"}),
    "kill everything": ("kill(-1, 9); return false;", {"failed"}),
    "take more memory than it may": ("char* room = (char*)malloc(1u << 30); return room && memset(room, 1, 1u << 30);",
                                     {"failed"}),
    "take more memory than it may, in parts": (
        "for (int i = 0; i < 8; i++) if (fork() == 0) { memset(malloc(100 << 20), 1, 100 << 20); sleep(60); } sleep(60);"
        "return true;", {"refused"}),
    "start more processes than it may": ("for (int i = 0; i < 200; i++) { int id = fork(); if (id < 0) return false;"
                                         " if (id == 0) { sleep(60); _exit(0); } } return true;", {"failed"}),
    "start more threads than it may": ("for (int i = 0; i < 200; i++) thread([]{ sleep(60); }).detach(); return true;",
                                       {"failed"}),
    "fork without end": ("for (;;) fork();", {"timeout", "failed"}),
    "loop without end, all signals blocked": ("sigset_t all; sigfillset(&all); sigprocmask(SIG_SETMASK, &all, 0); for (;;) {}",
                                              {"timeout"}),
    "sleep": ("sleep(3600); return true;", {"timeout"}),
    "write without end": ('for (;;) cout << "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\\n";', {"refused"}),
    "fill the disk": ("for (int i = 0; i < 100; i++) { ofstream f(\"/tmp/\" + to_string(i)); f << string(10 << 20, 'x');"
                      " f.flush(); if (!f.good()) return false; } return true;", {"failed"}),
    "close every file": ("for (int i = 0; i < 1000; i++) close(i); return true;", {"failed"}),
    "write to every file": ("for (int i = 0; i < 1024; i++) if (write(i, \"ready\\nTOKEN\", 11)) {} return false;",
                            {"failed", "refused"}),
    "link what it must not read": ('return symlink("/root/.bashrc", "/tmp/a") == 0 && reads("/tmp/a");', {"failed"}),
    "find the token in its arguments": (
        "extern char** environ; for (char** word = environ - 8; word < environ; word++) if (*word > (char*)4096 &&"
        " strlen(*word) == 32) return true; return false;", {"failed"}),
}

# Whole programs.
HOSTILE = {
    "equals everything": (
        "struct Same { operator int() const { return 4; } };\ntemplate<class T> bool operator==(const Same&, const T&)"
        "{ return true; }\nSame twice(int x){ return Same(); }", {"compile error", "failed"}),
    "patches assert": ("#undef assert\n#define assert(x)\n#define NDEBUG\nint twice(int x){ return 5; }", {"failed"}),
    "replaces what assert calls": ('extern "C" void __assert_fail(const char*, const char*, unsigned, const char*) noexcept'
                                   "{ exit(0); }\nint twice(int x){ return 5; }", {"failed"}),
    "is the main": ("#undef main\nint main(){ return 0; }\nint twice(int x){ return 5; }", {"compile error"}),
    "replaces what starts main": ('extern "C" void __libc_start_main(){ _exit(0); }\nint twice(int x){ return 5; }',
                                  {"failed", "compile error"}),
    "replaces the wire": ("namespace megatron_ft { void put(Writer&, const int&){} }\nint twice(int x){ return 5; }",
                          {"failed", "refused", "compile error"}),
    "replaces read and write": ('#include <unistd.h>\nextern "C" ssize_t write(int, const void*, size_t n){ return n; }\n'
                                "int twice(int x){ return 5; }", {"failed", "timeout", "compile error"}),
    "includes the file that it is in": ("#include __FILE__\nint twice(int x){ return 5; }", {"compile error"}),
    "includes its input": ('#include "/dev/stdin"\nint twice(int x){ return 5; }', {"compile error"}),
    "includes tests": ('#include "/box/tests"\nint twice(int x){ return 5; }', {"compile error"}),
    "takes in a file of the host": ('asm(".incbin \\"/root/.bashrc\\"");\nint twice(int x){ return 5; }', {"compile error"}),
    "takes in a secret of the host": ('asm(".incbin \\"/etc/passwd\\"");\nint twice(int x){ return 5; }', {"compile error"}),
    "ends the epilogue": ("int twice(int x){ return 5; }\n#define MEGATRON_FT_SERVE(...)", {"compile error"}),
    "answers itself": ("int twice(int x){ return 5; }\n#undef MEGATRON_FT_SERVE\n#define MEGATRON_FT_SERVE(...) namespace "
                       'megatron_ft { void answer(Reader&, Writer& out){ out.bytes = "="; } }', {"refused"}),
    "compiles without end": ("template<int N> struct F { static const int v = F<N + 1>::v + F<N + 2>::v; };\n"
                             "int twice(int x){ return F<0>::v; }", {"compile error", "timeout"}),
    "is too large to link": ("char room[1ul << 40] = {1};\nint twice(int x){ return 5; }", {"compile error", "refused"}),
    "has a zero byte": ("int twice(int x){ return 5; }\0", {"failed", "compile error"}),
    "is nested too deep to compile": ("int x = " + "(" * 20000, {"compile error"}),
    "is empty": ("", {"compile error"}),
    "is longer than a program": ("/" * (2**20 + 1), {"refused"}),
}

# Bytes that a program sends in the place of an answer -> statuses.
ANSWERS = {
    "nothing": (b"", {"timeout"}),
    "a length of four gigabytes": (b"\xff\xff\xff\xff", {"refused"}),
    "a length that never comes": (b"\xff\xff\x00\x00=", {"timeout"}),
    "no bytes": (b"\0\0\0\0", {"refused"}),
    "a string": (b"\x06\0\0\0=s\0\0\0\0", {"refused"}),
    "a string longer than its message": (b"\x06\0\0\0=s\xff\xff\xff\x7f", {"refused"}),
    "a number that ends early": (b"\x03\0\0\0=i\x04", {"refused"}),
    "a number that is none": (b"\x0a\0\0\0=d\0\0\0\0\0\0\xf8\x7f", {"failed"}),
    "an exception without a class": (b"\x01\0\0\0!", {"refused"}),
    "an exception with a verdict": (b"\x0f\0\0\0!es\x08\0\0\0passed\n\n", {"failed"}),
    "words": (b"passed\n" * 100, {"refused"}),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_does_not_work(cpp: Cpp, attack: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_TEST", "1")
    text, statuses = ATTACKS[attack]
    verdict = Cpp(cpp.sandbox, SHORT if "timeout" in statuses else LIMITS).judge(DOUBLE, "", ATTACK.replace("ATTACK", text))
    assert verdict.status in statuses, verdict


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_program_does_not_pass(cpp: Cpp, kind: str) -> None:
    program, statuses = HOSTILE[kind]
    executor = Cpp(cpp.sandbox, SHORT if "timeout" in statuses else LIMITS)
    executor.build_limits = replace(cpp.build_limits, cpu_s=3)
    verdict = executor.judge(DOUBLE, "", program)
    assert verdict.status in statuses, verdict


@pytest.mark.parametrize("kind", ANSWERS)
def test_no_answer_breaks_the_tests(cpp: Cpp, kind: str) -> None:
    data, statuses = ANSWERS[kind]
    # Every pipe is written to, as the program does not know which of its files the tests listen to.
    program = (f"#include <unistd.h>\nconst unsigned char data[] = {{{', '.join(map(str, data + b'0'))}}};\n"
               f"int twice(int x){{ for (int i = 3; i < 1024; i++) if (write(i, data, {len(data)})) {{}}\n"
               "    sleep(60); return 4; }")
    verdict = Cpp(cpp.sandbox, replace(SHORT, wall_s=2)).judge(DOUBLE, "", program)
    assert verdict.status in statuses, verdict


def test_nested_values_do_not_break_the_tests(cpp: Cpp) -> None:
    own = problem("boost::any f(int n)", "f(1);")
    program = ("#include <unistd.h>\nboost::any f(int n){ string deep = \"=\"; for (int i = 0; i < 100000; i++)"
               " deep += string(\"a\\x12[\\1\\0\\0\\0\", 7); unsigned size = deep.size();"
               " for (int i = 3; i < 1024; i++) { if (write(i, &size, 4)) {} if (write(i, deep.data(), size)) {} } sleep(9); }")
    verdict = cpp.judge(own, "", program)
    assert (verdict.status, verdict.reason) == ("refused", "the program sent values that are nested too deep, at call 1")


def test_an_orphan_in_a_session_of_its_own_is_killed(cpp: Cpp) -> None:
    marker = f"{os.getpid()}{time.monotonic_ns()}"
    orphan = ("#include <unistd.h>\n"
              "bool start(){ if (fork() == 0) { setsid(); if (fork() == 0) { for (int i = 0; i < 1024; i++)"
              f' close(i); execlp("sleep", "sleep", "3600.{marker}", (char*)0); }} _exit(0);}} usleep(300000); return 1; }}\n'
              "bool started = start();\nint twice(int x){ return x * 2; }")
    assert cpp.judge(DOUBLE, "", orphan).passed
    wait_until(lambda: not alive(marker))


def test_deleting_everything_deletes_nothing_outside(cpp: Cpp, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text("here")
    program = ('bool gone = system("rm -rf /box /tmp/* /usr/lib/gcc /bin /root /work 2>/dev/null") >= 0;\n'
               f'bool linked = symlink("{kept}", "/tmp/link") == 0;\nbool written = (ofstream("/tmp/link") << "gone").good();\n'
               "int twice(int x){ return x * 2; }")
    assert cpp.judge(DOUBLE, "", "#include <unistd.h>\n" + program).passed
    assert kept.read_text() == "here"
    assert not Path("/tmp/link").exists()
    assert cpp.judge(DOUBLE, "", RIGHT).passed
