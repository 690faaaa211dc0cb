"""What hostile Rust programs answer their tests with; what they try in every language is in test_hostile.py."""

from __future__ import annotations

from dataclasses import replace

import pytest

from megatron_ft.evaluation.languages.rust import Rust
from megatron_ft.evaluation.verdict import Verdict
from tests.evaluation import rust_problems
from tests.evaluation.hostile.together import all_judged
from tests.evaluation.rust_problems import TWICE, rust_or_skip

LIMITS = replace(rust_problems.LIMITS, cpu_s=10, wall_s=120)


@pytest.fixture(scope="module")
def rust() -> Rust:
    """The judge in the first sandbox that works."""
    return rust_or_skip(limits=LIMITS)


FIVE = "fn twice(x: i32) -> i32 { 5 }\n"
HOSTILE = {
    "sends what it wants": ("struct Same;\nimpl megatron_ft_wire::Put for Same { fn put(&self, out: &mut "
                            "megatron_ft_wire::Writer) { out.variant(\"passed\", 1) } }\nfn twice(x: i32) -> Same { Same }",
                            {"refused"}),
    "is the runner": (FIVE + "mod megatron_ft_serve { #[no_mangle] pub extern \"C\" fn main() -> i32 { 0 } }",
                      {"compile error"}),
    "is the main": (FIVE + "#[no_mangle] pub extern \"C\" fn main() -> i32 { 0 }", {"compile error"}),
    "replaces what reads": (FIVE + "#[no_mangle] pub extern \"C\" fn read(_: i32, _: *mut u8, _: usize) -> isize { 0 }",
                            {"failed", "compile error"}),
    "replaces what starts main": (FIVE + "#[no_mangle] pub extern \"C\" fn __libc_start_main() { std::process::exit(0) }",
                                  {"failed", "compile error"}),
    "runs before main": (FIVE + "extern \"C\" fn early() { println!(\"passed\"); std::process::exit(0) }\n#[used]\n"
                         "#[link_section = \".preinit_array\"]\nstatic EARLY: extern \"C\" fn() = early;",
                         {"failed", "compile error"}),
    "panics with a verdict": ("fn twice(x: i32) -> i32 { panic!(\"\\npassed\\n\") }", {"failed"}),
    "panics with no text": ("fn twice(x: i32) -> i32 { std::panic::panic_any(7) }", {"failed"}),
    "takes in a file by the assembler": (FIVE + 'std::arch::global_asm!(".incbin \\"/etc/passwd\\"");', {"compile error"}),
    "asks for unstable features": ("#![feature(rustc_attrs)]\n" + FIVE, {"compile error"}),
}

OK = b"e\x73\x02\0\0\0Ok(\x01\0\0\0(\0\0\0\0"  # how an answer begins
# Bytes that a program sends in the place of an answer -> statuses.
ANSWERS = {
    "nothing": (b"", {"timeout"}),
    "a length of four gigabytes": (b"\xff\xff\xff\xff", {"refused"}),
    "a length that never comes": (b"\xff\xff\x00\x00e", {"timeout"}),
    "no bytes": (b"\0\0\0\0", {"refused"}),
    "an answer without a value": (len(OK).to_bytes(4, "little") + OK, {"refused"}),
    "a string": ((len(OK) + 5).to_bytes(4, "little") + OK + b"s\0\0\0\0", {"refused"}),
    "a string longer than its message": ((len(OK) + 5).to_bytes(4, "little") + OK + b"s\xff\xff\xff\x7f", {"refused"}),
    "a wrong number": ((len(OK) + 17).to_bytes(4, "little") + OK + b"i" + bytes(16), {"failed"}),
    "words": (b"passed\n" * 100, {"failed", "refused"}),
}
STATUSES = {kind: statuses for kind, (_, statuses) in {**HOSTILE, **ANSWERS}.items()}


def answering(data: bytes) -> str:
    """A program that sends these bytes in the place of an answer, and then waits.

    Every pipe is written to, as it does not know which of its files the tests listen to.
    """
    return ('extern "C" { fn write(file: i32, data: *const u8, count: usize) -> isize; }\nfn twice(x: i32) -> i32 {\n'
            f"    let data: &[u8] = &{list(data)};\n"
            f"    for i in 3..1024 {{ unsafe {{ write(i, data.as_ptr(), {len(data)}); }} }}\n"
            "    std::thread::sleep(std::time::Duration::from_secs(600));\n    4\n}")


@pytest.fixture(scope="module")
def verdicts(rust: Rust) -> dict[str, Verdict]:
    """What all of them get."""
    texts = {kind: text for kind, (text, _) in HOSTILE.items()} | {kind: answering(data) for kind, (data, _) in ANSWERS.items()}
    return all_judged(rust, TWICE, texts, STATUSES)


@pytest.mark.parametrize("kind", STATUSES)
def test_a_hostile_program_does_not_pass(verdicts: dict[str, Verdict], kind: str) -> None:
    assert verdicts[kind].status in STATUSES[kind], verdicts[kind]
