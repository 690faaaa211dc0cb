"""From an answer to a verdict, by our rules (`fixed`) or by the public harness's (`compat`)."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from megatron_ft.evaluation import public_python, public_rules, whole_answers
from megatron_ft.evaluation.evalplus import Oracle
from megatron_ft.evaluation.languages.base import Language
from megatron_ft.evaluation.scenarios import DESCRIBED, Task, described
from megatron_ft.evaluation.verdict import Verdict


class Judge(abc.ABC):
    """The rules for one language."""

    strict: ClassVar[bool]
    """Whether EvalPlus' comparison is without its faults."""

    def __init__(self, language: Language, style: str) -> None:
        self.language = language
        self.style = style
        """The prompt's style; some end answers with strings of their own."""
        self._oracle = Oracle(language.output_of, strict=self.strict)

    def is_complete(self, asked: Task, answer: str) -> bool:
        """Whether whatever a model writes next would be cut off anyway."""
        if asked.scenario == DESCRIBED:
            return len(answer.strip()) > len(asked.problem.docstring)
        return self._is_complete(asked, answer)

    @abc.abstractmethod
    def _is_complete(self, asked: Task, answer: str) -> bool:
        """The same for an answer that is a program."""

    @abc.abstractmethod
    def program(self, asked: Task, answer: str) -> str:
        """The program that an answer makes."""

    @abc.abstractmethod
    def description(self, asked: Task, answer: str) -> str:
        """What is handed on of an answer to explaindescribe."""

    @abc.abstractmethod
    def expect(self, asked: Sequence[Task]) -> None:
        """Say which tasks' programs will be judged."""

    def judge(self, asked: Task, program: str) -> Verdict:
        """Run a program against the tests of its problem; where it has base tests, against these first.

        EvalPlus' own files have further inputs, so that a pass is one in both; on the hub all inputs are in one test.
        """
        problem = asked.problem
        base, whole = self._oracle.tests(problem) if problem.inputs else (problem.base_test, problem.test)
        if not base:
            return self._judge(asked, program, whole)
        first = self._judge(asked, program, base)
        if problem.inputs and not first.passed:
            return replace(first, base=first.status)
        verdict = self._judge(asked, program, whole)
        return replace(verdict, base=first.status, seconds=round(first.seconds + verdict.seconds, 3))

    @abc.abstractmethod
    def _judge(self, asked: Task, program: str, test: str) -> Verdict:
        """Run a program against this text of tests."""


class FixedJudge(Judge):
    """Our rules: helpers are kept, tests are out of the program's reach, a pass is what the tests say."""

    strict = True

    def expect(self, asked: Sequence[Task]) -> None:
        """Have the tests of their problems built together."""
        self.language.expect([task.problem for task in asked])

    def _is_complete(self, asked: Task, answer: str) -> bool:
        if asked.problem.written_anew:
            return whole_answers.is_complete(answer, asked.problem.entry_point)
        return self.language.is_complete(answer, asked.problem.entry_point)

    def program(self, asked: Task, answer: str) -> str:
        return self.language.assemble(asked.problem, "" if asked.problem.written_anew else asked.base, answer)

    def description(self, asked: Task, answer: str) -> str:
        return described(asked.problem, answer)

    def _judge(self, asked: Task, program: str, test: str) -> Verdict:
        problem = asked.problem
        if problem.written_anew and problem.test_setup:
            test = f"{problem.test_setup}\n{test}"
        if problem.shares_objects:
            return self.language.judge_publicly(public_python.source(program, test))
        return self.language.judge(problem if test == problem.test else replace(problem, test=test), asked.base, program)


class PublicJudge(Judge):
    """The public harness's rules and verdicts, in a box."""

    strict = False

    def expect(self, asked: Sequence[Task]) -> None:
        """Nothing: every program is compiled with its tests in one file."""

    def _is_complete(self, asked: Task, answer: str) -> bool:
        if asked.public:
            return public_python.is_complete(asked, answer, self.style)
        return public_rules.is_complete(asked.language, answer, self.style)

    def program(self, asked: Task, answer: str) -> str:
        if asked.public:
            return public_python.program(asked, answer, self.style)
        return public_rules.program(asked, answer, self.style)

    def description(self, asked: Task, answer: str) -> str:
        return public_rules.description(asked, answer, self.style)

    def _judge(self, asked: Task, program: str, test: str) -> Verdict:
        made = public_python.source(program, test) if asked.public else public_rules.source(asked, program)
        return self.language.judge_publicly(made)


MODES: dict[str, type[Judge]] = {"fixed": FixedJudge, "compat": PublicJudge}
