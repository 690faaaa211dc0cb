"""Several processes give what one gives; whichever of them dies, the rest ends and what was answered is kept."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_ft.evaluation import settings
from megatron_ft.evaluation.languages.python import Python
from megatron_ft.evaluation.run import evaluate
from tests.evaluation import tiny
from tests.evaluation.problems import make_problem

ROOT = Path(__file__).parents[2]
PROBLEMS = [make_problem(task_id=f"Own/{number}", instruction=f"Write number {number} of double{' more' * number}.")
            for number in range(3)]


def told(*arguments: str) -> dict:
    """What the other script says of a task, without a process that has used threads before it forks."""
    done = subprocess.run([sys.executable, str(Path(__file__).with_name("workers_killed.py")), *arguments], cwd=ROOT,
                          capture_output=True, text=True, check=False, timeout=900,
                          env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def command(benchmark: Path, model: Path, output: Path, *more: str) -> list[str]:
    return ["--benchmark", str(benchmark), "--model", str(model), "--output", str(output), "--device", "cpu", "--samples", "3",
            "--temperature", "0.8", "--max-new-tokens", "24", "--batch-size", "3", *more]


@pytest.mark.slow
def test_processes_write_the_samples_of_one_process_byte_by_byte(python: Python, write_benchmark, tmp_path: Path) -> None:
    """Descriptions come first, then what is made of them, from the same processes."""
    source, model = write_benchmark(*PROBLEMS), tiny.write(tmp_path / "model")
    for name, devices in (("one", "1"), ("three", "3")):
        evaluate(settings.parse(command(source, model, tmp_path / name, "--devices", devices, "--scenario",
                                        "synthesize,explainsynthesize")))
    one, three = ((tmp_path / name / "samples.jsonl").read_bytes() for name in ("one", "three"))
    assert three == one
    rows = [json.loads(line) for line in one.splitlines()]
    assert len(rows) == 27
    assert len({row["completion"] for row in rows}) > 20
    described = {(row["task_id"], row["sample"]): row["description"] for row in rows if "description" in row}
    assert len(described) == 9


@pytest.mark.slow
def test_a_worker_that_is_killed_is_named_and_costs_only_what_was_under_way(tmp_path: Path) -> None:
    happened = told("killed", str(tiny.write(tmp_path)))
    assert len(happened["runs"]) == 6
    for run in happened["runs"]:
        assert run["error"].startswith("EvaluationError: --devices: the process that generated on cpu "
                                       f"(pid {run['killed']}) was killed by SIGKILL; "), run
        assert "use fewer --devices or a lower --batch-tokens" in run["error"]
        assert run["place"] <= run["first"] < happened["wanted"]
        assert run["alive"] == []
        assert run["same"], "what was answered and what is asked again are together what one process gives"


def test_an_error_of_a_worker_is_that_of_the_command(tmp_path: Path) -> None:
    happened = told("broken", str(tiny.write(tmp_path)))
    assert happened["loading"].startswith("CheckpointError: --model: ")
    assert "weights that its config.json asks for" in happened["loading"]
    assert "the process that generated on cpu (pid " in happened["fault"]
    assert ") ended with exit code 1; what it had to say is above" in happened["fault"]
    assert happened["memory"].startswith("EvaluationError: Own/")
    assert "do not fit into the GPU's memory; lower --max-new-tokens" in happened["memory"]
    assert happened["fault alive"] == happened["memory alive"] == []


def test_no_device_is_left_without_a_batch_while_another_has_many(tmp_path: Path) -> None:
    happened = told("shared", str(tiny.write(tmp_path)))
    assert happened == {"sizes": [7, 7, 7, 0, 0, 0], "answers": 21}


def test_models_load_one_after_the_other_where_the_memory_does_not_hold_them_together(tmp_path: Path) -> None:
    assert told("crowded", str(tiny.write(tmp_path))) == {
        "1": ["start 0", "ready 0", "start 1", "ready 1", "start 2", "ready 2"],
        "2": ["start 0", "start 1", "ready 0", "start 2", "ready 1", "ready 2"],
        "9": ["start 0", "start 1", "start 2", "ready 0", "ready 1", "ready 2"]}


@pytest.mark.slow
def test_whatever_ends_the_command_ends_its_workers_and_the_next_one_goes_on(python: Python, write_benchmark,
                                                                              tmp_path: Path) -> None:
    source, model = write_benchmark(*PROBLEMS), tiny.write(tmp_path / "model")
    wanted = ("--scenario", "synthesize,fixdocs", "--samples", "7")
    happened = told("signalled", *command(source, model, tmp_path / "ended", "--devices", "2", *wanted))
    codes = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}
    assert {each["signal"]: each["code"] for each in happened["signals"]} == codes
    for each in happened["signals"]:
        assert each["workers"] == 2
        assert each["alive"] == []
        assert each["place"] <= each["kept"] < len(PROBLEMS) * 2 * 7
    assert happened["code"] == 0
    evaluate(settings.parse(command(source, model, tmp_path / "whole", *wanted)))
    assert (tmp_path / "ended" / "samples.jsonl").read_bytes() == (tmp_path / "whole" / "samples.jsonl").read_bytes()
