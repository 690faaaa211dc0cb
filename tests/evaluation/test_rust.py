"""How Rust programs are judged: right and wrong ones, every type on the wire, and hostile ones, none of which passes."""

from __future__ import annotations

import os
import re
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest

from megatron_ft.errors import EvaluationError
from megatron_ft.evaluation import benchmark, sandbox
from megatron_ft.evaluation.benchmark import Problem
from megatron_ft.evaluation.languages import rust as module
from megatron_ft.evaluation.languages.rust import Rust
from megatron_ft.evaluation.sandbox import Limits
from tests.evaluation.conftest import sandbox_or_skip
from tests.evaluation.problems import make_problem
from tests.evaluation.test_hostile import alive, wait_until

LIMITS = Limits(cpu_s=2, wall_s=60, memory_bytes=512 * 2**20, output_bytes=2**20)
SHORT = replace(LIMITS, cpu_s=1, wall_s=3)  # for what must run into a time-out; the rest must not, on a busy machine
HEAD = "use std::{any::Any, collections::*};\n"


def problem(signature: str, *statements: str, helpers: str = "", **changed: str) -> Problem:
    """A problem of our own: a declared function and the statements of its test, from line 6."""
    body = "".join(f"        {statement}\n" for statement in statements)
    return make_problem(**{
        "task_id": "Own/0", "signature": signature, "prompt": f"fn main(){{}}\n{HEAD}{helpers}fn {signature} {{\n",
        "declaration": f"{HEAD}fn {signature} {{\n",
        "test": f"#[cfg(test)]\nmod tests {{\n    use super::*;\n    #[test]\n    fn holds() {{\n{body}    }}\n}}\n",
        **changed})


TWICE = problem("twice(x: i32) -> i32", "assert_eq!(twice(2), 4);", "assert!(twice(21) == 42);")


@pytest.fixture
def rust(built: Path, monkeypatch: pytest.MonkeyPatch) -> Rust:
    """The executor in the first sandbox that works; skipped without a toolchain, failed under CI=true."""
    monkeypatch.setenv("MEGATRON_FT_CACHE", str(built))
    missing = [tool for tool in ("rustc", "cc") if shutil.which(tool) is None]
    missing += [name for name, (_, pattern, _) in module.CRATES.items() if not list(module.REGISTRY.glob(pattern))]
    if missing:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"no {', '.join(missing)}; Debian: {module.DEBIAN}")
    return Rust(sandbox_or_skip(sandbox.TOOLS[0]), LIMITS)


RIGHT = "fn twice(x: i32) -> i32 { x * 2 }"
# A program for TWICE -> status and what its reason says.
PROGRAMS = {
    "right": (RIGHT, "passed", ""),
    "wrong": ("fn twice(x: i32) -> i32 { x * x }", "failed",
              r"(?s)holds: assertion failed: twice\(21\) == 42, at test line 7"),
    "does not compile": ("fn twice(x: i32) -> i32 { y }", "compile error", r"anon>:1:\d+: error\[E0425\]: cannot find"),
    "is not closed": ("fn twice(x: i32) -> i32 { x * 2", "compile error", "unclosed"),
    "defines another function": ("fn half(x: i32) -> i32 { x / 2 }", "compile error", "twice"),
    "has a main and tests of its own": (
        RIGHT + "\nfn main() { assert_eq!(twice(1), 3) }\n#[cfg(test)]\nmod tests { #[test] fn bad() { panic!() } }",
        "passed", ""),
    "has inner attributes": ("#![allow(dead_code)]\n" + RIGHT, "passed", ""),
    "is public": ("pub " + RIGHT, "passed", ""),
    "names its crate": ("mod inner { pub fn by() -> i32 { 2 } }\nfn twice(x: i32) -> i32 { x * crate::inner::by() }",
                        "passed", ""),
    "takes another type of integer": ("fn twice(x: i64) -> i64 { x * 2 }", "passed", ""),
    "is generic": ("fn twice<T: std::ops::Add<Output = T> + Copy>(x: T) -> T { x + x }", "passed", ""),
    "takes what converts": ("fn twice(x: impl Into<i64>) -> i64 { x.into() * 2 }", "passed", ""),
    "prints": ("fn twice(x: i32) -> i32 { println!(\"{}\", x); x * 2 }", "passed", ""),
    "takes a float": ("fn twice(x: f64) -> f64 { x * 2.0 }", "failed", "no float"),
    "takes a text": ("fn twice(x: String) -> i32 { 4 }", "compile error|failed", ""),
    "answers a float": ("fn twice(x: i32) -> f64 { x as f64 * 2.0 }", "refused", "no integer"),
    "answers more than an i32": ("fn twice(x: i32) -> i64 { x as i64 * 2 + (1 << 32) }", "failed",
                                 "answered 4294967300 as i32, at call 1"),
    "panics": ("fn twice(x: i32) -> i32 { panic!(\"no {}\", x) }", "failed",
               "holds: the program panicked: no 2, at test line 6"),
    "overflows": ("fn twice(x: i32) -> i32 { x * i32::MAX }", "failed", "attempt to multiply with overflow"),
    "indexes beyond": ("fn twice(x: i32) -> i32 { vec![4][x as usize] }", "failed", "index out of bounds"),
    "leaves before its tests": (RIGHT + '\nextern "C" fn leave() { std::process::exit(0) }\n#[used]\n'
                                '#[link_section = ".init_array"]\nstatic LEAVE: extern "C" fn() = leave;', "failed",
                                "ended before its tests did .exit status 0"),
    "leaves when it is called": ("fn twice(x: i32) -> i32 { std::process::exit(0) }", "failed", "exit status 0"),
    "aborts": ("fn twice(x: i32) -> i32 { std::process::abort() }", "failed", "exit status 134"),
    "crashes": ("fn twice(x: i32) -> i32 { unsafe { *(8 as *const i32) } }", "failed", "exit status 1(39|34)"),
    "overflows the stack": ("fn twice(x: i32) -> i32 { let room = [x; 1000]; twice(x + 1) + room[7] }", "failed",
                            "exit status 1(39|34)|overflow"),
}


@pytest.mark.parametrize("kind", PROGRAMS)
def test_the_status_says_what_happened(rust: Rust, kind: str) -> None:
    program, status, reason = PROGRAMS[kind]
    verdict = rust.judge(TWICE, "", program)
    assert verdict.status in status.split("|"), verdict
    assert re.search(reason, verdict.reason), verdict


def test_the_reason_of_assert_eq_names_both_values(rust: Rust) -> None:
    verdict = rust.judge(TWICE, "", "fn twice(x: i32) -> i32 { x * 3 }")
    assert "left: 6" in " ".join(verdict.reason.replace("`", "").split())
    assert verdict.reason.endswith("at test line 6")


# A type as declared -> what a test passes and gets back unchanged.
VALUES = {
    "bool": ["true", "false"],
    "char": ["'a'", "'\\0'", "'\\u{10ffff}'"],
    "i8": ["-128"], "u8": ["255"], "i32": ["0", "i32::MIN", "i32::MAX"], "u32": ["u32::MAX"], "i64": ["i64::MIN"],
    "u64": ["u64::MAX"], "i128": ["i128::MIN"], "u128": ["u128::MAX"], "usize": ["7"],
    "f32": ["0.1", "-0.0", "f32::MAX", "f32::INFINITY"],
    "f64": ["0.1", "-1e308", "5e-324", "1.0 / 3.0"],
    "String": ["String::new()", 'String::from("a\\0\\u{e9}\\n\\"")', '"x".repeat(100000)'],
    "&'static str": ['""', '"a"'],
    "Vec<i32>": ["vec![]", "vec![1, -2]", "vec![3; 70000]"],
    "Vec<Vec<String>>": ['vec![vec![], vec!["a".to_string()]]'],
    "Vec<&'static str>": ['vec!["a", ""]'],
    "VecDeque<u8>": ["VecDeque::from(vec![1])"],
    "[i32; 3]": ["[1, 2, 3]"],
    "HashSet<char>": ["HashSet::from(['a'])"],
    "BTreeSet<i32>": ["BTreeSet::from([2, 1])"],
    "HashMap<String, Vec<i32>>": ['HashMap::from([("a".to_string(), vec![1])])', "HashMap::new()"],
    "HashMap<&'static str, &'static str>": ['HashMap::from([("a", "b")])'],
    "BTreeMap<char, i32>": ["BTreeMap::from([('a', 1)])"],
    "(i32, f64, String)": ["(1, 0.5, String::from(\"a\"))"],
    "()": ["()"],
    "Option<String>": ["None", 'Some("a".to_string())'],
    "Result<i32, String>": ["Ok(1)", 'Err("a".to_string())'],
    "Box<i32>": ["Box::new(4)"],
    "&'static Vec<f64>": ["Box::leak(Box::new(vec![0.5]))"],
    "&'static [i32]": ["&[1, 2]"],
}


@pytest.mark.parametrize("kind", VALUES)
def test_every_type_goes_over_the_wire_and_back(rust: Rust, kind: str) -> None:
    bits = ".to_bits()" if kind in ("f32", "f64") else ""
    statements = [f"{{ let (one, two): ({kind}, {kind}) = ({value}, {value}); assert_eq!(same(one){bits}, two{bits}); }}"
                  for value in VALUES[kind]]
    verdict = rust.judge(problem(f"same(x: {kind}) -> {kind}", *statements), "", f"{HEAD}fn same(x: {kind}) -> {kind} {{ x }}")
    assert verdict.passed, verdict


def test_a_dyn_any_keeps_its_type(rust: Rust) -> None:
    own = problem("kinds(xs: Vec<Box<dyn Any>>, y: &dyn Any) -> Vec<i32>",
                  "let none: Vec<Box<dyn Any>> = vec![];",
                  "let xs: Vec<Box<dyn Any>> = vec![Box::new(4), Box::new(none), Box::new(2.5), Box::new('c'), Box::new(9)];",
                  'assert_eq!(kinds(xs, &"lit"), vec![4, 9, 3]);')
    program = ("fn kinds(xs: Vec<Box<dyn Any>>, y: &dyn Any) -> Vec<i32> {\n    let mut out: Vec<i32> = xs.iter()"
               ".filter_map(|x| x.downcast_ref::<i32>().copied()).collect();\n"
               "    out.push(y.downcast_ref::<&str>().unwrap().len() as i32);\n    out\n}")
    assert rust.judge(own, "", HEAD + program).passed


def test_an_enum_that_only_the_answer_defines_is_carried(rust: Rust) -> None:
    """As in Rust/137, whose tests read a type that neither prompt nor tests define."""
    solution = ("    Sign::Less(x)\n}\n\n#[derive(Debug, PartialEq)]\npub enum Sign<T> {\n    Nothing(),\n    Less(T),\n"
                "    More(T),\n}\n")
    own = problem("sign(x: i32) -> Sign<i32>", "assert_eq!(sign(-1), Sign::Less(-1));", "assert_ne!(sign(1), Sign::More(1));",
                  canonical_solution=solution)
    assert rust.judge(own, "", own.declaration + solution).passed
    assert rust.judge(own, "", own.declaration + solution.replace("Sign::Less(x)", "Sign::More(x)")).status == "failed"
    mine = "fn sign(x: i32) -> Sign<i32> { Sign::Less(x) }\n#[derive(PartialEq, Debug)]\nenum Sign<I> { More(I), Less(I) }"
    assert rust.judge(own, "", mine).passed


def test_what_a_call_changes_comes_back_where_the_caller_would_see_it(rust: Rust) -> None:
    own = problem("order(v: &mut Vec<i32>, w: &mut [i32], u: Vec<i32>)",
                  "let (mut v, mut w) = (vec![3, 1, 2], [5, 4]);", "order(&mut v, &mut w, vec![7]);",
                  "assert_eq!(v, vec![1, 2, 3]);", "assert_eq!(w, [4, 5]);")
    program = "fn order(v: &mut Vec<i32>, w: &mut [i32], u: Vec<i32>) { v.sort(); w.sort(); }"
    assert rust.judge(own, "", program).passed
    assert rust.judge(own, "", program.replace("w.sort();", "")).status == "failed"


def test_arguments_coerce_as_in_a_call_by_the_tests(rust: Rust) -> None:
    own = problem("total(xs: &Vec<f64>, name: &str) -> f64", 'assert_eq!(total(&vec![0.5, 1.0], "a"), 1.5);')
    for parameters in ("xs: &[f64], name: &str", "xs: &Vec<f64>, name: &'static str", "xs: &Vec<f64>, name: impl AsRef<str>"):
        assert rust.judge(own, "", f"fn total({parameters}) -> f64 {{ xs.iter().sum() }}").passed, parameters
    assert rust.judge(own, "", "fn total(xs: &Vec<f64>, name: String) -> f64 { 1.5 }").status == "compile error"


def test_a_test_that_should_panic_passes_only_if_it_does(rust: Rust) -> None:
    own = replace(TWICE, test=TWICE.test.replace("#[test]", "#[test]\n    #[should_panic]"))
    assert rust.judge(own, "", RIGHT).reason == "holds: it should panic and does not"
    assert rust.judge(own, "", "fn twice(x: i32) -> i32 { panic!() }").passed


def test_every_test_is_run(rust: Rust) -> None:
    second = TWICE.test.rstrip().rstrip("}") + "    #[test]\n    // comment\n    fn more() { assert_eq!(twice(5), 10); }\n}\n"
    own = replace(TWICE, test=second)
    assert rust.judge(own, "", RIGHT).passed
    verdict = rust.judge(own, "", "fn twice(x: i32) -> i32 { if x == 5 { 0 } else { x * 2 } }")
    assert verdict.reason.startswith("more: ")
    with pytest.raises(EvaluationError, match="they hold no function with #\\[test\\]"):
        rust.judge(replace(TWICE, test="mod tests {}"), "", RIGHT)


def test_a_helper_that_the_tests_use_is_the_problem_s_own(rust: Rust) -> None:
    own = problem("twice(x: i32) -> i32", "assert_eq!(off(twice(2)), 0);", helpers="fn off(x: i32) -> i32 { x - 4 }\n")
    assert rust.judge(own, "", "fn off(x: i32) -> i32 { 0 }\nfn twice(x: i32) -> i32 { 5 }").status == "failed"
    assert rust.judge(own, "", own.prompt + "x * 2 }").passed


def test_a_completion_becomes_a_program_that_is_judged(rust: Rust) -> None:
    completion = "\n    x * by()\n}\n\nfn by() -> i32 {\n    2\n}\n\nfn main() {\n"
    program = Rust.assemble(TWICE, TWICE.declaration, completion)
    assert rust.judge(TWICE, TWICE.declaration, program).passed
    assert not Rust.is_complete("\n    if x == 1 { 2 }", "twice")


def test_a_time_out_names_its_limit(rust: Rust) -> None:
    verdict = Rust(rust.sandbox, SHORT).judge(TWICE, "", "fn twice(x: i32) -> i32 { loop {} }")
    assert (verdict.status, verdict.reason) == ("timeout", "used more than 1 s of cpu time")


def test_tests_that_do_not_compile_stop_the_run(rust: Rust) -> None:
    with pytest.raises(EvaluationError, match="Own/0: its tests do not compile .*cannot find value `undeclared`"):
        rust.judge(problem("twice(x: i32) -> i32", "undeclared;"), "", RIGHT)


def test_a_signature_that_is_none_stops_the_run(rust: Rust) -> None:
    with pytest.raises(EvaluationError, match="Own/0: its signature 'twice' is no Rust function's"):
        rust.judge(replace(TWICE, signature="twice"), "", RIGHT)


def test_the_toolchain_is_checked_with_a_program_that_passes_and_one_that_fails(rust: Rust) -> None:
    assert set(rust.check()) == {"rustc"}


def test_what_is_absent_is_named_with_its_package(rust: Rust, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "REGISTRY", tmp_path)
    with pytest.raises(EvaluationError, match="the crate regex-syntax, and there is no .* package librust-regex-syntax-dev"):
        Rust(rust.sandbox).check()
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    with pytest.raises(EvaluationError, match="there is no rustc on PATH; install the Debian packages rustc gcc"):
        Rust(rust.sandbox).check()


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


SPREAD = (0, 2, 12, 20, 22, 32, 38, 50, 95, 111, 119, 137, 149, 162)


@pytest.mark.slow
def test_solutions_of_humanevalpack_pass_and_buggy_ones_fail(rust: Rust, humanevalpack: Path) -> None:
    problems = benchmark.read(humanevalpack.with_name("rust.jsonl")).problems
    executor, wrong = Rust(rust.sandbox, replace(LIMITS, cpu_s=4)), []
    for number, row in enumerate(problems):
        if number not in SPREAD and os.environ.get("MEGATRON_FT_SWEEP") != "all":
            continue
        for base in ("prompt", "declaration"):
            for solution, passes in ((row.canonical_solution, True), (row.buggy_solution, False)):
                verdict = executor.judge(row, getattr(row, base), getattr(row, base) + solution)
                if verdict.passed is not passes:
                    wrong.append((row.task_id, base, passes, verdict))
    assert not wrong
