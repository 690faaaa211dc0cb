"""slurm/pipeline.sh on a real SLURM, from JSONL to a report; and its other stages, each against one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.scripts import ROOT
from tests.cluster.slurm import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(3600)]

TIMEOUT_S = 1800.0
PROBLEMS = ROOT / "examples" / "data" / "problems.jsonl"
PIPELINE = f"""\
OUTPUT='my model'
BASE=base
DATA=(--input 'rows of mine.jsonl')
DATA_SHARDS=2
SPLIT=0.9
TRAIN=(finetune_llama.sh {ROOT}/examples/configs/quickstart.toml)
EVALUATE=(--benchmark {PROBLEMS} --scenario synthesize --max-new-tokens 200 --device cpu --dtype float32)
EVALUATE_SHARDS=2
DATA_JOB=(--cpus-per-task=1 --mem=1G)
TRAIN_JOB=(--nodes=2 --ntasks-per-node=2 --cpus-per-task=1)
CONVERT_JOB=(--cpus-per-task=1 --mem=1G)
EVALUATE_JOB=(--cpus-per-task=1 --mem=1G)
"""
STAGES = ("data", "data-merge", "train", "convert", "evaluate", "evaluate-merge")


class User:
    """Somebody in a folder who submits scripts."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster, self.folder = cluster, folder
        folder.mkdir()
        self.environment = {"MEGATRON_FT_PYTHON": sys.executable, "MEGATRON_FT_PREFLIGHT": "off", **cluster.job_environment}

    def submit(self, script: str, *arguments: object, options: tuple[str, ...] = ()) -> str:
        """Submit a script of slurm/ for one core; its job."""
        return self.cluster.sbatch("--cpus-per-task=1", "--mem=1G", *options, ROOT / "slurm" / script, *arguments,
                                   cwd=self.folder, environment=self.environment)

    def log(self, job: str) -> str:
        return (self.folder / f"slurm-{job}.out").read_text()

    def submit_pipeline(self, *overrides: str) -> str:
        """Run the script on the machine that jobs are submitted from; what it says."""
        command = ("bash", "-c", 'exec "$@" 2>&1', "-", "bash", ROOT / "slurm" / "pipeline.sh", "pipeline", *overrides)
        return self.cluster.run(*command, cwd=self.folder, environment=self.environment)

    def expect(self, job: str, state: str = "COMPLETED") -> None:
        found = set(self.cluster.wait(job, timeout_s=TIMEOUT_S).values())
        logs = "".join(f"--- {path.name}\n{path.read_text()[-3000:]}" for path in sorted(self.folder.rglob(f"*{job}*.out")))
        assert found == {state}, f"job {job}\n{logs}{self.cluster.logs()}"


@pytest.fixture
def user(cluster: Cluster, tmp_path: Path) -> Iterator[User]:
    yield User(cluster, tmp_path / "a user")
    cluster.cancel_all()


def run(*command: object, cwd: Path) -> None:
    """Run a program of the project to its end."""
    done = subprocess.run([sys.executable, *map(str, command)], cwd=cwd, capture_output=True, text=True, check=False,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr


def submitted(text: str) -> dict[str, str]:
    """{stage: job} of what pipeline.sh says."""
    lines = [line.removeprefix("pipeline.sh: ").split(": job ") for line in text.splitlines()]
    return {line[0]: line[1] for line in lines if len(line) == 2}


def test_a_pipeline_makes_a_model_that_passes_what_it_learnt_and_its_report(user):
    run(ROOT / "examples" / "make_data.py", "--problems", PROBLEMS, "--rows", ROOT / "examples" / "data" / "questions.jsonl",
        "--output", "rows of mine.jsonl", cwd=user.folder)
    run(ROOT / "examples" / "make_model.py", "--family", "llama", "--data", "rows of mine.jsonl", "--output", "base",
        cwd=user.folder)
    (user.folder / "pipeline").write_text(PIPELINE)
    jobs = submitted(user.submit_pipeline("log.every_steps=20"))
    assert tuple(jobs) == STAGES
    for job in jobs.values():
        user.expect(job)
    results = user.folder / "my model" / "results"
    [score] = json.loads((results / "summary.json").read_text())["scores"]
    assert (score["problems"], score["pass@k"]["1"]) == (12, 1.0)
    assert (results / "report.html").stat().st_size > 1000
    assert sorted(path.name for path in (user.folder / "my model").iterdir()) == ["data", "logs", "model", "results", "run"]
    assert "every_steps = 20" in (user.folder / "my model" / "run" / "config.toml").read_text(), "the override was heard"
    assert "everything is there already: my model/results/report.html" in user.submit_pipeline()


def test_after_a_failure_the_rest_leaves_the_queue_and_goes_on_when_it_is_submitted_again(user, bases, dataset):
    """Training refuses an override; data are there already."""
    (user.folder / "base").symlink_to(bases("starcoder", "mqa")[0])
    data = user.folder / "my model" / "data"
    data.mkdir(parents=True)
    for suffix in (".bin", ".idx", ".json"):
        (data / f"mix{suffix}").symlink_to(dataset.with_name(dataset.name + suffix))
    (user.folder / "pipeline").write_text(PIPELINE)
    jobs = submitted(user.submit_pipeline("parallel.tp=5", "data.row_tokens=96"))
    assert tuple(jobs) == STAGES[2:]
    user.expect(jobs["train"], "FAILED")
    for stage in STAGES[3:]:
        user.expect(jobs[stage], "CANCELLED")
    assert not (user.folder / "my model" / "model").exists()
    assert tuple(submitted(user.submit_pipeline())) == STAGES[2:]


def test_an_evaluation_by_an_array_gives_what_one_process_gives(user):
    given = ("--solutions", "canonical", "--benchmark", PROBLEMS, "--scenario", "synthesize")
    job = user.submit("evaluate.sh", *given, "--output", "my results", options=("--array=0-2",))
    merge = user.submit("evaluate.sh", "--merge", "--output", "my results",
                        options=(f"--dependency=afterok:{job}", "--gpus-per-node=0"))
    user.expect(job)
    user.expect(merge)
    run("-m", "megatron_ft.evaluate", *given, "--output", "alone", cwd=user.folder)
    assert verdicts(user.folder / "my results") == verdicts(user.folder / "alone")
    assert len(verdicts(user.folder / "alone")) == 12
    assert not (user.folder / "my results.parts").exists()
    assert "the report is my results/report.html" in user.log(merge)


def verdicts(folder: Path) -> dict[str, str]:
    return {line["task_id"]: line["status"] for line in map(json.loads, (folder / "results.jsonl").read_text().splitlines())}


def test_a_conversion_is_a_job(user, bases):
    command = ("hf_to_megatron", "--hf", bases("llama", "gqa")[0], "--output", "my checkpoint")
    job = user.submit("convert.sh", *command)
    user.expect(job)
    assert (user.folder / "my checkpoint" / "latest_checkpointed_iteration.txt").read_text().strip() == "release"
    again = user.submit("convert.sh", *command)
    user.expect(again, "FAILED")
    assert "my checkpoint exists already" in user.log(again)
