"""One problem of a benchmark, and the benchmarks that there are."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass

LANGUAGES = {"python": "Python", "js": "JavaScript", "java": "Java", "go": "Go", "cpp": "CPP", "rust": "Rust"}
"""Name of a file of HumanEvalPack -> how its task ids begin."""
PACK = "humanevalpack"
BASE = "base"
"""Beside the scenarios in results: what answers score by EvalPlus' base tests alone."""


@dataclass(frozen=True)
class Kind:
    """A benchmark that is known here."""

    name: str
    """As the public harness calls its task."""
    title: str
    base: str = ""
    """The kind that the same answers are scored on by its fewer tests; of EvalPlus' two."""
    cpu_s: float = 0.0
    """CPU seconds that a program has at least; the many tests of EvalPlus take longer than a language's own limit."""

    def scored_by(self, scenario: str) -> str:
        """The title of the benchmark that a row of scores is of."""
        return KINDS[self.base].title if scenario == BASE else self.title


KINDS = {kind.name: kind for kind in (
    Kind(PACK, "HumanEvalPack"), Kind("humaneval", "HumanEval"), Kind("mbpp", "MBPP"),
    Kind("humanevalplus", "HumanEval+", base="humaneval", cpu_s=20), Kind("mbppplus", "MBPP+", base="mbpp", cpu_s=20))}


@dataclass(frozen=True)
class Problem:
    """One problem, with HumanEvalPack's names for its fields."""

    task_id: str
    prompt: str
    """Declaration and docstring: how an answer to `synthesize` begins. Of MBPP a docstring that says what is wanted."""
    declaration: str
    """The same without the docstring: how an answer to `fixtests` begins."""
    canonical_solution: str
    buggy_solution: str
    bug_type: str
    failure_symptoms: str
    entry_point: str
    signature: str
    docstring: str
    instruction: str
    test: str
    example_test: str
    imports: str = ""
    """What Go's solution imports; `import` in the file."""
    test_setup: str = ""
    """How Go's test file begins: its package and its imports. What MBPP's tests use and do not make themselves."""
    kind: str = PACK
    """Of the benchmark that it is from."""
    base_test: str = ""
    """EvalPlus: the fewer tests, which an answer is scored on by themselves too."""
    inputs: str = ""
    """EvalPlus: inputs of the function instead of tests, as JSON `{base, plus, atol, number}`."""

    @property
    def written_anew(self) -> bool:
        """Whether an answer is a program of its own, and not the rest of a function that the prompt begins."""
        return self.kind.startswith("mbpp")

    @property
    def shares_objects(self) -> bool:
        """Whether the tests make objects of a class that every solution defines itself: they cannot be in another process."""
        if not self.written_anew or "class" not in self.canonical_solution:
            return False
        own = {node.name for node in ast.parse(self.canonical_solution).body if isinstance(node, ast.ClassDef)}
        return any(re.search(rf"\b{re.escape(name)}\(", self.test_setup + self.base_test + self.test) for name in own)
