"""How Rust programs are judged: right and wrong ones, and every type on the wire."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from megatron_ft.errors import EvaluationError
from megatron_ft.evaluation.languages import rust as module
from megatron_ft.evaluation.languages.base import Language
from megatron_ft.evaluation.languages.rust import Rust
from tests.evaluation.rust_problems import HEAD, RIGHT, TWICE, problem


@pytest.fixture
def rust(judges: Callable[[str], Language]) -> Rust:
    """The judge of Rust programs."""
    return judges("rust")


# A program for TWICE -> status and what its reason says.
PROGRAMS = {
    "is not closed": ("fn twice(x: i32) -> i32 { x * 2", "compile error", "unclosed"),
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
    "takes a float": ("fn twice(x: f64) -> f64 { x * 2.0 }", "failed", "no float"),
    "takes a text": ("fn twice(x: String) -> i32 { 4 }", "compile error|failed", ""),
    "answers a float": ("fn twice(x: i32) -> f64 { x as f64 * 2.0 }", "refused", "no integer"),
    "answers more than an i32": ("fn twice(x: i32) -> i64 { x as i64 * 2 + (1 << 32) }", "failed",
                                 "answered 4294967300 as i32, at call 1"),
    "overflows": ("fn twice(x: i32) -> i32 { x * i32::MAX }", "failed", "attempt to multiply with overflow"),
    "indexes beyond": ("fn twice(x: i32) -> i32 { vec![4][x as usize] }", "failed", "index out of bounds"),
    "leaves before its tests": (RIGHT + '\nextern "C" fn leave() { std::process::exit(0) }\n#[used]\n'
                                '#[link_section = ".init_array"]\nstatic LEAVE: extern "C" fn() = leave;', "failed",
                                "ended before its tests did .exit status 0"),
    "aborts": ("fn twice(x: i32) -> i32 { std::process::abort() }", "failed", "killed by SIG(ABRT|SEGV)"),
    "crashes": ("fn twice(x: i32) -> i32 { unsafe { *(8 as *const i32) } }", "failed", "killed by SIG(SEGV|ABRT)"),
    "overflows the stack": ("fn twice(x: i32) -> i32 { let room = [x; 1000]; twice(x + 1) + room[7] }", "failed",
                            "killed by SIG(SEGV|ABRT)|overflow"),
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


def test_a_signature_that_is_none_stops_the_run(rust: Rust) -> None:
    with pytest.raises(EvaluationError, match="Own/0: its signature 'twice' is no Rust function's"):
        rust.judge(replace(TWICE, signature="twice"), "", RIGHT)


def test_a_toolchain_without_a_shared_standard_library_serves_too(rust: Rust, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Rust, "_std", None)
    alone = Rust(rust.sandbox, rust.limits)
    assert alone.judge(TWICE, "", RIGHT).passed
    assert alone.judge(TWICE, "", "fn twice(x: i32) -> i32 { x * x }").status == "failed"


def test_what_is_absent_is_named_with_its_package(rust: Rust, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "REGISTRY", tmp_path)
    with pytest.raises(EvaluationError, match="the crate regex-syntax, and there is no .* package librust-regex-syntax-dev"):
        Rust(rust.sandbox).check()
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    with pytest.raises(EvaluationError, match="there is no rustc on PATH; install the Debian packages rustc gcc"):
        Rust(rust.sandbox).check()
