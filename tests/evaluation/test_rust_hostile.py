"""Hostile Rust programs, one by one: none passes, none outlives its run, none reaches out of its box."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from megatron_ft.evaluation.languages.rust import Rust
from tests.evaluation.rust_problems import LIMITS, RIGHT, SHORT, TWICE, rust_or_skip
from tests.evaluation.test_hostile import alive, wait_until


@pytest.fixture
def rust(built: Path, monkeypatch: pytest.MonkeyPatch) -> Rust:
    """The judge in the first sandbox that works."""
    monkeypatch.setenv("MEGATRON_FT_CACHE", str(built))
    return rust_or_skip()


# Each is true where it worked; the program gives the right answer only if it did, so that a pass is a break-out.
ATTACK = """
use std::{env, fs, io::Write, net::TcpStream, process::{exit, Command}, thread, time::Duration};
extern "C" { fn fork() -> i32; fn setuid(id: u32) -> i32; fn kill(id: i32, signal: i32) -> i32; fn close(file: i32) -> i32;
    fn sigfillset(set: *mut [u64; 16]) -> i32; fn sigprocmask(how: i32, set: *const [u64; 16], old: *mut [u64; 16]) -> i32;
    fn write(file: i32, data: *const u8, count: usize) -> isize; fn setrlimit(what: i32, limit: *const [u64; 2]) -> i32; }
fn long() { thread::sleep(Duration::from_secs(3600)) }
fn succeeded() -> bool { unsafe { ATTACK } }
fn twice(x: i32) -> i32 { if succeeded() { x * 2 } else { -1 } }
"""
ATTACKS = {
    "read the host's home": ('fs::read_dir("/root").is_ok() || fs::read("/root/.bashrc").is_ok()', {"failed"}),
    "read the host's users": ('fs::read("/etc/passwd").is_ok()', {"failed"}),
    "read the caller's environment": ('env::var("SECRET_OF_THE_TEST").is_ok()', {"failed"}),
    "look into /proc": ('fs::read_dir("/proc").is_ok()', {"failed"}),
    "connect to the host over tcp": ('TcpStream::connect("127.0.0.1:22").is_ok()', {"failed"}),
    "write outside of /tmp": ('fs::write("/usr/lib/hostile", "x").is_ok()', {"failed"}),
    "change its own runner": ('fs::write("/box/artifact", "x").is_ok() || fs::write("/box/rust/start", "x").is_ok()',
                              {"failed"}),
    "become root": ("setuid(0) == 0", {"failed"}),
    "raise its own limits": ("setrlimit(6, &[1 << 20, 1 << 20]) == 0", {"failed"}),
    "kill everything": ("kill(-1, 9); false", {"failed"}),
    "take more memory than it may": ("let room = vec![1u8; 1 << 30]; room[5] == 1", {"failed"}),
    "take more memory than it may, in parts": (
        "for _ in 0..8 { if fork() == 0 { let room = vec![1u8; 100 << 20]; long(); exit(room[7] as i32) } } long(); true",
        {"refused"}),
    "start more processes than it may": (
        "for _ in 0..200 { let id = fork(); if id < 0 { return false } if id == 0 { long() } } true", {"failed"}),
    "start more threads than it may": (
        "(0..200).all(|_| thread::Builder::new().stack_size(65536).spawn(long).is_ok())", {"failed"}),
    "fork without end": ("loop { fork(); }", {"timeout", "failed"}),
    "loop without end, all signals blocked": (
        "let mut all = [0; 16]; sigfillset(&mut all); sigprocmask(2, &all, &mut [0; 16]); loop {}", {"timeout"}),
    "sleep": ("long(); true", {"timeout"}),
    "write without end": ('let line = "x".repeat(60000); loop { println!("{}", line) }', {"refused"}),
    "fill the disk": ('(0..100).all(|i| fs::write(format!("/tmp/{}", i), vec![1u8; 10 << 20]).is_ok())', {"failed"}),
    "close every file": ("for i in 0..1024 { close(i); } true", {"failed"}),
    "write to every file": ('for i in 0..1024 { write(i, b"ready\\nTOKEN".as_ptr(), 11); } false', {"failed", "refused"}),
    "link what it must not read": (
        'std::os::unix::fs::symlink("/root/.bashrc", "/tmp/a").is_ok() && fs::read("/tmp/a").is_ok()', {"failed"}),
    "find the token in its arguments": ("env::args().any(|word| word.len() == 32)", {"failed"}),
    "run what it finds": ('Command::new("sh").args(&["-c", "grep -rl twice /box /tmp /root"]).output().map_or(false, '
                          '|done| done.stdout.len() > 20)', {"failed"}),
}

FIVE = "fn twice(x: i32) -> i32 { 5 }\n"
HOSTILE = {
    "patches assert": (FIVE + "macro_rules! assert_eq { ($($x:tt)*) => {} }\nmacro_rules! assert { ($($x:tt)*) => {} }",
                       {"failed"}),
    "equals everything": ("struct Same;\nimpl PartialEq<i32> for Same { fn eq(&self, _: &i32) -> bool { true } }\n"
                          "fn twice(x: i32) -> Same { Same }", {"compile error"}),
    "sends what it wants": ("struct Same;\nimpl megatron_ft_wire::Put for Same { fn put(&self, out: &mut "
                            "megatron_ft_wire::Writer) { out.variant(\"passed\", 1) } }\nfn twice(x: i32) -> Same { Same }",
                            {"refused"}),
    "is the wire": (FIVE + "mod megatron_ft_wire { pub mod program { pub fn serve() {} } }", {"failed"}),
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
    "replaces types": (FIVE + "type String = i32;\nenum Option { Some }\nstruct Vec;\nuse Option::Some;", {"failed"}),
    "panics with a verdict": ("fn twice(x: i32) -> i32 { panic!(\"\\npassed\\n\") }", {"failed"}),
    "panics with no text": ("fn twice(x: i32) -> i32 { std::panic::panic_any(7) }", {"failed"}),
    "takes in a file of the host": (FIVE + 'const HOME: &str = include_str!("/root/.bashrc");', {"compile error"}),
    "takes in the host's users": (FIVE + 'const USERS: &[u8] = include_bytes!("/etc/passwd");', {"compile error"}),
    "takes in its own file": (FIVE + "mod again { include!(file!()); }", {"compile error"}),
    "takes in its input": (FIVE + 'const INPUT: &str = include_str!("/dev/stdin");', {"compile error"}),
    "takes in a file by the assembler": (FIVE + 'std::arch::global_asm!(".incbin \\"/etc/passwd\\"");', {"compile error"}),
    "reads the caller's environment": (FIVE + 'const SECRET: &str = env!("SECRET_OF_THE_TEST");', {"compile error"}),
    "compiles without end": ("const fn f() -> i32 { loop {} }\nconst N: i32 = f();\nfn twice(x: i32) -> i32 { N }",
                             {"timeout", "compile error"}),
    "expands without end": ("macro_rules! m { ($($x:tt)*) => { m!($($x)* $($x)*) } }\nfn twice(x: i32) -> i32 { m!(1 2) }",
                            {"compile error", "timeout"}),
    "is too large to link": (FIVE + "#[used]\nstatic ROOM: [u8; 1 << 27] = [1; 1 << 27];", {"compile error", "refused"}),
    "asks for unstable features": ("#![feature(rustc_attrs)]\n" + FIVE, {"compile error"}),
    "has a zero byte": (FIVE + "\0", {"compile error"}),
    "is nested too deep to compile": ("const X: i32 = " + "(" * 20000, {"compile error"}),
    "is empty": ("", {"compile error"}),
    "is longer than a program": ("/" * (2**20 + 1), {"refused"}),
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


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_does_not_work(rust: Rust, attack: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_TEST", "1")
    text, statuses = ATTACKS[attack]
    verdict = Rust(rust.sandbox, SHORT if "timeout" in statuses else LIMITS).judge(TWICE, "", ATTACK.replace("ATTACK", text))
    assert verdict.status in statuses, verdict


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


def test_an_orphan_in_a_session_of_its_own_is_killed(rust: Rust) -> None:
    marker = f"{os.getpid()}{time.monotonic_ns()}"
    orphan = ('extern "C" { fn fork() -> i32; fn setsid() -> i32; fn close(file: i32) -> i32; }\nfn twice(x: i32) -> i32 {\n'
              "    use std::os::unix::process::CommandExt;\n    unsafe { if fork() == 0 { setsid(); if fork() == 0 {\n"
              "        for i in 0..1024 { close(i); }\n"
              f'        std::process::Command::new("sleep").arg("3600.{marker}").exec();\n'
              "    } std::process::exit(0) } }\n    std::thread::sleep(std::time::Duration::from_millis(300));\n    x * 2\n}")
    assert rust.judge(TWICE, "", orphan).passed
    wait_until(lambda: not alive(marker))


def test_deleting_everything_deletes_nothing_outside(rust: Rust, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text("here")
    program = ('fn twice(x: i32) -> i32 {\n    for place in ["/box", "/tmp", "/bin", "/root", "/work"] '
               "{ std::fs::remove_dir_all(place).ok(); }\n"
               f'    std::os::unix::fs::symlink("{kept}", "/tmp/link").ok();\n    std::fs::write("/tmp/link", "gone").ok();\n'
               "    x * 2\n}")
    assert rust.judge(TWICE, "", program).passed
    assert kept.read_text() == "here"
    assert not Path("/tmp/link").exists()
    assert rust.judge(TWICE, "", RIGHT).passed
