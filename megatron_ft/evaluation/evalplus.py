"""HumanEval+ and MBPP+ in EvalPlus' own files: inputs, and a canonical solution that says what comes of them.

The outputs are computed once for a problem and a run, in a box. What is then judged are ordinary tests in two parts: the
`base` ones, which HumanEval and MBPP have too, and all of them. The comparison is in `python_inside/differential.py`.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING

from megatron_ft.errors import EvaluationError
from megatron_ft.evaluation.problem import Problem

if TYPE_CHECKING:
    from megatron_ft.evaluation.build import Built

SCRIPT = "canonical"


class Oracle:
    """The tests of problems that have inputs only; used by several threads, each problem's outputs are computed once."""

    def __init__(self, run: Callable[[str, bytes], Built], *, strict: bool) -> None:
        """Args:
            run: what a script of the language's boxes makes of its input.
            strict: without the comparison's known faults.
        """
        self._run = run
        self._strict = strict
        self._known: dict[str, Future[tuple[str, str]]] = {}
        self._lock = threading.Lock()

    def tests(self, problem: Problem) -> tuple[str, str]:
        """Texts of python that test the entry point, by the base inputs and by the others."""
        with self._lock:
            known = self._known.get(problem.task_id)
            if known is None:
                mine = self._known[problem.task_id] = Future()
        if known is not None:
            return known.result()
        try:
            mine.set_result(self._made(problem))
        except BaseException as error:
            mine.set_exception(error)
            raise
        return mine.result()

    def _made(self, problem: Problem) -> tuple[str, str]:
        held = json.loads(problem.inputs)
        known = {"number": held["number"], "kind": problem.kind, "entry_point": problem.entry_point}
        outputs = self._outputs(problem, {**known, "inputs": held["base"] + held["plus"], "code": whole_solution(problem)})
        cut = len(held["base"])
        parts = ((held["base"], outputs[:cut]), (held["plus"], outputs[cut:]))
        cases = [{**known, "inputs": inputs, "outputs": given, "atol": held["atol"], "strict": self._strict}
                 for inputs, given in parts]
        base, plus = (f"from python_inside import differential\nCASES = {json.dumps(each)!r}\n"
                      f"differential.check({problem.entry_point}, CASES)\n" for each in cases)
        return base, plus

    def _outputs(self, problem: Problem, job: dict) -> list:
        built = self._run(SCRIPT, json.dumps(job).encode())
        if built.status:
            raise EvaluationError(f"{problem.task_id}: its canonical solution gives no outputs: "
                                  f"{built.reason.replace('the compiler', 'it')}; mend the problem in the benchmark's file or "
                                  "leave it out; a solution that is only slow needs a larger --timeout-s")
        return json.loads(built.data)


def whole_solution(problem: Problem) -> str:
    """The canonical solution as a program."""
    return problem.canonical_solution if problem.written_anew else problem.prompt + problem.canonical_solution
