"""A run that is interrupted goes on: after a SIGKILL at any moment, after an error, never with another run's rows."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_ft.errors import ConfigError, EvaluationError
from megatron_ft.evaluation import generation, settings, verdict_cache
from megatron_ft.evaluation.languages.python import Python
from megatron_ft.evaluation.run import evaluate
from megatron_ft.evaluation.run_folder import RunFolder
from tests.evaluation import tiny
from tests.evaluation.problems import make_problem

ROOT = Path(__file__).parents[2]
PROBLEMS = [make_problem(task_id=f"Own/{number}", instruction=f"Write number {number} of double{' more' * number}.")
            for number in range(4)]
KILLS = 10
ROW = {"task_id": "Own/0", "scenario": "synthesize", "sample": 0}


def rows(path: Path) -> list[dict]:
    """Without what no two runs share: how long it took."""
    return [{name: value for name, value in json.loads(line).items() if name != "seconds"} for line in path.open()]


def model_arguments(source: Path, folder: Path) -> list[str]:
    """Three samples of each problem, two at a time."""
    return ["--benchmark", str(source), "--model", str(tiny.write(folder / "model")), "--device", "cpu",
            "--scenario", "synthesize", "--samples", "3", "--temperature", "0.8", "--max-new-tokens", "8", "--batch-size", "2"]


@pytest.mark.slow
def test_a_run_that_is_killed_at_ten_moments_gives_the_same(python: Python, write_benchmark, tmp_path: Path,
                                                            verdicts: Path) -> None:
    arguments = model_arguments(write_benchmark(*PROBLEMS), tmp_path)
    places = sorted(random.Random(6).sample(range(2 * 3 * len(PROBLEMS)), KILLS))
    for name, killed in (("whole", []), ("killed", places)):
        done = subprocess.run([sys.executable, str(Path(__file__).with_name("killed.py")), json.dumps(killed), *arguments,
                               "--output", str(tmp_path / name)], cwd=ROOT, capture_output=True, text=True, check=False,
                              env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1",
                                   verdict_cache.VARIABLE: str(verdicts / name)})  # each judges its programs itself
        assert done.returncode == 0, done.stderr
        assert done.stdout.endswith(f"killed {len(killed)}\n")
    assert (tmp_path / "killed" / "samples.jsonl").read_bytes() == (tmp_path / "whole" / "samples.jsonl").read_bytes()
    assert rows(tmp_path / "killed" / "results.jsonl") == rows(tmp_path / "whole" / "results.jsonl")
    scores = [json.loads((tmp_path / name / "summary.json").read_text())["scores"] for name in ("whole", "killed")]
    assert scores[0] == scores[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["benchmark.jsonl", "killed", "model", "whole"]
    assert sorted(path.name for path in (tmp_path / "killed").iterdir()) == [
        "harness", "report.html", "results.jsonl", "run.json", "samples.jsonl", "summary.json", "summary.md"]


def test_an_error_of_execution_keeps_what_was_generated(python: Python, write_benchmark, tmp_path: Path,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    command = settings.parse([*model_arguments(write_benchmark(*PROBLEMS), tmp_path), "--output", str(tmp_path / "out")])
    with monkeypatch.context() as broken:
        def judge(self: Python, *asked: object) -> None:
            raise EvaluationError("Own/0: no box")

        broken.setattr(Python, "check", lambda self: {})
        broken.setattr(Python, "judge", judge)
        with pytest.raises(EvaluationError, match="Own/0: no box"):
            evaluate(command)
    kept = tmp_path / ".out.partial" / "samples.jsonl"
    assert len(rows(kept)) == 12 and not (tmp_path / "out").exists()
    before = kept.read_text()
    monkeypatch.setattr(generation, "generate", None)
    evaluate(command)
    assert sorted((tmp_path / "out" / "samples.jsonl").read_text().splitlines()) == sorted(before.splitlines())
    assert len(rows(tmp_path / "out" / "results.jsonl")) == 12


def test_descriptions_and_what_is_made_of_them_come_from_one_command(python: Python, write_benchmark, tmp_path: Path) -> None:
    command = model_arguments(write_benchmark(*PROBLEMS[:2]), tmp_path)
    command[command.index("synthesize")] = "explainsynthesize"
    result = evaluate(settings.parse([*command, "--output", str(tmp_path / "out")]))
    found = rows(tmp_path / "out" / "samples.jsonl")
    assert [row["scenario"] for row in found] == ["explaindescribe"] * 6 + ["explainsynthesize"] * 6
    assert all(("description" in row) == (row["scenario"] == "explaindescribe") for row in found)
    assert [(score["scenario"], score["samples"]) for score in result["scores"]] == [("explainsynthesize", 6)]
    assert {row["scenario"] for row in rows(tmp_path / "out" / "results.jsonl")} == {"explainsynthesize"}
    descriptions = json.loads((tmp_path / "out" / "harness" / "generations_humanevalexplaindescribe-python.json").read_text())
    assert descriptions == [[row["description"] for row in found[first:first + 3]] for first in (0, 3)]


def test_a_row_that_was_cut_short_is_made_again(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), RunFolder(tmp_path / "out", {"seed": 1}) as folder:
        for sample in range(3):
            folder.add_sample({**ROW, "sample": sample, "tokens": 1})
        raise KeyboardInterrupt
    path = folder.path / "samples.jsonl"
    path.write_bytes(path.read_bytes()[:-5])
    with RunFolder(tmp_path / "out", {"seed": 1}) as again:
        assert [key[2] for key in again.samples] == [0, 1]
        again.add_sample({**ROW, "sample": 2, "tokens": 9})
        again.finish([("Own/0", "synthesize", sample) for sample in (2, 1, 0)])
    assert [(row["sample"], row["tokens"]) for row in rows(tmp_path / "out" / "samples.jsonl")] == [(2, 9), (1, 1), (0, 1)]
    assert sorted(each.name for each in (tmp_path / "out").iterdir()) == ["results.jsonl", "run.json", "samples.jsonl"]


def test_another_run_and_another_process_are_refused(tmp_path: Path) -> None:
    many = {f"Own/{number}": "value misuse" for number in range(99)}
    with RunFolder(tmp_path / "out", {"seed": 1, "bug_types": many}) as folder:
        folder.add_sample({**ROW, "tokens": 1})
        with pytest.raises(ConfigError, match="--output: another process is writing .*out.partial; wait for it"):
            RunFolder(tmp_path / "out", {"seed": 1, "bug_types": many})
    with pytest.raises(ConfigError, match="beginning of another run .*seed: 1 there, 2 here.*give the same options") as caught:
        RunFolder(tmp_path / "out", {"seed": 2, "bug_types": {}})
    assert len(str(caught.value)) < 800  # a list of problems is not printed whole
