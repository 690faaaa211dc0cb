"""What the languages with braces have in common: how a completion becomes a program, and when it is over."""

from __future__ import annotations

from typing import ClassVar

from megatron_ft.evaluation import braces
from megatron_ft.evaluation.benchmark import Problem
from megatron_ft.evaluation.languages.base import Language


class Braced(Language):
    """A language whose texts `braces` reads by a grammar."""

    grammar: ClassVar[braces.Grammar]

    @classmethod
    def assemble(cls, problem: Problem, base: str, completion: str) -> str:
        """The program of a completion: the function, in java its class, and what it uses."""
        return braces.assemble(cls.grammar, base, completion, problem.entry_point, quoted=problem.buggy_solution)

    @classmethod
    def is_complete(cls, completion: str, entry_point: str) -> bool:
        """Whether the function, in java its class, is over and whatever follows would be cut."""
        return braces.is_complete(cls.grammar, completion, entry_point)
