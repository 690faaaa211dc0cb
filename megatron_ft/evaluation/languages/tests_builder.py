"""Which problems' tests are built together, and which thread builds them.

To start a compiler and a linker takes most of the time that the tests of one problem take.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

from megatron_ft.evaluation.benchmark import Problem

TOGETHER = 32  # of Rust's, 8 take 0.23 s of cpu time together, 16 take 0.26, 32 take 0.29; one alone takes 0.11


@dataclass(frozen=True)
class BuiltHalf:
    """The tests of a problem, built."""

    artifact: Path
    words: tuple[str, ...] = ()
    """What it is told first: whose tests to run, where it has those of several problems."""


@dataclass(frozen=True, eq=False)
class Group:
    """Problems whose tests are one artifact; None where they cannot be."""

    problems: tuple[Problem, ...]
    artifact: Future[Path | None] = field(default_factory=Future)


class TestsBuilder:
    """Builds the tests of each problem once, however many threads ask for them."""

    def __init__(self, build: Callable[[Sequence[Problem]], Path | None]) -> None:
        """Begin with nothing built.

        Args:
            build: the artifact of the tests of one problem, or of several; None where several cannot be built together.
        """
        self._build = build
        self._lock = threading.Lock()
        self._groups: dict[Problem, Group] = {}
        self._waiting: list[Group] = []  # that no thread has begun to build

    def expect(self, problems: Sequence[Problem]) -> None:
        """Say which problems there are, so that their tests can be built together; a known one stays as it is."""
        with self._lock:
            new = [problem for problem in dict.fromkeys(problems) if problem not in self._groups]
            for begin in range(0, len(new), TOGETHER):
                self._add(new[begin: begin + TOGETHER])

    def of(self, problem: Problem) -> BuiltHalf:
        """The built tests of a problem; what building them raised is raised."""
        with self._lock:
            if problem not in self._groups:
                self._add([problem])
            group = self._groups[problem]
        artifact = self._artifact(group)
        if artifact is not None:
            return BuiltHalf(artifact, (str(group.problems.index(problem)),) if len(group.problems) > 1 else ())
        with self._lock:  # each by itself, from now on
            if self._groups[problem] is group:
                for each in group.problems:
                    self._add([each])
        return self.of(problem)

    def _add(self, problems: Sequence[Problem]) -> None:
        group = Group(tuple(problems))
        self._groups.update(dict.fromkeys(problems, group))
        self._waiting.append(group)

    def _artifact(self, group: Group) -> Path | None:
        """What a group was built to, by this thread or another; while another does it, this one builds what is next."""
        while not group.artifact.done():
            with self._lock:
                others = (each for each in self._waiting if len(each.problems) > 1)
                mine = group if group in self._waiting else next(others, None)
                if mine is not None:
                    self._waiting.remove(mine)
            if mine is None:
                break
            try:
                mine.artifact.set_result(self._build(mine.problems))
            except BaseException as error:
                mine.artifact.set_exception(error)
        return group.artifact.result()
