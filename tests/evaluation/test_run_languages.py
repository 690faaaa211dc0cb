"""Runs of several languages with answers that repeat: killed at any moment, or cut into shards, they give the same files."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from megatron_ft.evaluation import merge, settings, verdict_cache
from megatron_ft.evaluation.run import evaluate
from tests.evaluation import killed
from tests.evaluation.cpp_problems import DOUBLE
from tests.evaluation.js_problems import js_problem
from tests.evaluation.problems import make_problem

ROOT = Path(__file__).parents[2]
KILLS = 10
# Language -> a problem, a right program, and wrong ones: one that says so and one that leaves.
ANSWERS = {
    "python": (make_problem(), "def double(x):\n    return x * 2\n", "def double(x):\n    return x * 3\n", "exit(0)\n"),
    "js": (js_problem(), "const double = (x) => x + x\n", "const double = (x) => x * 3\n", "process.exit(0)\n"),
    "cpp": (DOUBLE, "int twice(int x){ return x * 2; }\n", "int twice(int x){ return 5; }\n", "int twice(int x){ exit(0); }\n"),
}
PROBLEMS = 2  # in each language; an answer that repeats is judged once for each of them
PASSES = (True, False, True, False, False)
"""Of the answers to each problem: right, wrong, right again, wrong again, leaving."""


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    """The command's, for a benchmark in three languages and a file of answers."""
    (tmp_path / "benchmark").mkdir()
    rows = []
    for language, (problem, right, wrong, leaving) in ANSWERS.items():
        problems = [replace(problem, task_id=f"{language}/{number}") for number in range(PROBLEMS)]
        (tmp_path / "benchmark" / f"{language}.jsonl").write_text("".join(json.dumps(asdict(each)) + "\n" for each in problems))
        rows += [{"task_id": each.task_id, "scenario": "synthesize", "sample": sample, "program": text}
                 for each in problems for sample, text in enumerate((right, wrong, right, wrong, leaving))]
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ["--benchmark", str(tmp_path / "benchmark"), "--language", ",".join(ANSWERS), "--scenario", "synthesize",
            "--generations", str(tmp_path / "samples.jsonl")]


def results(folder: Path) -> list[dict]:
    """The verdicts, without what no two runs share: how long they took."""
    rows = [json.loads(line) for line in (folder / "results.jsonl").open()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def require_right(folder: Path) -> None:
    """Fail unless every sample has its verdict, in the order of the run."""
    found = [(row["task_id"], row["sample"], row["status"] == "passed") for row in results(folder)]
    assert found == [(f"{language}/{number}", sample, passes) for language in ANSWERS for number in range(PROBLEMS)
                     for sample, passes in enumerate(PASSES)]


@pytest.mark.slow
def test_a_run_of_three_languages_that_is_killed_at_ten_moments_gives_the_same(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    rows = 2 * PROBLEMS * len(PASSES) * len(ANSWERS)
    places = sorted(random.Random(5).sample(range(rows // 2, rows), KILLS))  # answers are there at once, verdicts are made
    for name, kills in (("whole", []), ("killed", places)):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1",
                       "TMPDIR": str(tmp_path / "tmp"),
                       verdict_cache.VARIABLE: str(tmp_path / "verdicts" / name)}  # so that each run judges by itself
        command = [sys.executable, killed.__file__, json.dumps(kills), *arguments, "--output", str(tmp_path / name)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr
        assert done.stdout.endswith(f"killed {len(kills)}\n")
        assert not list((tmp_path / "tmp").iterdir())  # what those that were killed left is removed as well
        require_right(tmp_path / name)
    assert (tmp_path / "killed" / "samples.jsonl").read_bytes() == (tmp_path / "whole" / "samples.jsonl").read_bytes()
    assert results(tmp_path / "killed") == results(tmp_path / "whole")
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_told_to_end_removes_its_temporary_files_and_goes_on_later(sent: signal.Signals, tmp_path: Path) -> None:
    """As by scancel, or Ctrl-C, while programs are compiled and run."""
    rows = [{"task_id": DOUBLE.task_id, "scenario": "synthesize", "sample": sample,
             "program": f"int twice(int x){{ return x * 2 + {sample}; }}\n"} for sample in range(60)]
    (tmp_path / "benchmark").mkdir()
    (tmp_path / "benchmark" / "cpp.jsonl").write_text(json.dumps(asdict(DOUBLE)) + "\n")
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "tmp").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path / "tmp"),
                   verdict_cache.VARIABLE: str(tmp_path / "verdicts")}
    command = [sys.executable, "-m", "megatron_ft.evaluate", "--benchmark", str(tmp_path / "benchmark"), "--language", "cpp",
               "--scenario", "synthesize", "--generations", str(tmp_path / "samples.jsonl"), "--output", str(tmp_path / "out")]
    partial = tmp_path / ".out.partial" / "results.jsonl"
    running = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # a background job ignores it
    while running.poll() is None and not (partial.exists() and partial.read_bytes().count(b"\n") >= 3):
        time.sleep(0.01)
    assert list((tmp_path / "tmp").glob("megatron_ft-build-*"))
    running.send_signal(sent)
    _, said = running.communicate(timeout=60)
    assert (running.returncode, said.splitlines()[-1]) == {signal.SIGTERM: (143, "terminated"),
                                                           signal.SIGINT: (130, "interrupted")}[sent]
    assert not list((tmp_path / "tmp").iterdir())
    kept = partial.read_bytes().count(b"\n")
    assert 3 <= kept < len(rows)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert [row["status"] == "passed" for row in results(tmp_path / "out")] == [sample == 0 for sample in range(len(rows))]


def test_shards_of_three_languages_are_the_whole_run(arguments: list[str], tmp_path: Path,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    whole = evaluate(settings.parse([*arguments, "--output", str(tmp_path / "whole")]))
    monkeypatch.setenv(verdict_cache.VARIABLE, str(tmp_path / "verdicts"))
    parts = [tmp_path / f"part{index}" for index in range(4)]
    for index, part in enumerate(parts):
        evaluate(settings.parse([*arguments, "--output", str(part), "--shard", f"{index}/{len(parts)}"]))
    merged = merge.merge([str(parts[index]) for index in (3, 1, 0, 2)], str(tmp_path / "out"))
    require_right(tmp_path / "out")
    assert (tmp_path / "out" / "samples.jsonl").read_bytes() == (tmp_path / "whole" / "samples.jsonl").read_bytes()
    assert results(tmp_path / "out") == results(tmp_path / "whole")
    assert merged["scores"] == whole["scores"]
