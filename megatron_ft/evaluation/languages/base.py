"""What a language has to say about its programs: how to assemble, run and judge them."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import ClassVar

from megatron_ft.errors import EvaluationError
from megatron_ft.evaluation.benchmark import Problem
from megatron_ft.evaluation.build import Built
from megatron_ft.evaluation.nursery import Nurseries
from megatron_ft.evaluation.sandbox import Limits, Sandbox
from megatron_ft.evaluation.verdict import Verdict


class Language(abc.ABC):
    """One language on one machine, in one kind of box."""

    name: ClassVar[str]
    """As in HumanEvalPack's file names: python js java go cpp rust."""
    title: ClassVar[str]
    """As people write it."""
    tools: ClassVar[dict[str, str]]
    """Command -> what installs it: a Debian package or an npm name."""
    default_limits: ClassVar[Limits] = Limits()
    """What a program may use when it runs."""

    def __init__(self, sandbox: Sandbox, limits: Limits | None = None) -> None:
        self.sandbox = sandbox
        self.nurseries = Nurseries(sandbox)
        self.limits = limits or self.default_limits
        self.slowness = 1.0
        """How many times longer this machine takes than that on which the limits of what is not a program's run were chosen."""

    def slow_down(self, slowness: float) -> None:
        """Give more time, on a slower machine, to what is not a program's run."""
        self.slowness = slowness

    @staticmethod
    @abc.abstractmethod
    def assemble(problem: Problem, base: str, completion: str) -> str:
        """The program that a completion of `base` makes."""

    @staticmethod
    @abc.abstractmethod
    def is_complete(completion: str, entry_point: str) -> bool:
        """Whether whatever a model writes next would be cut off anyway."""

    @abc.abstractmethod
    def check(self) -> dict[str, str]:
        """Run a program that must pass and one that must fail; what the toolchain is, for the summary.

        Raises EvaluationError, saying what to install, when programs cannot be judged here.
        """

    def expect(self, problems: Sequence[Problem]) -> None:  # noqa: B027  # most languages do nothing with it
        """Say which problems' programs will be judged: there may be work that is done for many of them at once."""

    @abc.abstractmethod
    def judge(self, problem: Problem, base: str, program: str) -> Verdict:
        """Run a program against the tests of its problem; EvaluationError only where no verdict is possible."""

    def require_verdicts(self, problem: Problem, right: str, wrong: str) -> None:
        """Judge a right and a wrong program; EvaluationError, with what is missing, where one is judged otherwise."""
        for program, expected in ((right, "passed"), (wrong, "failed")):
            verdict = self.judge(problem, problem.prompt, program)
            if verdict.status != expected:
                raise EvaluationError(f"{self.title} programs cannot be judged here: one that must give '{expected}' gave "
                                      f"'{verdict.status}' ({verdict.reason}); {self.explained(verdict.output)}")
        self.nurseries.leave()

    def explained(self, output: str) -> str:
        """What to do about a self-check that failed with this output."""
        return f"its output: {output.strip()}"

    def output_of(self, script: str, stdin: bytes) -> Built:
        """What a script of ours makes of its input, in a box of its own."""
        raise EvaluationError(f"{self.title} has no script '{script}'; only python problems have inputs instead of tests")

    def judge_publicly(self, source: str) -> Verdict:
        """Run the one file that the public harness would, and take for a pass what it takes for one."""
        raise EvaluationError(f"--mode: {self.name} cannot be judged by the public rules yet; use --mode fixed")
