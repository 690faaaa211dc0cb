"""Reads a benchmark: HumanEvalPack's JSONL, one problem a line, every field checked before a model is loaded."""

from __future__ import annotations

import hashlib
import json
from dataclasses import MISSING, dataclass, fields
from pathlib import Path

from megatron_ft.errors import DataError

SCENARIOS = ("synthesize", "fixtests")
MAY_BE_EMPTY = ("docstring", "example_test", "bug_type", "failure_symptoms", "instruction", "signature", "import", "test_setup")
FIELDS = {"imports": "import"}  # a keyword of Python


@dataclass(frozen=True)
class Problem:
    """One problem, with HumanEvalPack's names for its fields."""

    task_id: str
    prompt: str
    """Declaration and docstring: how an answer to `synthesize` begins."""
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
    """How Go's test file begins: its package and its imports."""


@dataclass(frozen=True)
class Benchmark:
    """The problems of one file, in its order, and what identifies the file."""

    path: Path
    sha256: str
    problems: tuple[Problem, ...]


def read(path: str | Path) -> Benchmark:
    """The benchmark in a JSONL file; DataError names the line and the field of the first fault."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"--benchmark: there is no file {path}; give a JSONL file with HumanEvalPack's fields")
    data = path.read_bytes()
    problems: dict[str, Problem] = {}
    lines_of: dict[str, int] = {}
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        problem = _problem(line, f"{path}:{number}")
        if problem.task_id in problems:
            raise DataError(f"{path}:{number}: 'task_id' {problem.task_id} is also on line "
                            f"{lines_of[problem.task_id]}; each problem has its own")
        problems[problem.task_id], lines_of[problem.task_id] = problem, number
    if not problems:
        raise DataError(f"{path}: holds no problem; one JSON object per line is expected")
    return Benchmark(path, hashlib.sha256(data).hexdigest(), tuple(problems.values()))


def select(benchmark: Benchmark, *, problems: str = "", limit: int | None = None) -> tuple[Problem, ...]:
    """The problems to run: those named (comma-separated task ids), then at most `limit` of them."""
    chosen = benchmark.problems
    if problems:
        known = {problem.task_id: problem for problem in chosen}
        names = [name.strip() for name in problems.split(",") if name.strip()]
        unknown = [name for name in names if name not in known]
        if unknown:
            raise DataError(f"--problems: {benchmark.path} has no {', '.join(unknown)}; its ids run from "
                            f"{chosen[0].task_id} to {chosen[-1].task_id}")
        chosen = tuple(known[name] for name in dict.fromkeys(names))
    return chosen[:limit]


def _problem(line: bytes, place: str) -> Problem:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{place}: not JSON: {error}") from error
    if not isinstance(row, dict):
        raise DataError(f"{place}: a JSON {type(row).__name__}, not an object with HumanEvalPack's fields")
    names = {FIELDS.get(field.name, field.name): field for field in fields(Problem)}
    given = {}
    for name, field in names.items():
        if name not in row:
            if field.default is not MISSING:
                continue
            raise DataError(f"{place}: field '{name}' is missing; HumanEvalPack's are {', '.join(names)}")
        if not isinstance(row[name], str):
            raise DataError(f"{place}: field '{name}' is a {type(row[name]).__name__}, not a string")
        if not row[name].strip() and name not in MAY_BE_EMPTY:
            raise DataError(f"{place}: field '{name}' is empty")
        given[field.name] = row[name]
    return Problem(**given)
