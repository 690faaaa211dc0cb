"""Reads a benchmark: every field of every row is checked before a model is loaded."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_ft import log
from megatron_ft.errors import DataError
from megatron_ft.evaluation import benchmark_formats, benchmark_rows
from megatron_ft.evaluation.problem import KINDS, LANGUAGES, PACK, Kind, Problem

LAYOUTS = ("{}.jsonl", "data/{}/data/humanevalpack.jsonl")
"""Where a language of HumanEvalPack is in a folder: files side by side, or as in the repository on the hub."""
ON_THE_HUB = {"openai/openai_humaneval": "openai_humaneval/test-*.parquet",
              "google-research-datasets/mbpp": "full/test-*.parquet",
              "evalplus/humanevalplus": "data/test-*.parquet", "evalplus/mbppplus": "data/test-*.parquet"}
"""Other benchmarks that the hub has, and the one file of each."""
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
MBPP_TEST = range(11, 511)
"""MBPP's test split; 1 to 10 are examples for prompts, what comes after it is for training."""


@dataclass(frozen=True)
class Benchmark:
    """The problems of one file, in its order, and what identifies the file."""

    path: Path
    sha256: str
    problems: tuple[Problem, ...]
    note: str = ""
    """What of the file these are, if not all of it."""

    @property
    def kind(self) -> Kind:
        """Which benchmark it is."""
        return KINDS[self.problems[0].kind]


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
        if benchmark.note:
            log.get().info(f"{benchmark.path}: {benchmark.note}")
        shared = [problem.task_id for problem in benchmark.problems if problem.shares_objects]
        if shared:
            log.get().info(f"{benchmark.path}: the tests of {', '.join(shared)} make objects of the program's own classes, so "
                           "that these programs are judged in one box with their tests")
    return found


def kind_of(found: Mapping[str, Benchmark]) -> Kind:
    """Which benchmark it is."""
    return next(iter(found.values())).kind


def _fetched(source: str, languages: Sequence[str]) -> Path:
    import huggingface_hub

    pattern = ON_THE_HUB.get(source)
    patterns = [pattern] if pattern else [layout.format(name) for name in languages for layout in LAYOUTS]
    try:
        folder = Path(huggingface_hub.snapshot_download(source, repo_type="dataset", allow_patterns=patterns))
    except Exception as error:  # huggingface_hub raises what its parts raise: OSError, ValueError, its own
        raise DataError(f"--benchmark: there is no file or folder {source}, and as a data set of the hub it cannot be fetched: "
                        f"{type(error).__name__}: {error}; copy it here and name its folder") from error
    if not pattern:
        return folder
    files = sorted(folder.glob(pattern))
    if len(files) != 1:
        raise DataError(f"--benchmark: {source} on the hub has {len(files)} files {pattern}, not one; copy the file of its "
                        "test split here and name it")
    return files[0]


def _file(folder: Path, language: str) -> Path:
    places = [folder / layout.format(language) for layout in LAYOUTS]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise DataError(f"--benchmark: {folder} has no {language}: neither {' nor '.join(map(str, places))}")
    return found


def _require_language(benchmark: Benchmark, language: str) -> None:
    """Raise DataError when a file's problems are in another language."""
    first = benchmark.problems[0].task_id
    prefix = first.partition("/")[0]
    if prefix in LANGUAGES.values() and prefix != LANGUAGES[language]:
        raise DataError(f"{benchmark.path}: holds {prefix} problems ({first}), but --language is {language}")
    if benchmark.kind.name != PACK and language != "python":
        raise DataError(f"{benchmark.path}: holds {benchmark.kind.title}, whose problems are in python, but --language is "
                        f"{language}")


def read(path: str | Path) -> Benchmark:
    """The benchmark in a file; DataError names the line and the field of the first fault."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"--benchmark: there is no file {path}; give a file of HumanEvalPack, HumanEval, MBPP or EvalPlus")
    data = path.read_bytes()
    problems: dict[str, Problem] = {}
    places: dict[str, str] = {}
    form = None
    for place, row in benchmark_rows.rows(path, data):
        form = form or benchmark_formats.recognized(row, place)
        problem = benchmark_formats.problem(form, row, place)
        if problem.task_id in problems:
            there = places[problem.task_id].removeprefix(f"{path}:").strip()
            raise DataError(f"{place}: 'task_id' {problem.task_id} is also on line {there}; each problem has its own")
        problems[problem.task_id], places[problem.task_id] = problem, place
    if not problems:
        raise DataError(f"{path}: holds no problem; one JSON object per line is expected")
    chosen, note = _test_split(tuple(problems.values()))
    return Benchmark(path, hashlib.sha256(data).hexdigest(), chosen, note)


def _test_split(problems: tuple[Problem, ...]) -> tuple[tuple[Problem, ...], str]:
    """What public harnesses ask of MBPP: the tasks 11 to 510, where a file has them beside others."""
    if problems[0].kind != "mbpp":
        return problems, ""
    tests = {f"Mbpp/{number}" for number in MBPP_TEST}
    chosen = tuple(problem for problem in problems if problem.task_id in tests)
    if not chosen or len(chosen) == len(problems):
        return problems, ""
    return chosen, f"the test split, {len(chosen)} of {len(problems)} tasks (those from {MBPP_TEST[0]} to {MBPP_TEST[-1]})"


def select(benchmark: Benchmark, *, problems: str = "", limit: int | None = None) -> tuple[Problem, ...]:
    """The problems to run: those named (comma-separated task ids), then at most `limit` of them."""
    chosen = benchmark.problems
    if problems:
        known = {problem.task_id: problem for problem in chosen}
        names = [name.strip() for name in problems.split(",") if name.strip()]
        unknown = [name for name in names if name not in known]
        if unknown:
            raise DataError(f"--problems: {benchmark.path} has no {', '.join(unknown)}; its ids run from "
                            f"{chosen[0].task_id} to {chosen[-1].task_id}{f' ({benchmark.note})' if benchmark.note else ''}")
        chosen = tuple(known[name] for name in dict.fromkeys(names))
    return chosen[:limit]
