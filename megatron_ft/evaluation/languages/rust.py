"""Rust: how a completion becomes a program, how it is compiled, and how it is judged.

The sources of both halves are in `rust_inside`. They and the crates that programs may use are compiled once, by rustc alone
and from Debian's sources; a program then takes an eighth of a second of cpu time.
"""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from megatron_ft.errors import EvaluationError
from megatron_ft.evaluation import braces
from megatron_ft.evaluation.benchmark import Problem
from megatron_ft.evaluation.build import build
from megatron_ft.evaluation.languages.compiled import ARTIFACT, Compiled
from megatron_ft.evaluation.languages.declared import closing_brace, split, without_comments
from megatron_ft.evaluation.sandbox import Box, Limits
from megatron_ft.evaluation.toolchain_cache import cached_folder

INSIDE, TOOLCHAIN = "/box/rust", "/box/rustc"
SOURCES = Path(__file__).parent / "rust_inside"
REGISTRY = Path("/usr/share/cargo/registry")
UNICODE = " ".join(f"--cfg feature='\"unicode{part}\"'" for part in
                   ("", "-age", "-bool", "-case", "-gencat", "-perl", "-script", "-segment"))
STD = "--cfg feature='\"std\"'"
# Crate -> its Debian package, the folder of its sources, options. Without regex's `perf` it needs no other crate.
CRATES = {
    "regex_syntax": ("librust-regex-syntax-dev", "regex-syntax-0.6.*", UNICODE),
    "regex": ("librust-regex-dev", "regex-1.[0-7].*", f"{STD} {UNICODE} --extern regex_syntax=libregex_syntax.rlib"),
    "md5": ("librust-md5-dev", "md5-0.7.*", STD),
}
OURS = {"rand": "2018", "megatron_ft_wire": "2021"}
COMPILE = "--cap-lints allow --error-format=short -C debuginfo=0 -C strip=symbols -C codegen-units=1 -C link-arg=-fuse-ld=bfd"
DEBIAN = "rustc gcc librust-regex-dev librust-md5-dev"
NUMBER = re.compile(r"\b(?:[iu](?:8|16|32|64|128|size)|f32|f64)\b")
TEST = re.compile(r"#\[test\]((?:\s|//[^\n]*\n|/\*.*?\*/|#\[[^\]]*\])*)(?:pub\s+)?fn\s+(\w+)", re.DOTALL)
MAIN = ("    #[no_mangle] pub extern \"C\" fn main(_: ::std::os::raw::c_int, argv: *const *const ::std::os::raw::c_char) "
        "-> ::std::os::raw::c_int {")
SELF_CHECK = Problem(
    "self-check", "use regex::Regex;\nuse rand::Rng;\nuse md5;\nfn f(x: Vec<i32>) -> i32 {\n", "fn f(x: Vec<i32>) -> i32 {\n",
    "", "", "", "", "f", "f(x: Vec<i32>) -> i32", "", "",
    "#[cfg(test)]\nmod tests {\n    use super::*;\n    #[test]\n    fn test_f() {\n        assert_eq!(f(vec![1, 2]), 16);\n"
    "    }\n}\n", "")


@dataclass(frozen=True)
class Parameter:
    """One parameter of a declared function."""

    name: str
    type: str

    @property
    def lent(self) -> str:
        """The type of what a call can change, "" where it cannot change the caller's.

        >>> Parameter("v", "&mut Vec<i32>").lent, Parameter("v", "&[i32]").lent
        ('Vec<i32>', '')
        """
        found = re.fullmatch(r"&\s*(?:'\w+\s+)?mut\s+(.+)", self.type, re.DOTALL)
        return found[1] if found else ""


@dataclass(frozen=True)
class Signature:
    """A declared function."""

    name: str
    generics: str
    parameters: tuple[Parameter, ...]
    result: str


class Rust(Compiled):
    """Rust 2021, by rustc."""

    name = "rust"
    title = "Rust"
    task_prefix = "Rust"
    tools: ClassVar = {"rustc": DEBIAN}
    build_limits = Limits(cpu_s=20, wall_s=120, memory_bytes=4 * 2**30, processes=64)

    @staticmethod
    def assemble(problem: Problem, base: str, completion: str) -> str:
        """The program of a completion: the function and what it uses."""
        return braces.assemble(braces.RUST, base, completion, problem.entry_point)

    @staticmethod
    def is_complete(completion: str, entry_point: str) -> bool:
        """Whether the function is over."""
        return braces.is_complete(braces.RUST, completion, entry_point)

    def check(self) -> dict[str, str]:
        """Judge a right and a wrong program; the version of the compiler."""
        right = "    let n = rand::thread_rng().gen_range(2, 3) as i32;\n    assert!(Regex::new(\"^[0-9a-f]{32}$\").unwrap()" \
                ".is_match(&format!(\"{:x}\", md5::compute(\"\"))));\n    n * 4 * x.len() as i32\n}\n"
        for body, expected in ((right, "passed"), ("    x[0]\n}\n", "failed")):
            verdict = self.judge(SELF_CHECK, SELF_CHECK.prompt, SELF_CHECK.prompt + body)
            if verdict.status != expected:
                raise EvaluationError(f"Rust programs cannot be judged here: one that must give '{expected}' gave "
                                      f"'{verdict.status}' ({verdict.reason}); the output: {verdict.output.strip()}")
        return {"rustc": _version()}

    def program_source(self, problem: Problem, program: str) -> str:
        """The program as the root of a crate whose `main` is not its own, and what answers calls of the entry point."""
        signature = read_signature(problem)
        return (f"#![no_main]#![allow(warnings)]{program}\n{_answerer(problem, signature, program)}\n")

    def tests_source(self, problem: Problem) -> str:
        """The problem's own helpers, a function that calls the program's, and the tests, called one after the other."""
        signature = read_signature(problem)
        tests, names = _callable_tests(problem)
        before = "\n".join(["#![no_main]#![allow(warnings)]" + _before_entry(problem.prompt, signature),
                            *_enums(problem, signature), _forwarder(signature)])
        # Seven lines and those of the list stand between `before` and the tests.
        run = ["mod megatron_ft_run {", MAIN, "        ::megatron_ft_wire::tests::run(argv, FIRST_LINE, &[", *names, "        ])",
               "    }", "}", ""]
        first_line = len("\n".join([before, *run]).split("\n")) - 1
        return "\n".join([before, *run]).replace("FIRST_LINE", str(first_line)) + tests + "\n"

    def build_box(self) -> Box:
        """The compiler and our crates, beside the system's folders."""
        return Box({**_toolchain(), str(self._inside): self._place}, limits=self.build_limits)

    def build_script(self, half: str) -> str:
        """Compiles and links one half."""
        crates = " ".join(f"--extern {name}={self._place}/lib{name}.rlib" for name in ("regex", "md5", *OURS))
        return (f"{self._rustc} {COMPILE} --edition 2021 --crate-name half -C opt-level=0 -L {self._place} {crates} "
                "-o /tmp/half - && cat /tmp/half")

    def run_box(self, artifact: Path) -> Box:
        """The artifact, and what starts it."""
        return Box({str(artifact): ARTIFACT, str(self._inside / "start"): f"{self._place}/start"}, limits=self.limits)

    def argv(self, half: str) -> Sequence[str]:
        """Tests say themselves that their box stands; for a program another says it."""
        return [f"{self._place}/start", ARTIFACT] if half == "program" else [ARTIFACT]

    @property
    def _place(self) -> str:
        return INSIDE if self.sandbox.tool != "none" else str(self._inside)

    @property
    def _rustc(self) -> str:
        sysroot = _sysroot() if self.sandbox.tool == "none" else next(iter(_toolchain().values()), _sysroot())
        # A box has no /proc, by which the compiler would find its own libraries.
        return f"LD_LIBRARY_PATH={sysroot}/lib {sysroot}/bin/rustc --sysroot {sysroot}"

    @cached_property
    def _inside(self) -> Path:
        """Our crates and those that programs may use, built once."""
        ours = [path.read_text() for path in sorted(SOURCES.glob("*.rs"))]
        crates = [str(_sources_of(name)) for name in CRATES]
        return cached_folder("rust", [_version(), COMPILE, *map(str, CRATES.values()), *crates, *ours], self._make)

    def _make(self, folder: Path) -> None:
        place = INSIDE if self.sandbox.tool != "none" else str(SOURCES)
        jobs = [f"--crate-type rlib --crate-name {name} --edition 2018 {options} -L . {_sources_of(name)}/src/lib.rs"
                for name, (_, _, options) in CRATES.items()]
        jobs += [f"--crate-type rlib --crate-name {name} --edition {edition} {place}/{name.removeprefix('megatron_ft_')}.rs"
                 for name, edition in OURS.items()]
        jobs.append(f"--edition 2021 {place}/start.rs")
        compiled = " && ".join(f"{self._rustc} {COMPILE} -C opt-level=1 {job}" for job in jobs)
        box = Box({**_toolchain(), str(SOURCES): place}, limits=self.build_limits)
        built = build(self.sandbox, box, f"mkdir /tmp/made && cd /tmp/made && {compiled} && tar -c *", b"")
        if built.status:
            raise EvaluationError(f"Rust: the crates cannot be built ({built.status}: {built.reason}); the Debian packages are "
                                  f"{DEBIAN}; the output: {built.output.strip()}")
        with tarfile.open(fileobj=io.BytesIO(built.data)) as archive:
            for member in archive:
                (folder / member.name).write_bytes(archive.extractfile(member).read())
                (folder / member.name).chmod(0o555)


def read_signature(problem: Problem) -> Signature:
    """The declared function; EvaluationError where the problem's `signature` is none.

    >>> from dataclasses import replace
    >>> read_signature(replace(SELF_CHECK, signature="f<'a>(mut a:&'a str, b: HashMap<i32, i32>) -> (i32,i32)"))
    Signature(name='f', generics="<'a>", parameters=(Parameter(name='a', type="&'a str"), \
Parameter(name='b', type='HashMap<i32, i32>')), result='(i32,i32)')
    """
    text = without_comments(problem.signature)
    found = re.fullmatch(r"(?s)\s*(?:pub\s+)?(?:fn\s+)?(\w+)\s*(<.*?>)?\s*\((.*?)\)\s*(?:->\s*(.+?))?\s*", text)
    parameters = [part.partition(":") for part in split(found[3])] if found else []
    if found is None or not all(colon for _, colon, _ in parameters):
        raise EvaluationError(f"{problem.task_id}: its signature '{problem.signature}' is no Rust function's; a name, "
                              "parameters with types and a result are expected, such as 'below_zero(operations: Vec<i32>) "
                              "-> bool'")
    return Signature(found[1], found[2] or "", tuple(Parameter(re.sub(r"^\s*mut\s+", "", name).strip(), kind.strip())
                                                     for name, _, kind in parameters), found[4] or "()")


def _before_entry(prompt: str, signature: Signature) -> str:
    """The imports and helpers that stand before the entry point in the problem's own text."""
    found = list(re.finditer(rf"(?:\bpub\s+)?\bfn\s+{signature.name}\b", without_comments(prompt)))
    return prompt[: found[-1].start()] if found else ""


def _forwarder(signature: Signature) -> str:
    """The function that the tests call: it has the declared parameters and asks the program for the result."""
    declared = ", ".join(f"{parameter.name}: {parameter.type}" for parameter in signature.parameters)
    lines = ["#[track_caller]", f"fn {signature.name}{signature.generics}({declared}) -> {signature.result} {{",
             "    let mut call = ::megatron_ft_wire::tests::Call::new();",
             *(f"    call.pass(&{parameter.name});" for parameter in signature.parameters),
             "    call.run();", "    let result = call.read();"]
    for parameter in signature.parameters:
        if parameter.lent:
            back = f"call.read_into({parameter.name})" if parameter.lent.startswith("[") else f"*{parameter.name} = call.read()"
            lines.append(f"    {back};")
    return "\n".join([*lines, "    result", "}"])


def _answerer(problem: Problem, signature: Signature, program: str) -> str:
    """What reads the arguments of a call, calls the program's function and sends what it returns.

    A number's type is the program's own, as it would be for the literals that tests pass, except where the function is
    generic and leaves it open.
    """
    read, passed, back = [], [], []
    is_generic = _is_generic(signature.name, program)
    for place, parameter in enumerate(signature.parameters):
        kind = re.sub(r"'\w+", "'static", parameter.lent or parameter.type)
        if parameter.lent.startswith("["):
            kind = f"Vec<{kind.strip('[] ')}>"
        read.append(f"            let mut a{place}: {kind if is_generic else NUMBER.sub('_', kind)} = asked.argument();")
        passed.append(f"&mut a{place}" if parameter.lent else f"a{place}")
        back.append(f"            asked.answer(&a{place});" if parameter.lent else "")
    enums = [_putter(signature, problem.test, name) for name in _missing_types(problem, signature)]
    return "\n".join(["mod megatron_ft_serve {", "    use super::*;", MAIN,
                      "        ::megatron_ft_wire::program::serve(argv, |asked| {", *read,
                      f"            let result = super::{signature.name}({', '.join(passed)});",
                      "            asked.answer(result);", *filter(None, back), "        });", "        0", "    }", *enums, "}"])


def _is_generic(name: str, program: str) -> bool:
    """Whether types of the function's parameters are left open.

    >>> _is_generic("f", "fn f<'a>(x: &'a str)"), _is_generic("f", "fn f<T: Ord>(x: T)"), _is_generic("f", "fn f(x: impl Ord)")
    (False, True, True)
    """
    found = re.search(rf"\bfn\s+{name}\s*(<[^(]*>)?\s*\(([^{{]*)", without_comments(program))
    return found is not None and (re.search(r"\w", re.sub(r"'\w+", "", found[1] or "")) is not None
                                  or re.search(r"\bimpl\b", found[2]) is not None)


def _missing_types(problem: Problem, signature: Signature) -> list[str]:
    """Enums of the declared result that an answer has to define (Rust/137)."""
    return [name for name in re.findall(r"\b[A-Z]\w*\b", signature.result)
            if re.search(rf"\benum\s+{name}\b", problem.canonical_solution)
            and not re.search(rf"\benum\s+{name}\b", without_comments(problem.prompt))]


def _enums(problem: Problem, signature: Signature) -> list[str]:
    """The same for the tests: as the solution defines them, and how they are read."""
    lines = []
    for name in _missing_types(problem, signature):
        solution = problem.canonical_solution
        begin = re.search(rf"(?:#\[[^\]]*\]\s*)*(?:pub\s+)?enum\s+{name}\b", solution)
        definition = solution[begin.start(): closing_brace(solution, begin.start())]
        generics = [part.strip() for part in re.search(rf"enum\s+{name}\s*<?([^>{{]*)", definition)[1].split(",") if part.strip()]
        cases = [f'            ("{variant}", {len(split(held))}) => {name}::{variant}'
                 f"({', '.join(['::megatron_ft_wire::Get::get(from)?'] * len(split(held)))}),"
                 for variant, held in re.findall(r"(\w+)\s*\(([^()]*)\)\s*[,}]", definition)]
        bounds = ", ".join(f"{kind}: ::megatron_ft_wire::Get" for kind in generics)
        lines += [definition, f"impl<{bounds}> ::megatron_ft_wire::Get for {name}<{', '.join(generics)}> {{",
                  "    fn get(from: &mut ::megatron_ft_wire::Reader) -> Result<Self, ::megatron_ft_wire::Wrong> {",
                  "        let (variant, count) = from.variant()?;", "        Ok(match (variant.as_str(), count) {", *cases,
                  f'            _ => return Err(::megatron_ft_wire::Wrong::Unfit(format!("{name}::{{}}", variant))),',
                  "        })", "    }", "}"]
    return lines


def _putter(signature: Signature, tests: str, name: str) -> str:
    """How a program's own enum is sent: those variants that the tests name; another one equals none of them."""
    variants = sorted(set(re.findall(rf"\b{name}::(\w+)\s*\(", tests)))
    cases = [f"            {name}::{variant}(value) => {{ out.variant(\"{variant}\", 1); value.put(out); }}"
             for variant in variants]
    return "\n".join([f"    impl ::megatron_ft_wire::Put for {signature.result} {{",
                      "        fn put(&self, out: &mut ::megatron_ft_wire::Writer) { use ::megatron_ft_wire::Put; match self {",
                      *cases, '            _ => out.variant("another", 0),', "        } }", "    }"])


def _callable_tests(problem: Problem) -> tuple[str, list[str]]:
    """The tests as plain functions, and their names for the list that is run."""
    tests = problem.test.replace("#[cfg(test)]", "")
    names = []
    for test in TEST.finditer(tests):
        modules = re.findall(r"\bmod\s+(\w+)\s*\{", tests[: test.start()])[-1:]
        path = "::".join(["super", *modules, test[2]])
        names.append(f'            ("{test[2]}", {path}, {str("should_panic" in test[1]).lower()}),')
    return TEST.sub(lambda test: f"{test[1].replace('#[should_panic]', '')}pub fn {test[2]}", tests), names


def _version() -> str:
    """The compiler's; EvaluationError where there is none."""
    for tool in ("rustc", "cc"):
        if shutil.which(tool) is None:
            raise EvaluationError(f"Rust programs are compiled by rustc and linked by cc, and there is no {tool} on PATH; "
                                  f"install the Debian packages {DEBIAN}")
    return _said("--version").split()[1]


def _sysroot() -> str:
    """Where the compiler itself is: what is on PATH may be rustup's, which does not run in a box."""
    return _said("--print", "sysroot").strip()


def _said(*options: str) -> str:
    return subprocess.run(["rustc", *options], capture_output=True, text=True, check=True).stdout


def _toolchain() -> dict[str, str]:
    """The compiler's folder -> its place in a box, where it is not one of the system's."""
    sysroot = _sysroot()
    return {} if sysroot.startswith("/usr") else {sysroot: TOOLCHAIN}


def _sources_of(crate: str) -> Path:
    """The newest sources of a crate that fit; EvaluationError says what to install."""
    package, pattern, _ = CRATES[crate]
    found = sorted(REGISTRY.glob(pattern))
    if not found:
        raise EvaluationError(f"Rust programs may use the crate {crate.replace('_', '-')}, and there is no "
                              f"{REGISTRY}/{pattern}; install the Debian package {package}")
    return found[-1]
