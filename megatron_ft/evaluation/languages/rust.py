"""Rust: how a completion becomes a program, how it is compiled, and how it is judged.

The sources of both halves are in `rust_inside`. They and the crates that programs may use are compiled once, by rustc alone
and from Debian's sources; a program then takes a tenth of a second of cpu time.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from megatron_ft.errors import EvaluationError
from megatron_ft.evaluation import braces
from megatron_ft.evaluation.benchmark import Problem
from megatron_ft.evaluation.build import build
from megatron_ft.evaluation.case import Side
from megatron_ft.evaluation.languages.braced import Braced
from megatron_ft.evaluation.languages.compiled import HELLO, Together, linker
from megatron_ft.evaluation.languages.rust_halves import source_of_program, source_of_tests, source_of_tests_together
from megatron_ft.evaluation.sandbox import Box, Limits
from megatron_ft.evaluation.toolchain_cache import cached_folder

INSIDE, INSIDE_STD, TOOLCHAIN = "/box/rust", "/box/std", "/box/rustc"
PRELOADED = "exe.so"
SOURCES = Path(__file__).parent / "rust_inside"
REGISTRY = Path("/usr/share/cargo/registry")
UNICODE = " ".join(f"--cfg feature='\"unicode{part}\"'" for part in
                   ("", "-age", "-bool", "-case", "-gencat", "-perl", "-script", "-segment"))
STD = "--cfg feature='\"std\"'"
# Crate -> its Debian package, the folder of its sources, options. Without regex's `perf` it needs no other crate.
CRATES = {
    "regex_syntax": ("librust-regex-syntax-dev", "regex-syntax-0.6.*", f"--edition 2018 {UNICODE}"),
    "regex": ("librust-regex-dev", "regex-1.[0-7].*",
              f"--edition 2018 {STD} {UNICODE} --extern regex_syntax=libregex_syntax.rlib"),
    "md5": ("librust-md5-dev", "md5-0.7.*", f"--edition 2015 {STD}"),
}
OURS = {"rand": "2018", "megatron_ft_wire": "2021"}
# The linker that newer compilers bring would look for itself in /proc, which a box has not.
COMPILE = ("--cap-lints allow --error-format=short -C debuginfo=0 -C strip=symbols -C codegen-units=1 "
           f"-C link-arg=-fuse-ld={linker()}")
DEBIAN = "rustc gcc librust-regex-dev librust-md5-dev"
SELF_CHECK = Problem(
    "self-check", "use regex::Regex;\nuse rand::Rng;\nuse md5;\nfn f(x: Vec<i32>) -> i32 {\n", "fn f(x: Vec<i32>) -> i32 {\n",
    "", "", "", "", "f", "f(x: Vec<i32>) -> i32", "", "",
    "#[cfg(test)]\nmod tests {\n    use super::*;\n    #[test]\n    fn test_f() {\n        assert_eq!(f(vec![1, 2]), 16);\n"
    "    }\n}\n", "")


class Rust(Braced, Together):
    """Rust 2021, by rustc."""

    name = "rust"
    title = "Rust"
    grammar = braces.RUST
    tools: ClassVar = {"rustc": DEBIAN}
    build_limits = Limits(cpu_s=10, wall_s=120, memory_bytes=4 * 2**30, processes=64)

    def check(self) -> dict[str, str]:
        """Judge a right and a wrong program; the version of the compiler."""
        version = _version()
        right = "    let n = rand::thread_rng().gen_range(2, 3) as i32;\n    assert!(Regex::new(\"^[0-9a-f]{32}$\").unwrap()" \
                ".is_match(&format!(\"{:x}\", md5::compute(\"\"))));\n    n * 4 * x.len() as i32\n}\n"
        begun = SELF_CHECK.prompt
        self.require_verdicts(SELF_CHECK, begun + right, begun + "    x[0]\n}\n")
        return {"rustc": version}

    def program_source(self, problem: Problem, program: str) -> str:
        """The program as the root of a crate, and what answers calls of the entry point."""
        return source_of_program(problem, program)

    def tests_source(self, problem: Problem) -> str:
        """The problem's own helpers, a function that calls the program's, and the tests."""
        return source_of_tests(problem)

    def goes_with_others(self, problem: Problem) -> bool:  # noqa: ARG002
        """Always: nothing of a module runs unless it is called."""
        return True

    def tests_together(self, problems: Sequence[Problem]) -> str:
        """Their tests as modules of one crate: most of what one takes is the compiler's start and the linker."""
        return source_of_tests_together(problems)

    def build_box(self) -> Box:
        """The compiler and our crates, beside the system's folders."""
        return Box({**self._toolchain, str(self._inside): self._place}, limits=self.build_limits)

    def build_script(self, half: str) -> str:
        """Compiles and links one half."""
        return self._compile("--crate-name half")

    def public_build(self) -> tuple[Box, str]:
        """What `cargo test` does, without cargo."""
        return self.build_box(), self._compile("--crate-name test --test")

    def _compile(self, options: str) -> str:
        crates = " ".join(f"--extern {name}={self._place}/lib{name}.rlib" for name in ("regex", "md5", *OURS))
        rustc = self._rustc(f"{self._place}/{PRELOADED}")
        # Against a shared standard library, linking takes half as long. `rpath`, as a box shows it elsewhere than the compiler.
        shared = f"-C prefer-dynamic -C link-arg=-Wl,-rpath,{self._std_place}" if self._std else ""
        return (f"{rustc} {COMPILE} --edition 2021 {options} -C opt-level=0 {shared} -L {self._place} {crates} -o half - "
                "&& cat half")

    def run_box(self) -> Box:
        """The standard library, beside the system's folders."""
        return Box({str(self._std): f"{self._std_place}/{self._std.name}"} if self._std else {}, limits=self.limits)

    def side(self, half: str, artifact: Path) -> Side:
        """The artifact is the program."""
        return Side(self.run_box(), [half], executable=artifact, hello=HELLO[half])

    @property
    def _place(self) -> str:
        return INSIDE if self.sandbox.tool != "none" else str(self._inside)

    @cached_property
    def _std(self) -> Path | None:
        """The shared standard library; a toolchain may have the other kind alone."""
        return next(Path(_said("--print", "target-libdir").strip()).glob("libstd-*.so"), None)

    @property
    def _std_place(self) -> str:
        return INSIDE_STD if self.sandbox.tool != "none" else str(self._std.parent)

    @cached_property
    def _toolchain(self) -> dict[str, str]:
        """The compiler's folder -> its place in a box, where it is not one of the system's."""
        return {} if self._sysroot.startswith("/usr") else {self._sysroot: TOOLCHAIN}

    @cached_property
    def _sysroot(self) -> str:
        """Where the compiler itself is: what is on PATH may be rustup's, which does not run in a box."""
        return _said("--print", "sysroot").strip()

    def _rustc(self, preloaded: str) -> str:
        """The command; a box has no /proc, by which the compiler would find itself and its libraries."""
        place = self._sysroot if self.sandbox.tool == "none" else self._toolchain.get(self._sysroot, self._sysroot)
        return (f"LD_LIBRARY_PATH={place}/lib LD_PRELOAD={preloaded} MEGATRON_FT_EXE={place}/bin/rustc "
                f"{place}/bin/rustc --sysroot {place}")

    @cached_property
    def _inside(self) -> Path:
        """Our crates and those that programs may use, built once."""
        ours = [path.read_text() for path in (Path(__file__), *sorted(SOURCES.iterdir())) if path.is_file()]
        crates = [str(_sources_of(name)) for name in CRATES]
        return cached_folder("rust", [_version(), *crates, *ours], self._make)

    def _make(self, folder: Path) -> None:
        place = INSIDE if self.sandbox.tool != "none" else str(SOURCES)
        jobs = [f"--crate-type rlib --crate-name {name} {options} -L . {_sources_of(name)}/src/lib.rs"
                for name, (_, _, options) in CRATES.items()]
        jobs += [f"--crate-type rlib --crate-name {name} --edition {edition} {place}/{name.removeprefix('megatron_ft_')}.rs"
                 for name, edition in OURS.items()]
        rustc = self._rustc(f"./{PRELOADED}")
        compiled = " && ".join([f"cc -O1 -shared -fPIC -o {PRELOADED} {place}/exe.c -ldl",
                                *(f"{rustc} {COMPILE} -C opt-level=1 {job}" for job in jobs)])
        limits = replace(self.build_limits, cpu_s=120 * self.slowness, wall_s=600 * self.slowness)
        box = Box({**self._toolchain, str(SOURCES): place}, limits=limits)
        built = build(self.sandbox, box, f"{compiled} && tar -c *", b"")
        if built.status:
            raise EvaluationError(f"Rust: the crates cannot be built ({built.status}: {built.reason}); the Debian packages are "
                                  f"{DEBIAN}; the output: {built.output.strip()}")
        with tarfile.open(fileobj=io.BytesIO(built.data)) as archive:
            for member in archive:
                (folder / member.name).write_bytes(archive.extractfile(member).read())
                (folder / member.name).chmod(0o555)


def _version() -> str:
    """The compiler's; EvaluationError where there is none."""
    for tool in ("rustc", "cc"):
        if shutil.which(tool) is None:
            raise EvaluationError(f"Rust programs are compiled by rustc and linked by cc, and there is no {tool} on PATH; "
                                  f"install the Debian packages {DEBIAN}")
    return _said("--version").split()[1]


def _said(*options: str) -> str:
    return subprocess.run(["rustc", *options], capture_output=True, text=True, check=True).stdout


def _sources_of(crate: str) -> Path:
    """The newest sources of a crate that fit; EvaluationError says what to install."""
    package, pattern, _ = CRATES[crate]
    found = sorted(REGISTRY.glob(pattern))
    if not found:
        raise EvaluationError(f"Rust programs may use the crate {crate.replace('_', '-')}, and there is no "
                              f"{REGISTRY}/{pattern}; install the Debian package {package}")
    return found[-1]
