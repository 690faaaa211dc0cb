"""What hostile Rust programs answer their tests with; what they try in every language is in test_hostile.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from megatron_ft.evaluation.languages.rust import Rust
from tests.evaluation.rust_problems import SHORT, TWICE, rust_or_skip


@pytest.fixture
def rust(built: Path, monkeypatch: pytest.MonkeyPatch) -> Rust:
    """The judge in the first sandbox that works."""
    monkeypatch.setenv("MEGATRON_FT_CACHE", str(built))
    return rust_or_skip()


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


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_program_does_not_pass(rust: Rust, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_TEST", "1")
    program, statuses = HOSTILE[kind]
    rust.build_limits = replace(rust.build_limits, cpu_s=3)
    verdict = rust.judge(TWICE, "", program)
    assert verdict.status in statuses, verdict


@pytest.mark.parametrize("kind", ANSWERS)
def test_no_answer_breaks_the_tests(rust: Rust, kind: str) -> None:
    data, statuses = ANSWERS[kind]
    # Every pipe is written to, as the program does not know which of its files the tests listen to.
    program = (f'extern "C" {{ fn write(file: i32, data: *const u8, count: usize) -> isize; }}\nfn twice(x: i32) -> i32 {{\n'
               f"    let data: &[u8] = &{list(data)};\n"
               f"    for i in 3..1024 {{ unsafe {{ write(i, data.as_ptr(), {len(data)}); }} }}\n"
               "    std::thread::sleep(std::time::Duration::from_secs(60));\n    4\n}")
    verdict = Rust(rust.sandbox, replace(SHORT, wall_s=2)).judge(TWICE, "", program)
    assert verdict.status in statuses, verdict
