"""Reading a benchmark: each fault with its line and field."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import huggingface_hub
import pytest

from megatron_ft.errors import DataError
from megatron_ft.evaluation import benchmark
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
    path = write_benchmark(make_problem(task_id="Rust/0"))
    with pytest.raises(DataError, match=r"holds Rust problems \(Rust/0\), but --language is python"):
        benchmark.find(str(path), ["python"])
    assert benchmark.find(str(path), ["rust"])["rust"].path == path


@pytest.mark.parametrize("layout", benchmark.LAYOUTS)
def test_a_folder_holds_a_file_for_each_language(tmp_path: Path, layout: str) -> None:
    for name in ("python", "go"):
        path = tmp_path / layout.format(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({**ROW, "task_id": f"{benchmark.LANGUAGES[name]}/7"}) + "\n")
    found = benchmark.find(str(tmp_path), ["python", "go"])
    assert {name: each.problems[0].task_id for name, each in found.items()} == {"python": "Python/7", "go": "Go/7"}
    with pytest.raises(DataError, match=r"--benchmark: .* has no rust: neither .*rust.jsonl nor .*humanevalpack.jsonl"):
        benchmark.find(str(tmp_path), ["go", "rust"])


def test_one_file_is_of_one_language(write_benchmark) -> None:
    with pytest.raises(DataError, match="is one file and --language asks for python, go; name the folder"):
        benchmark.find(str(write_benchmark(make_problem())), ["python", "go"])


def test_a_data_set_of_the_hub_is_fetched_language_by_language(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data/js/data").mkdir(parents=True)
    (tmp_path / "data/js/data/humanevalpack.jsonl").write_text(json.dumps(ROW) + "\n")
    asked = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download",
                        lambda name, **options: asked.append((name, options)) or str(tmp_path))
    assert set(benchmark.find("bigcode/humanevalpack", ["js"])) == {"js"}
    assert asked == [("bigcode/humanevalpack", {
        "repo_type": "dataset", "allow_patterns": ["js.jsonl", "data/js/data/humanevalpack.jsonl"]})]

    def offline(name: str, **options: object) -> str:
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(DataError, match="no file or folder big/code, and as a data set of the hub .*no network; copy it here"):
        benchmark.find("big/code", ["js"])


def test_the_whole_of_humanevalpack_is_read(humanevalpack: Path) -> None:
    assert len(benchmark.read(humanevalpack).problems) == 164
