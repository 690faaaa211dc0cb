"""C++: how a completion becomes a program, how it is compiled, and how it is judged.

The sources of both halves are in `cpp_inside`. What they have in common, and the headers that the public harness puts before
a program, is precompiled once; a program then takes an eighth of a second of cpu time.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from megatron_ft.errors import EvaluationError
from megatron_ft.evaluation import braces
from megatron_ft.evaluation.benchmark import Problem
from megatron_ft.evaluation.build import Built, build
from megatron_ft.evaluation.case import Side
from megatron_ft.evaluation.languages import cpp_together
from megatron_ft.evaluation.languages.braced import Braced
from megatron_ft.evaluation.languages.compiled import HELLO, Together, linker
from megatron_ft.evaluation.languages.declared import split, without_comments
from megatron_ft.evaluation.sandbox import Box, Limits
from megatron_ft.evaluation.toolchain_cache import cached_folder

INSIDE = "/box/cpp"
SOURCES = Path(__file__).parent / "cpp_inside"
COMPILE = "g++ -std=c++11 -O0 -w -fmax-errors=5 -fdiagnostics-color=never"
LIBRARIES = "-Wl,--as-needed -lssl -lcrypto"
HEADER_BYTES = 512 * 2**20  # a precompiled header takes 45 MB with g++ 12
PACKAGES = {"g++": "g++", "boost/": "libboost-dev", "openssl/": "libssl-dev", "-lssl": "libssl-dev", "-lcrypto": "libssl-dev"}
FORWARDER = "megatron_ft_entry"
SELF_CHECK = Problem(
    "self-check", "#include <openssl/md5.h>\nint f(vector<int> x){\n", "int f(vector<int> x){\n", "", "", "", "", "f",
    "int f(vector<int> x)", "", "", "#include <assert.h>\nint main(){\n    assert (f({1, 2}) == 16);\n}\n", "")


@dataclass(frozen=True)
class Parameter:
    """One parameter of a declared function."""

    type: str
    name: str

    @property
    def lent(self) -> bool:
        """Whether a call can change what the caller passed."""
        return "&" in self.type and not re.search(r"\bconst\b", self.type)


@dataclass(frozen=True)
class Signature:
    """A declared function."""

    result: str
    name: str
    parameters: tuple[Parameter, ...]


class Cpp(Braced, Together):
    """C++11, by g++."""

    name = "cpp"
    title = "C++"
    grammar = braces.CPP
    tools: ClassVar = {"g++": "g++ libboost-dev libssl-dev"}
    build_limits = Limits(cpu_s=10, wall_s=120, memory_bytes=2 * 2**30, processes=64)

    def check(self) -> dict[str, str]:
        """Judge a right and a wrong program; the version of the compiler."""
        version = _version()
        right = SELF_CHECK.prompt + "    return x.size() * 8 * (MD5_DIGEST_LENGTH == 16 && MD5(0, 0, 0));\n}\n"
        wrong = SELF_CHECK.prompt + "    return x[0];\n}\n"
        self.require_verdicts(SELF_CHECK, right, wrong)
        return {"g++": version}

    def explained(self, output: str) -> str:
        """What to install, if that is what the compiler missed."""
        return _missing(output)

    def program_source(self, problem: Problem, program: str) -> str:
        """The program, whose own main is renamed, and what answers calls of the entry point."""
        signature = read_signature(problem.signature, problem.task_id)
        types = "".join(f", {parameter.type}" for parameter in signature.parameters)
        return ("#define main megatron_ft_program_main\n"
                f'#line 1 "program.cpp"\n{program}\n#line 1 "serve"\nMEGATRON_FT_SERVE({signature.name}{types})\n')

    def tests_source(self, problem: Problem) -> str:
        """The problem's own helpers, a function that calls the program's, and the tests, which call that one.

        It has a name of its own: CPP/23's tests would else call <cstring>'s strlen, which fits their literals better.
        """
        return "".join(_tests_in_parts(problem))

    def goes_with_others(self, problem: Problem) -> bool:
        """If the problem's own text and the tests are functions; variables would be made for each problem's tests."""
        signature = read_signature(problem.signature, problem.task_id)
        texts = (_before_entry(problem.prompt, signature), problem.test)
        return all(map(cpp_together.is_functions_only, texts)) and cpp_together.has_one_main(problem.test)

    def tests_together(self, problems: Sequence[Problem]) -> str:
        """Their tests in namespaces: most of what one takes is to read the precompiled header, and the linker."""
        return cpp_together.joined([_tests_in_parts(problem) for problem in problems])

    def build_box(self) -> Box:
        """The precompiled header and our objects, beside the system's folders."""
        return Box({str(self._inside): self._place}, limits=self.build_limits)

    def build_script(self, half: str) -> str:
        """Compiles and links one half."""
        ours = "program.o" if half == "program" else "tests.o"
        return (f"{COMPILE} -include {self._place}/all.hpp -o half -x c++ - -x none {self._place}/{ours} "
                f"-fuse-ld={linker()} $LIBRARIES && cat half")

    def _compiled(self, script: str, source: str) -> Built:
        """As for any language; OpenSSL takes the linker half as long as all else, so only what misses it gets it."""
        if "openssl" not in source:
            built = super()._compiled(script, source)
            if not built.status or "undefined reference" not in built.output:
                return built
        return super()._compiled(f"LIBRARIES='{LIBRARIES}'; {script}", source)

    def run_box(self) -> Box:
        """The system's folders, which have the libraries."""
        return Box(limits=self.limits)

    def side(self, half: str, artifact: Path) -> Side:
        """The artifact is the program."""
        return Side(self.run_box(), [half], executable=artifact, hello=HELLO[half])

    def public_build(self) -> tuple[Box, str]:
        """The public harness's command."""
        return (Box(limits=replace(self.build_limits, cpu_s=60 * self.slowness)),
                "g++ -std=c++11 -o made -x c++ - -lcrypto -lssl && cat made")

    @property
    def _place(self) -> str:
        return INSIDE if self.sandbox.tool != "none" else str(self._inside)

    @cached_property
    def _inside(self) -> Path:
        """Our sources, and what is built of them once."""
        texts = [path.read_text() for path in (Path(__file__), *_sources())]
        return cached_folder("cpp", [_version(), *map(str, _sources()), *texts], self._make)

    def _make(self, folder: Path) -> None:
        made = {
            "all.hpp.gch": "{compile} -x c++-header {place}/all.hpp",
            "program.o": "{compile} -O1 -r -nostdlib {shared} {place}/program.cpp",
            "tests.o": "{compile} -O1 -r -nostdlib {shared} {place}/tests.cpp",
        }
        for path in _sources():
            shutil.copy(path, folder / path.name)
        place = INSIDE if self.sandbox.tool != "none" else str(folder)
        limits = replace(self.build_limits, cpu_s=120 * self.slowness, wall_s=600 * self.slowness, file_bytes=HEADER_BYTES)
        box = Box({str(SOURCES): place}, limits=limits)
        for name, command in made.items():
            script = command.format(compile=COMPILE, place=place, shared=f"{place}/wire.cpp {place}/instances.cpp")
            built = build(self.sandbox, box, f"{script} -o made && cat made", b"")
            if built.status:
                raise EvaluationError(f"C++: {name} cannot be built ({built.status}: {built.reason}); {_missing(built.output)}")
            (folder / name).write_bytes(built.data)
        for path in folder.iterdir():
            path.chmod(0o555)


def read_signature(text: str, task_id: str) -> Signature:
    """The declared function; EvaluationError where a problem's `signature` is none.

    >>> read_signature("map<char,int> f(const string &s, vector<int>& v)", "CPP/0")
    Signature(result='map<char,int>', name='f', parameters=(Parameter(type='const string &', name='s'), \
Parameter(type='vector<int>&', name='v')))
    """
    found = re.fullmatch(r"(?s)\s*(.+?[\s>&*])(\w+)\s*\((.*)\)\s*", without_comments(text))
    parts = [part for part in split(found[3]) if part != "void"] if found else []
    parameters = [re.fullmatch(r"(?s)(.+?)(\w+)\s*(?:=.*)?", part) for part in parts]
    if found is None or None in parameters:
        raise EvaluationError(f"{task_id}: its signature '{text}' is no C++ function's; a result, a name and parameters with "
                              "types and names are expected, such as 'bool below_zero(vector<int> operations)'")
    return Signature(found[1].strip(), found[2], tuple(Parameter(part[1].strip(), part[2]) for part in parameters))


def _tests_in_parts(problem: Problem) -> tuple[str, str, str]:
    """What stands before the tests, the tests, and what stands behind them."""
    signature = read_signature(problem.signature, problem.task_id)
    before = (f'#line 1 "prompt"\n{_before_entry(problem.prompt, signature)}\n'
              f'#line 1 "forwarder"\n{_forwarder(signature)}\n#define {signature.name} {FORWARDER}\n#line 1 "tests"\n')
    return before, f"{problem.test}\n", f"#undef {signature.name}\n"


def _before_entry(prompt: str, signature: Signature) -> str:
    """The includes and helpers that stand before the entry point in the problem's own text."""
    result = r"\s*".join(map(re.escape, signature.result.split()))
    found = list(re.finditer(rf"{result}\s*{signature.name}\s*\(", without_comments(prompt)))
    return prompt[: found[-1].start()] if found else ""


def _forwarder(signature: Signature) -> str:
    """The function that the tests call: it has the declared parameters and asks the program for the result."""
    declared = ", ".join(f"{parameter.type} {parameter.name}" for parameter in signature.parameters)
    passed = [f"    call.{'lend' if parameter.lent else 'pass'}({parameter.name});" for parameter in signature.parameters]
    back = [f"    call.take_back({parameter.name});" for parameter in signature.parameters if parameter.lent]
    keep, give = ("", "") if signature.result == "void" else (f"{signature.result} megatron_ft_result = ",
                                                             "    return megatron_ft_result;")
    return "\n".join([f"{signature.result} {FORWARDER}({declared}) {{", "    megatron_ft::Call call;", *passed,
                      "    call.run();", f"    {keep}call.result<{signature.result}>();", *back, give, "}"])


def _sources() -> list[Path]:
    return sorted(path for path in SOURCES.iterdir() if path.suffix in (".hpp", ".cpp"))


def _version() -> str:
    """The compiler's; EvaluationError where there is none."""
    if shutil.which("g++") is None:
        raise EvaluationError("C++ programs are compiled by g++, and there is none on PATH; install the Debian packages "
                              "g++ libboost-dev libssl-dev")
    return subprocess.run(["g++", "-dumpfullversion"], capture_output=True, text=True, check=True).stdout.strip()


def _missing(output: str) -> str:
    """What to install for what a compiler did not find, else what it said."""
    found = [package for text, package in PACKAGES.items() if re.search(rf"{text}.*No such file|cannot find {text}", output)]
    return f"install the Debian package {found[0]}" if found else f"the output: {output.strip()}"
