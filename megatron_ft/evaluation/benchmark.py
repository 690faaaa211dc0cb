"""Reads a benchmark: HumanEvalPack's JSONL, one problem a line, every field checked before a model is loaded."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path

from megatron_ft.errors import DataError

LANGUAGES = {"python": "Python", "js": "JavaScript", "java": "Java", "go": "Go", "cpp": "CPP", "rust": "Rust"}
"""Name of a file of HumanEvalPack -> how its task ids begin."""
LAYOUTS = ("{}.jsonl", "data/{}/data/humanevalpack.jsonl")
"""Where a language is in a folder: files side by side, or as in the repository on the hub."""
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
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


def find(source: str, languages: Sequence[str]) -> dict[str, Benchmark]:
    """The benchmark of each language, from a file (of one language), a folder, or a data set on the hub.

    Raises DataError when a language is not there, or when a file holds another one than its name says.
    """
    place = Path(source)
    if not place.exists() and HUB_ID.fullmatch(source):
        place = _fetched(source, languages)
    if place.is_dir():
        found = {name: read(_file(place, name)) for name in languages}
    elif len(languages) > 1:
        raise DataError(f"--benchmark: {source} is one file and --language asks for {', '.join(languages)}; name the folder "
                        "that holds a file for each, such as python.jsonl")
    else:
        found = {languages[0]: read(place)}
    for name, benchmark in found.items():
        _require_language(benchmark, name)
    return found


def _fetched(source: str, languages: Sequence[str]) -> Path:
    import huggingface_hub

    patterns = [layout.format(name) for name in languages for layout in LAYOUTS]
    try:
        return Path(huggingface_hub.snapshot_download(source, repo_type="dataset", allow_patterns=patterns))
    except Exception as error:  # huggingface_hub raises what its parts raise: OSError, ValueError, its own
        raise DataError(f"--benchmark: there is no file or folder {source}, and as a data set of the hub it cannot be fetched: "
                        f"{type(error).__name__}: {error}; copy it here and name its folder") from error


def _file(folder: Path, language: str) -> Path:
    places = [folder / layout.format(language) for layout in LAYOUTS]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise DataError(f"--benchmark: {folder} has no {language}: neither {' nor '.join(map(str, places))}")
    return found


def _require_language(benchmark: Benchmark, language: str) -> None:
    """Raise DataError when a file's task ids are those of another language."""
    first = benchmark.problems[0].task_id
    prefix = first.partition("/")[0]
    if prefix in LANGUAGES.values() and prefix != LANGUAGES[language]:
        raise DataError(f"{benchmark.path}: holds {prefix} problems ({first}), but --language is {language}")


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
