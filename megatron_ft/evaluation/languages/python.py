"""Python: how a completion becomes a program, how it runs, and how it is judged.

`case` runs a program and its tests in two boxes; the scripts of both are in `python_inside`.
"""

from __future__ import annotations

import json
import shlex
import sys
from functools import cached_property
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

from megatron_ft.errors import EvaluationError
from megatron_ft.evaluation import alone, build, case, interpreter
from megatron_ft.evaluation.benchmark import Problem
from megatron_ft.evaluation.build import Built
from megatron_ft.evaluation.case import Side
from megatron_ft.evaluation.interpreter import INSIDE, SCRIPTS
from megatron_ft.evaluation.languages import python_answers
from megatron_ft.evaluation.languages.base import Language
from megatron_ft.evaluation.nursery import Nursery
from megatron_ft.evaluation.sandbox import Box
from megatron_ft.evaluation.verdict import Verdict

PACKAGES = "/box/packages"
CARRIED_PACKAGES = ("numpy", "numpy.libs")
PROGRAM_BYTES = 2**20
SELF_CHECK = Problem("self-check", "def f(x):\n", "def f(x):\n", "", "", "", "", "f", "", "", "",
                     "def check(f):\n    assert f(2) == [4]\ncheck(f)", "")


class Python(Language):
    """Python, by the interpreter that runs this evaluation."""

    name = "python"
    title = "Python"
    tools: ClassVar = {"python3": "python3"}

    @staticmethod
    def assemble(problem: Problem, base: str, completion: str) -> str:
        """The program of a completion; see `python_answers`."""
        return python_answers.assemble(base, completion, problem.entry_point, quoted=problem.buggy_solution)

    @staticmethod
    def is_complete(completion: str, entry_point: str) -> bool:
        """Whether the body has ended, or the fence behind an answer written anew; see `python_answers`."""
        return python_answers.is_complete(completion, entry_point)

    def check(self) -> dict[str, str]:
        """Judge a right, a wrong and a numpy program; versions of what ran them."""
        right = "import numpy\n\ndef f(x):\n    return numpy.array([x * 2]).tolist()\n"
        self.require_verdicts(SELF_CHECK, right, "def f(x):\n    return [x]\n")
        return {"python": sys.version.split()[0], "numpy": version("numpy")}

    def judge(self, problem: Problem, base: str, program: str) -> Verdict:
        """Run the program in one box and the problem's tests in another; see the module's text."""
        source = program.encode("utf-8", "surrogatepass")
        if len(source) > PROGRAM_BYTES:
            return Verdict("refused", f"a program of {len(source)} bytes; at most {PROGRAM_BYTES} are run", 0.0, "")

        def tests(token: str) -> Side:
            job = {"test": problem.test, "entry_point": problem.entry_point, "token": token,
                   "context": python_answers.before_entry(base, problem.entry_point)}
            return self._side("tests", json.dumps(job).encode())

        return case.judge(self.sandbox, problem.task_id, lambda: self._side("program", source), tests)

    def output_of(self, script: str, stdin: bytes) -> Built:
        """What one of the scripts in `python_inside` writes, in a box of its own."""
        return build.build(self.sandbox, self._box, f"exec {shlex.join(interpreter.argv(script))}", stdin)

    def judge_publicly(self, source: str) -> Verdict:
        """Run program and tests in one process; a pass is that nothing was raised."""
        ended = alone.run(self.sandbox, lambda: self._side("public", source.encode("utf-8", "surrogatepass")))
        return ended.verdict(ended.report == "passed")

    def _side(self, half: str, stdin: bytes) -> Side:
        return Side(self._box, interpreter.argv(half), stdin, self._nursery(half, b"numpy" in stdin))

    def _nursery(self, half: str, with_numpy: bool = False) -> Nursery | None:
        """This thread's nursery for one half of a case; None without a sandbox.

        With numpy a fork copies and frees twice as many pages, so only texts that name it get one that has loaded it.
        """
        return self.nurseries.get(self._box, half, "resident" if half == "tests" else half, with_numpy=with_numpy)

    @cached_property
    def _box(self) -> Box:
        """What programs and tests find: the interpreter, its libraries, our scripts, and numpy."""
        packages = {str(_packages_folder() / name): f"{PACKAGES}/{name}" for name in CARRIED_PACKAGES
                    if (_packages_folder() / name).is_dir()}
        places = (INSIDE, PACKAGES) if self.sandbox.tool != "none" else (SCRIPTS.parent, _packages_folder())
        return Box({**interpreter.shown(), **packages}, interpreter.environment(list(map(str, places))), self.limits)


def _packages_folder() -> Path:
    """Where the packages are that programs may import."""
    found = find_spec("numpy")
    if found is None or found.origin is None:
        raise EvaluationError("python programs may import numpy, and it is not installed here: pip install numpy")
    return Path(found.origin).parent.parent
