"""Go: compiled and linked without the `go` command, against archives that are made once.

`go build` spends most of its time on finding out that nothing but the program is new. So the standard library, testify
and our side of the wire lie as archives in the cache, and a program costs one run of the compiler and one of the linker.
What both halves of a case are made of is in `go_inside`.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import struct
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from megatron_ft.errors import EvaluationError
from megatron_ft.evaluation import braces
from megatron_ft.evaluation.benchmark import Problem
from megatron_ft.evaluation.build import Built
from megatron_ft.evaluation.case import Side
from megatron_ft.evaluation.languages.braced import Braced
from megatron_ft.evaluation.languages.compiled import Together
from megatron_ft.evaluation.sandbox import Box, Limits
from megatron_ft.evaluation.toolchain_cache import cached_folder

INSIDE = "/box/go"
SOURCES = Path(__file__).parent / "go_inside"
DEBIAN_PACKAGES = "/usr/share/gocode"
TESTIFY = "github.com/stretchr/testify"
OLDEST = (1, 19)
RUNS_BY_ITSELF = re.compile(r"^(?:var\b|func\s+init\s*\()", re.MULTILINE)
PUBLIC, PUBLIC_BYTES = "/box/cache", 512 * 2**20
VETTED = "-atomic -bool -buildtags -errorsas -ifaceassert -nilfunc -printf -stringintconv"  # what `go test` checks
# The same on every machine: with many cores the threads of its runtime alone would be more than a box may have.
ENVIRONMENT = {"GOMAXPROCS": "2"}
SELF_CHECK = Problem(
    "self-check", "func F(x []int) []int {", "func F(x []int) []int {", "", "", "", "", "F", "", "", "",
    "func TestF(t *testing.T) {\n    assert.Equal(t, []int{4}, F([]int{2}))\n}\n", "",
    test_setup=f'package main\n\nimport (\n    "testing"\n    "{TESTIFY}/assert"\n)\n')


class Go(Braced, Together):
    """Go, by the toolchain on PATH."""

    name = "go"
    title = "Go"
    grammar = braces.GO
    tools: ClassVar = {"go": "golang-go and golang-github-stretchr-testify-dev"}
    build_limits = Limits(cpu_s=30, wall_s=120, memory_bytes=4 * 2**30, processes=64)

    def check(self) -> dict[str, str]:
        """Judge a right and a wrong program; the toolchain's version."""
        right = "func F(x []int) []int {\n\treturn append(x[:0], x[0]*2)\n}\n"
        self.require_verdicts(SELF_CHECK, right, right.replace("append(x[:0], x[0]*2)", "x"))
        return {"go": self._settings["GOVERSION"].removeprefix("go")}

    def program_source(self, problem: Problem, program: str) -> str:
        """What `prepare` makes the program's file of."""
        return json.dumps({"Entry": problem.entry_point, "Prompt": problem.prompt, "Program": program})

    def tests_source(self, problem: Problem) -> str:
        """What `prepare` makes the tests' file of."""
        return json.dumps({"Entry": problem.entry_point, "Prompt": problem.prompt, "Setup": problem.test_setup,
                           "Tests": problem.test})

    def goes_with_others(self, problem: Problem) -> bool:
        """Not where something runs that is not called: variables of the package, and init."""
        return not RUNS_BY_ITSELF.search("\n".join((problem.prompt, problem.test_setup, problem.test)))

    def tests_together(self, problems: Sequence[Problem]) -> str:
        """What `prepare` makes packages of: most of what a problem's tests take is the linker."""
        return f"[{','.join(map(self.tests_source, problems))}]"

    def build_box(self) -> Box:
        """The compiler, the linker and all archives; no source but what comes in on stdin."""
        return Box({str(self._toolchain): INSIDE}, {**ENVIRONMENT, "GOGC": "off"}, self.build_limits)

    def build_script(self, half: str) -> str:
        """Prepare, compile, link; the paths in the tables of archives are relative to the toolchain's folder."""
        toolchain = self._toolchain if self.sandbox.tool == "none" else INSIDE
        compiled = "./compile -p $name -complete -c=2 -dwarf=false -trimpath $made -o $made/$name.a"
        prepared, table = f"./prepare {half}.compile >$made/main.go", half
        if half == "together":
            each = f"name=${{file##*/}}; name=${{name%.go}}; {compiled} -importcfg tests.compile $file >&2 || exit 1"
            prepared, table = f"./prepare tests.compile $made && for file in $made/p*.go; do {each}; done", "$made/table"
        return (f"made=$PWD && cd {shlex.quote(str(toolchain))} && {prepared} && "
                f"name=main && {compiled} -importcfg {table}.compile $made/main.go >&2 && "
                f"./link -s -w -buildmode=exe -importcfg {table}.link -o $made/main $made/main.a >&2 && cat $made/main")

    def _build(self, half: str, source: str) -> Built:
        """As for any language, but a program that cannot even be loaded is refused: it would look like a broken box."""
        built = super()._build(half, source)
        if not built.status and (wanted := loaded_bytes(built.data)) > self.limits.memory_bytes // 2:
            reason = f"its variables take {wanted} bytes before it starts; at most half of {self.limits.memory_bytes} are given"
            return replace(built, data=b"", status="refused", reason=reason)
        return built

    def run_box(self) -> Box:
        """Nothing but the system's folders: an artifact needs none."""
        return Box({}, ENVIRONMENT, self.limits)

    def side(self, half: str, artifact: Path) -> Side:
        """The artifact is the program."""
        return Side(self.run_box(), [half], executable=artifact)

    def public_build(self) -> tuple[Box, str]:
        """What `go test` does: some checks of `go vet`, then the tests."""
        # Without cgo, as the cache was made: else `go vet` looks through the packages that use it, for each program.
        environment = {**ENVIRONMENT, "GO111MODULE": "off", "GOPATH": os.pathsep.join(_package_folders()),
                       "GOFLAGS": "-buildvcs=false", "CGO_ENABLED": "0"}
        go = shlex.quote(shutil.which("go"))
        cache = shlex.quote(str(self._public_cache) if self.sandbox.tool == "none" else PUBLIC)
        script = (f"cp -r {cache} cache && export GOCACHE=$PWD/cache && cat >main_test.go && "
                  f"{go} vet {VETTED} main_test.go >&2 && {go} test -c -vet=off -o made main_test.go >&2 && cat made")
        return Box({str(self._public_cache): PUBLIC, **{folder: folder for folder in _package_folders()}}, environment,
                   replace(self.build_limits, cpu_s=60 * self.slowness, file_bytes=PUBLIC_BYTES)), script

    @cached_property
    def _public_cache(self) -> Path:
        """Go's cache after the tests of one problem, so that the next ones compile nothing but themselves."""
        def make(folder: Path) -> None:
            source = folder / "main_test.go"
            source.write_text(f"{SELF_CHECK.test_setup}\nfunc F(x []int) []int {{\n\treturn x\n}}\n\n{SELF_CHECK.test}")
            environment = _environment({"GOPATH": os.pathsep.join(_package_folders()), "GOCACHE": str(folder)})
            _go(["vet", *VETTED.split(), str(source)], environment)
            _go(["test", "-c", "-o", os.devnull, str(source)], environment)
            source.unlink()
        return cached_folder("go-public", [*self._settings.values(), PUBLIC], make)

    @cached_property
    def _settings(self) -> dict[str, str]:
        """The toolchain's own account of itself; EvaluationError where there is none that serves."""
        if shutil.which("go") is None:
            raise EvaluationError(f"go programs need the command 'go', which is not on PATH: install {self.tools['go']}")
        _testify()
        names = ("GOVERSION", "GOTOOLDIR", "GOARCH")
        settings = json.loads(_go(["env", "-json", *names], _environment({})))
        version = tuple(int(part) for part in settings["GOVERSION"].removeprefix("go").split(".")[:2])
        if version < OLDEST:
            raise EvaluationError(f"go programs need Go {'.'.join(map(str, OLDEST))} or newer; "
                                  f"{shutil.which('go')} is {settings['GOVERSION']}")
        return settings

    @cached_property
    def _toolchain(self) -> Path:
        """Compiler, linker, `prepare`, archives, and tables of the archives for each half and each tool."""
        settings = self._settings
        sources = [f"{path.relative_to(SOURCES)}\n{path.read_text()}" for path in sorted(SOURCES.rglob("*.go"))]
        return cached_folder("go", [*settings.values(), Path(__file__).read_text(), *sources], self._make_toolchain)

    def _make_toolchain(self, folder: Path) -> None:
        work = folder / "work"
        shutil.copytree(SOURCES, work / "src" / "megatron_ft")
        shutil.copytree(_testify(), work / "src" / TESTIFY)
        (work / "src" / "megatron_ft" / "stand_ins").rename(work / "src" / TESTIFY / "vendor")
        environment = _environment({"GOPATH": os.pathsep.join([str(work), *_package_folders()]),
                                    "GOCACHE": str(work / "cache")})
        try:
            archives = _archives(environment)
        except EvaluationError:  # a testify that asks more of the stand-ins than they have takes what it asks for
            shutil.rmtree(work / "src" / TESTIFY / "vendor")
            archives = _archives(environment)
        (folder / "archives").mkdir()
        for number, (package, archive) in enumerate(archives.items()):
            archives[package] = f"archives/{number}.a"
            shutil.copyfile(archive, folder / archives[package])
        hidden = ("megatron_ft/ask", "megatron_ft/testing")
        program = {package: archive for package, archive in archives.items()
                   if "." not in package.partition("/")[0] and package not in hidden}
        _write_tables(folder, "program", program, "")
        _write_tables(folder, "tests", archives, "importmap testing=megatron_ft/testing\n")
        _go(["build", "-ldflags=-s -w", "-o", str(folder / "prepare"), "megatron_ft/prepare"], environment)
        for tool in ("compile", "link"):
            shutil.copy(Path(self._settings["GOTOOLDIR"]) / tool, folder / tool)
        shutil.rmtree(work)


def loaded_bytes(executable: bytes) -> int:
    """The memory that an ELF executable takes when it is loaded: the sizes of its loadable segments.

    >>> loaded_bytes(Path("/bin/sh").read_bytes()) > 10_000
    True
    """
    start, size, count = struct.unpack_from("<32xQ14xHH", executable)
    segments = (struct.unpack_from("<I36xQ", executable, start + size * number) for number in range(count))
    return sum(memory for kind, memory in segments if kind == 1)


def _write_tables(folder: Path, half: str, archives: Mapping[str, str], maps: str) -> None:
    table = "".join(f"packagefile {package}={archive}\n" for package, archive in archives.items())
    (folder / f"{half}.link").write_text(table)
    (folder / f"{half}.compile").write_text(table + maps)


def _archives(environment: Mapping[str, str]) -> dict[str, str]:
    """Package -> its archive, of the standard library, testify, our packages and all that they need."""
    wanted = ["std", f"{TESTIFY}/assert", f"{TESTIFY}/require", "megatron_ft/ask", "megatron_ft/answer"]
    listed = _go(["list", "-export", "-deps", "-f", "{{.ImportPath}}={{.Export}}", *wanted], environment)
    lines = (line.partition("=") for line in listed.splitlines())
    return {package: archive for package, _, archive in lines if archive}


def _package_folders() -> list[str]:
    return [DEBIAN_PACKAGES, *filter(None, os.environ.get("GOPATH", "").split(os.pathsep))]


def _testify() -> Path:
    """The sources that tests compare with; EvaluationError where they are not installed."""
    folders = _package_folders()
    found = next((place for place in (Path(folder, "src", TESTIFY) for folder in folders) if (place / "assert").is_dir()), None)
    if found is None:
        raise EvaluationError(f"go's tests need {TESTIFY}, which lies in none of {', '.join(folders)}: "
                              "install golang-github-stretchr-testify-dev, or set GOPATH to where it is")
    return found


def _environment(changed: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without what changes how Go builds; cgo would need a C compiler for each program."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GO", "CGO_"))}
    return {**kept, "GO111MODULE": "off", "GOENV": "off", "GOTOOLCHAIN": "local", "CGO_ENABLED": "0", **changed}


def _go(arguments: list[str], environment: Mapping[str, str]) -> str:
    done = subprocess.run(["go", *arguments], env=dict(environment), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise EvaluationError(f"go {arguments[0]} failed with {done.returncode}: {done.stderr.strip()[-1500:]}")
    return done.stdout
