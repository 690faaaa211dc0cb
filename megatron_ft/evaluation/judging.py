"""From an answer to a verdict, by our rules (`fixed`) or by the public harness's (`compat`)."""

from __future__ import annotations

import abc

from megatron_ft.evaluation import public_rules
from megatron_ft.evaluation.languages.base import Language
from megatron_ft.evaluation.scenarios import DESCRIBED, Task, described
from megatron_ft.evaluation.verdict import Verdict


class Judge(abc.ABC):
    """The rules for one language."""

    def __init__(self, language: Language, style: str) -> None:
        self.language = language
        self.style = style
        """The prompt's style; some end answers with strings of their own."""

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
    def judge(self, asked: Task, program: str) -> Verdict:
        """Run a program against the tests of its problem."""


class FixedJudge(Judge):
    """Our rules: helpers are kept, tests are out of the program's reach, a pass is what the tests say."""

    def _is_complete(self, asked: Task, answer: str) -> bool:
        return self.language.is_complete(answer, asked.problem.entry_point)

    def program(self, asked: Task, answer: str) -> str:
        return self.language.assemble(asked.problem, asked.base, answer)

    def description(self, asked: Task, answer: str) -> str:
        return described(asked.problem, answer)

    def judge(self, asked: Task, program: str) -> Verdict:
        return self.language.judge(asked.problem, asked.base, program)


class PublicJudge(Judge):
    """The public harness's rules and verdicts, in a box."""

    def _is_complete(self, asked: Task, answer: str) -> bool:
        return public_rules.is_complete(asked.language, answer, self.style)

    def program(self, asked: Task, answer: str) -> str:
        return public_rules.program(asked, answer, self.style)

    def description(self, asked: Task, answer: str) -> str:
        return public_rules.description(asked, answer, self.style)

    def judge(self, asked: Task, program: str) -> Verdict:
        return self.language.judge_publicly(public_rules.source(asked, program))


MODES: dict[str, type[Judge]] = {"fixed": FixedJudge, "compat": PublicJudge}
