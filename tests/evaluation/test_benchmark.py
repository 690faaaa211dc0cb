"""Reading a benchmark: each fault with its line and field."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from megatron_ft.errors import DataError
from megatron_ft.evaluation import benchmark
from megatron_ft.evaluation.languages.python import Python
from megatron_ft.evaluation.run import check_language
from tests.evaluation.problems import make_problem

ROW = asdict(make_problem())


def faulty(changed: dict, *, without: str = "") -> str:
    return json.dumps({name: value for name, value in {**ROW, "task_id": "Own/1", **changed}.items()
                       if name != without})


@pytest.mark.parametrize(("line", "message"), [
    ("{", r"benchmark.jsonl:3: not JSON"),
    ("[]", r"benchmark.jsonl:3: a JSON list, not an object"),
    (faulty({}, without="test"), r"benchmark.jsonl:3: field 'test' is missing; HumanEvalPack's are task_id, prompt"),
    (faulty({"test": 3}), r"benchmark.jsonl:3: field 'test' is a int, not a string"),
    (faulty({"test": " "}), r"benchmark.jsonl:3: field 'test' is empty"),
    (faulty({"task_id": "Own/0"}), r"benchmark.jsonl:3: 'task_id' Own/0 is also on line 1"),
])
def test_a_bad_row_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "benchmark.jsonl"
    path.write_text(f"{json.dumps(ROW)}\n\n{line}\n")
    with pytest.raises(DataError, match=message):
        benchmark.read(path)


def test_a_missing_and_an_empty_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--benchmark: there is no file"):
        benchmark.read(tmp_path / "absent.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DataError, match="empty.jsonl: holds no problem"):
        benchmark.read(tmp_path / "empty.jsonl")


def test_fields_that_are_not_ours_are_ignored(write_benchmark) -> None:
    path = write_benchmark(make_problem())
    path.write_text(json.dumps({**ROW, "text": "more", "difficulty": 1}) + "\n")
    assert benchmark.read(path).problems == (make_problem(),)


def test_problems_are_selected_by_name_and_number(write_benchmark) -> None:
    problems = [make_problem(task_id=f"Own/{number}") for number in range(5)]
    read = benchmark.read(write_benchmark(*problems))
    chosen = benchmark.select(read, problems="Own/3, Own/1", limit=1)
    assert [problem.task_id for problem in chosen] == ["Own/3"]
    assert len(benchmark.select(read, limit=2)) == 2
    assert len(benchmark.select(read)) == 5
    with pytest.raises(DataError, match="--problems: .* has no Own/9; its ids run from Own/0 to Own/4"):
        benchmark.select(read, problems="Own/9")


def test_a_file_of_another_language_is_refused(write_benchmark) -> None:
    read = benchmark.read(write_benchmark(make_problem(task_id="Rust/0")))
    with pytest.raises(DataError, match=r"holds Rust problems \(Rust/0\), but --language is python"):
        check_language(read, Python)


def test_the_whole_of_humanevalpack_is_read(humanevalpack: Path) -> None:
    assert len(benchmark.read(humanevalpack).problems) == 164
