"""A language whose programs are compiled: the program and the tests of its problem are built apart, then judged.

The tests' half is built once for a problem, however many programs it judges, and where a language can for many problems at once
(`tests_builder`). Each half is one source text for the compiler's stdin and one artifact, which lies under no name in the box
that runs it.
"""

from __future__ import annotations

import abc
import shlex
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from megatron_ft.errors import EvaluationError
from megatron_ft.evaluation import alone, case
from megatron_ft.evaluation.benchmark import Problem
from megatron_ft.evaluation.build import Built, build
from megatron_ft.evaluation.case import Side
from megatron_ft.evaluation.languages.base import Language
from megatron_ft.evaluation.languages.tests_builder import TestsBuilder
from megatron_ft.evaluation.sandbox import Box, Limits, Sandbox
from megatron_ft.evaluation.scratch import Scratch
from megatron_ft.evaluation.verdict import Verdict

ARTIFACT = "/box/artifact"
BUILD = "build"
PROGRAM_BYTES = 2**20
HELLO = {"program": b"\x01\0\0\0!", "tests": b""}
"""What goes to the tests before a program's own code can run, which may be before its main: the wire's message `!`. Tests say
themselves that their box stands."""


def linker() -> str:
    """The name, for -fuse-ld, of the linker that takes less time: gold where it is installed, half of what bfd takes."""
    return "gold" if shutil.which("ld.gold") else "bfd"


class Compiled(Language):
    """Builds both halves of a case and judges them; a language says what their sources and commands are."""

    build_limits: Limits = Limits(cpu_s=60, wall_s=240, memory_bytes=4 * 2**30, processes=64)
    """What a compiler may use."""

    def __init__(self, sandbox: Sandbox, limits: Limits | None = None) -> None:
        super().__init__(sandbox, limits)
        self._scratch = Scratch("megatron_ft-build")
        self._tests = TestsBuilder(self._build_tests)

    def slow_down(self, slowness: float) -> None:
        """Give a compiler as much longer as a program."""
        super().slow_down(slowness)
        limits = type(self).build_limits
        self.build_limits = replace(limits, cpu_s=limits.cpu_s * slowness, wall_s=limits.wall_s * slowness)

    @abc.abstractmethod
    def program_source(self, problem: Problem, program: str) -> str:
        """The source of the program's half: the program, and what answers calls of the entry point."""

    @abc.abstractmethod
    def tests_source(self, problem: Problem) -> str:
        """The source of the tests' half: functions that call the program's, the problem's helpers, and its tests."""

    @abc.abstractmethod
    def build_box(self) -> Box:
        """Where sources are compiled."""

    @abc.abstractmethod
    def build_script(self, half: str) -> str:
        """The shell script that compiles stdin to stdout; half is "program", "tests", or "together" for those of several."""

    @abc.abstractmethod
    def run_box(self) -> Box:
        """Where an artifact runs."""

    @abc.abstractmethod
    def side(self, half: str, artifact: Path) -> Side:
        """What runs an artifact in the `run_box`."""

    def judge(self, problem: Problem, base: str, program: str) -> Verdict:
        """Build the program, and the tests if they are not, and run them against each other."""
        if len(program.encode("utf-8", "surrogatepass")) > PROGRAM_BYTES:
            return Verdict("refused", f"a program of more than {PROGRAM_BYTES} bytes; at most so many are run", 0.0, "")
        tests = self._tests.of(problem)
        built = self._build("program", self.program_source(problem, program))
        if built.status:
            return Verdict(built.status, built.reason, built.seconds, built.output)
        artifact = self._store(built.data)
        try:
            verdict = case.judge(self.sandbox, problem.task_id, lambda: self._side("program", artifact),
                                 lambda token: self._side("tests", tests.artifact, tests.words, token.encode()))
        finally:
            artifact.unlink()
        return Verdict(verdict.status, verdict.reason, round(built.seconds + verdict.seconds, 3), verdict.output)

    @abc.abstractmethod
    def public_build(self) -> tuple[Box, str]:
        """Where, and by which script, the one file of the public harness is compiled; as `build_script` otherwise."""

    def public_argv(self) -> Sequence[str]:
        """The command that runs what became of it, which its box shows read-only as ARTIFACT."""
        return [ARTIFACT]

    def judge_publicly(self, source: str) -> Verdict:
        """Compile the one file and run it; a pass is exit status 0."""
        box, script = self.public_build()
        built = build(self.sandbox, box, script, source.encode("utf-8", "surrogatepass"), self.nurseries.get(box, BUILD))
        if built.status:
            return Verdict(built.status, built.reason, built.seconds, built.output)
        artifact = self._store(built.data)
        try:
            # `alone` appends a descriptor, which a program of Rust's tests would take for the name of a test.
            argv = ["/bin/sh", "-c", shlex.join(self._placed(self.public_argv(), artifact))]
            box = self.run_box()
            box = replace(box, read_only={**box.read_only, str(artifact): ARTIFACT})
            ended = alone.run(self.sandbox, lambda: Side(box, argv))
        finally:
            artifact.unlink()
        return ended.verdict(ended.status == 0, built.seconds)

    def _placed(self, argv: Sequence[str], artifact: Path) -> list[str]:
        """A command as it is without a sandbox, where nothing is shown under another name."""
        return [word.replace(ARTIFACT, str(artifact)) if self.sandbox.tool == "none" else word for word in argv]

    def _side(self, half: str, artifact: Path, words: Sequence[str] = (), stdin: bytes = b"") -> Side:
        side = self.side(half, artifact)
        return replace(side, argv=[*side.argv, *words], stdin=stdin, nursery=self.nurseries.get(side.box, half))

    def _build_tests(self, problems: Sequence[Problem]) -> Path | None:
        """The artifact of the tests of a problem, or of several; None where those cannot be built together."""
        together = len(problems) > 1
        built = self._build("together" if together else "tests", self._source_of(problems))
        if built.status and together:  # which one does not compile, or takes too much, is found out one by one
            return None
        if built.status:
            raise EvaluationError(f"{problems[0].task_id}: its tests do not compile ({built.status}: {built.reason}); "
                                  f"the compiler said: {built.output}")
        return self._store(built.data)

    def _source_of(self, problems: Sequence[Problem]) -> str:
        problem, = problems
        return self.tests_source(problem)

    def _build(self, half: str, source: str) -> Built:
        return self._compiled(self.build_script(half), source)

    def _compiled(self, script: str, source: str) -> Built:
        box = self.build_box()
        return build(self.sandbox, box, script, source.encode("utf-8", "surrogatepass"), self.nurseries.get(box, BUILD))

    def _store(self, data: bytes) -> Path:
        """A new file, closed: what is open for writing cannot be executed."""
        handle, name = tempfile.mkstemp(dir=self._scratch.path)
        with open(handle, "wb") as file:
            file.write(data)
        Path(name).chmod(0o555)
        return Path(name)


class Together(Compiled):
    """A language in which the tests of several problems can be built at once."""

    @abc.abstractmethod
    def goes_with_others(self, problem: Problem) -> bool:
        """Whether a problem's tests can be built together with others, which must not change what they do."""

    @abc.abstractmethod
    def tests_together(self, problems: Sequence[Problem]) -> str:
        """The source of the tests' halves of several problems, of which all go with others.

        The first word that the artifact gets is the number of the problem whose tests it is to run.
        """

    def expect(self, problems: Sequence[Problem]) -> None:
        """Build the tests of these problems together, once the first of them are needed."""
        self._tests.expect([problem for problem in problems if self.goes_with_others(problem)])

    def _source_of(self, problems: Sequence[Problem]) -> str:
        return self.tests_together(problems) if len(problems) > 1 else super()._source_of(problems)
