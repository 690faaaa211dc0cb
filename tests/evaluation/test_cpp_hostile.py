"""What hostile C++ programs answer their tests with; what they try in every language is in test_hostile.py."""

from __future__ import annotations

from dataclasses import replace

import pytest

from megatron_ft.evaluation.languages.cpp import Cpp
from megatron_ft.evaluation.verdict import Verdict
from tests.evaluation import cpp_problems
from tests.evaluation.cpp_problems import DOUBLE, cpp_or_skip, problem
from tests.evaluation.hostile.together import all_judged

LIMITS = replace(cpp_problems.LIMITS, cpu_s=10, wall_s=120)


@pytest.fixture(scope="module")
def cpp() -> Cpp:
    """The judge in the first sandbox that works."""
    return cpp_or_skip(limits=LIMITS)


# Whole programs.
HOSTILE = {
    "equals everything": (
        "struct Same { operator int() const { return 4; } };\ntemplate<class T> bool operator==(const Same&, const T&)"
        "{ return true; }\nSame twice(int x){ return Same(); }", {"compile error", "failed"}),
    "replaces what assert calls": ('extern "C" void __assert_fail(const char*, const char*, unsigned, const char*) noexcept'
                                   "{ exit(0); }\nint twice(int x){ return 5; }", {"failed"}),
    "is the main": ("#undef main\nint main(){ return 0; }\nint twice(int x){ return 5; }", {"compile error"}),
    "replaces what starts main": ('extern "C" void __libc_start_main(){ _exit(0); }\nint twice(int x){ return 5; }',
                                  {"failed", "compile error"}),
    "replaces the wire": ("namespace megatron_ft { void put(Writer&, const int&){} }\nint twice(int x){ return 5; }",
                          {"failed", "refused", "compile error"}),
    "replaces read and write": ('#include <unistd.h>\nextern "C" ssize_t write(int, const void*, size_t n){ return n; }\n'
                                "int twice(int x){ return 5; }", {"failed", "timeout", "compile error"}),
    "includes its input": ('#include "/dev/stdin"\nint twice(int x){ return 5; }', {"compile error"}),
    "includes tests": ('#include "/box/tests"\nint twice(int x){ return 5; }', {"compile error"}),
    "takes in a file of the host": ('asm(".incbin \\"/root/.bashrc\\"");\nint twice(int x){ return 5; }', {"compile error"}),
    "takes in a secret of the host": ('asm(".incbin \\"/etc/passwd\\"");\nint twice(int x){ return 5; }', {"compile error"}),
    "ends the epilogue": ("int twice(int x){ return 5; }\n#define MEGATRON_FT_SERVE(...)", {"compile error"}),
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
STATUSES = {kind: statuses for kind, (_, statuses) in {**HOSTILE, **ANSWERS}.items()}


def answering(data: bytes) -> str:
    """A program that sends these bytes in the place of an answer, and then waits.

    Every pipe is written to, as it does not know which of its files the tests listen to.
    """
    return (f"#include <unistd.h>\nconst unsigned char data[] = {{{', '.join(map(str, data + b'0'))}}};\n"
            f"int twice(int x){{ for (int i = 3; i < 1024; i++) if (write(i, data, {len(data)})) {{}}\n"
            "    sleep(600); return 4; }")


@pytest.fixture(scope="module")
def verdicts(cpp: Cpp) -> dict[str, Verdict]:
    """What all of them get."""
    texts = {kind: text for kind, (text, _) in HOSTILE.items()} | {kind: answering(data) for kind, (data, _) in ANSWERS.items()}
    return all_judged(cpp, DOUBLE, texts, STATUSES)


@pytest.mark.parametrize("kind", STATUSES)
def test_a_hostile_program_does_not_pass(verdicts: dict[str, Verdict], kind: str) -> None:
    assert verdicts[kind].status in STATUSES[kind], verdicts[kind]


def test_nested_values_do_not_break_the_tests(cpp: Cpp) -> None:
    own = problem("boost::any f(int n)", "f(1);")
    program = ("#include <unistd.h>\nboost::any f(int n){ string deep = \"=\"; for (int i = 0; i < 100000; i++)"
               " deep += string(\"a\\x12[\\1\\0\\0\\0\", 7); unsigned size = deep.size();"
               " for (int i = 3; i < 1024; i++) { if (write(i, &size, 4)) {} if (write(i, deep.data(), size)) {} } sleep(9); }")
    verdict = cpp.judge(own, "", program)
    assert (verdict.status, verdict.reason) == ("refused", "the program sent values that are nested too deep, at call 1")
