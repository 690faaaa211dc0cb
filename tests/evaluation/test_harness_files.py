"""Answers that were generated elsewhere: each format, and everything that would score another program than was meant."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from megatron_ft.errors import ConfigError, DataError, MegatronFTError
from megatron_ft.evaluation import model_folder, report, settings
from megatron_ft.evaluation.languages.python import Python
from megatron_ft.evaluation.run import evaluate
from tests.evaluation.problems import make_problem

PROBLEMS = [make_problem(task_id="Python/0"), make_problem(task_id="Python/1")]
RIGHT, WRONG = "def double(x):\n    return x + x\n", "def double(x):\n    return x + 1\n"
AFTER = "def double(x):\n    return twice(x)\n\ndef twice(x):\n    return x * 2\n"  # no cut may take the helper away


def score(benchmark: Path, output: Path, file: Path, *more: str) -> dict:
    return evaluate(settings.parse(["--benchmark", str(benchmark), "--output", str(output), "--generations", str(file),
                                    *(more or ("--scenario", "synthesize"))]))


def lines(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_public_harness_s_programs_are_scored_as_they_are(python: Python, write_benchmark, tmp_path: Path,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_folder, "load", None)
    file = tmp_path / "generations.json"
    file.write_text(json.dumps([[RIGHT, WRONG, AFTER], [WRONG, WRONG, RIGHT]]))
    result = score(write_benchmark(*PROBLEMS), tmp_path / "out", file)
    assert result["scores"][0]["pass@k"]["1"] == 0.5
    assert result["settings"]["samples"] == 3
    assert [row["program"] for row in rows(tmp_path / "out" / "samples.jsonl")] == [RIGHT, WRONG, AFTER, WRONG, WRONG, RIGHT]
    written = tmp_path / "out" / "harness" / "generations_humanevalsynthesize-python.json"
    assert json.loads(written.read_text()) == json.loads(file.read_text())
    again = score(write_benchmark(*PROBLEMS), tmp_path / "again", written, "--scenario", "fixdocs", "--samples", "3")
    assert again["scores"][0]["pass@k"] == result["scores"][0]["pass@k"]


def test_a_shard_takes_its_own_programs_from_the_file_of_all(python: Python, write_benchmark, tmp_path: Path) -> None:
    file = tmp_path / "generations.json"
    file.write_text(json.dumps([[WRONG], [RIGHT]]))
    score(write_benchmark(*PROBLEMS), tmp_path / "out", file, "--scenario", "synthesize", "--shard", "1/2")
    (row,) = rows(tmp_path / "out" / "results.jsonl")
    assert (row["task_id"], row["status"]) == ("Python/1", "passed")
    limited = score(write_benchmark(*PROBLEMS), tmp_path / "one", file, "--scenario", "synthesize", "--problems", "Python/1")
    assert limited["scores"][0]["pass@k"] == {"1": 1.0}


def test_our_samples_are_scored_again_with_the_same_result(python: Python, write_benchmark, tmp_path: Path) -> None:
    benchmark = write_benchmark(*PROBLEMS)
    asked = ("--scenario", "synthesize,fixtests")
    first = evaluate(settings.parse(["--benchmark", str(benchmark), "--output", str(tmp_path / "first"),
                                     "--solutions", "canonical", *asked]))
    second = score(benchmark, tmp_path / "second", tmp_path / "first" / "samples.jsonl", *asked)
    assert second["scores"] == first["scores"]
    assert (tmp_path / "second" / "samples.jsonl").read_bytes() == (tmp_path / "first" / "samples.jsonl").read_bytes()


def test_evalplus_names_of_problems_are_understood(python: Python, write_benchmark, tmp_path: Path) -> None:
    file = lines(tmp_path / "samples.jsonl", {"task_id": "HumanEval/1", "completion": "    return x * 2\nprint(double(1))\n"},
                 {"task_id": "HumanEval/0", "solution": WRONG}, {"task_id": "Python/0", "solution": RIGHT},
                 {"task_id": "HumanEval/1", "solution": AFTER})
    result = score(write_benchmark(*PROBLEMS), tmp_path / "out", file)
    assert result["scores"][0]["pass@k"] == {"1": 0.75, "2": 1.0}
    found = rows(tmp_path / "out" / "samples.jsonl")
    assert [row["program"] for row in found[:2]] == [WRONG, RIGHT]
    assert found[2]["program"].rstrip() == 'def double(x):\n    """Twice x."""\n    return x * 2'


def our_row(sample: object, *, task_id: str = "Python/0", program: str | None = "") -> str:
    row = {"task_id": task_id, "scenario": "synthesize", "sample": sample, "program": program}
    return json.dumps({name: value for name, value in row.items() if value is not None}) + "\n"


@pytest.mark.parametrize(("text", "error", "message"), [
    (json.dumps([[RIGHT], [RIGHT, WRONG]]), DataError, "has 1 answers to Python/0/synthesize and 2 to Python/1/synthesize"),
    (json.dumps([[RIGHT], []]), DataError, "has no answer to Python/1/synthesize; choose what it has with --problems"),
    (json.dumps([[RIGHT]]), DataError, "has programs for 1 problems, .* has 2 and the run 2; their order would be a guess"),
    (json.dumps([[RIGHT], [3]]), DataError, "problem 1 is no list of programs"),
    (json.dumps([[RIGHT], WRONG]), DataError, "problem 1 is no list of programs"),
    ("[[", DataError, "is not JSON"),
    ("{}\n", DataError, ":1: no object with a task_id"),
    ('{"task_id": "Python/0"', DataError, ":1: not JSON"),
    ('{"task_id": "Python/0", "code": "x"}\n', DataError, ":1: has neither a text 'solution' .* it has task_id, code"),
    (our_row(0, program=None), DataError, ":1: has neither 'completion' nor 'program'"),
    (our_row("0"), DataError, ":1: a sample has a number 'sample' and a text 'completion'"),
    (our_row(0) * 2, DataError, ":2: sample 0 of Python/0/synthesize is also on a line before"),
    (our_row(1) + our_row(1, task_id="Python/1"), DataError,
     "has 1 answers to Python/0/synthesize, but one is number 1; they are numbered 0 to 0"),
])
def test_a_file_that_would_be_a_guess_is_refused(write_benchmark, tmp_path: Path, text: str, error: type, message: str) -> None:
    file = tmp_path / "file"
    file.write_text(text)
    with pytest.raises(error, match=f"--generations: .*{message}"):
        score(write_benchmark(*PROBLEMS), tmp_path / "out", file)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("more", "message"), [
    (("--scenario", "synthesize,fixdocs"), "does not say of what language and scenario it is, and the run has python and sy"),
    (("--scenario", "synthesize", "--samples", "5"), "--samples: 5 asked for, but .* has 2 for each problem; leave"),
    (("--scenario", "explaindescribe"), "--scenario: explaindescribe alone gives no program to score"),
    (("--scenario", "synthesize", "--solutions", "buggy"), "exactly one of them is needed, --solutions and --generations"),
])
def test_settings_that_do_not_fit_the_file_are_refused(write_benchmark, tmp_path: Path, more: tuple, message: str) -> None:
    file = tmp_path / "generations.json"
    file.write_text(json.dumps([[RIGHT] * 2] * 2))
    with pytest.raises(MegatronFTError, match=message):
        score(write_benchmark(*PROBLEMS), tmp_path / "out", file, *more)


def test_verdicts_on_many_programs_survive_an_error(python: Python, write_benchmark, tmp_path: Path,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "generations.json"
    file.write_text(json.dumps([[RIGHT], [WRONG]]))
    with monkeypatch.context() as broken:
        broken.setattr(report, "write", None)
        with pytest.raises(TypeError):
            score(write_benchmark(*PROBLEMS), tmp_path / "out", file)
    monkeypatch.setattr(Python, "check", lambda self: {})
    monkeypatch.setattr(Python, "judge", None)
    assert score(write_benchmark(*PROBLEMS), tmp_path / "out", file)["scores"][0]["pass@k"] == {"1": 0.5}


def test_a_file_that_is_not_there_is_refused(write_benchmark, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--generations: there is no file .*nowhere.json"):
        score(write_benchmark(*PROBLEMS), tmp_path / "out", tmp_path / "nowhere.json")
    with pytest.raises(ConfigError, match="--model, --solutions, --generations: exactly one"):
        settings.parse(["--benchmark", "b", "--output", "o", "--scenario", "fixdocs"])
