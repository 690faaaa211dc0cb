"""slurm/finetune_*.sh on a real SLURM: TP2 x PP2 over two nodes, and a job that nothing but its own faults can end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from megatron_ft.runtime import checkpoint_layout
from megatron_ft.training import run_folder
from tests.cluster.slurm import Cluster
from tests.training.runs import curve

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(3600)]

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "slurm" / "finetune_starcoderbase.sh"
RANKS, STEPS, HELD_AFTER = 4, 24, 3
TIMEOUT_S = 1200.0  # a start takes 20 s on two quiet cores
# Dropout would show a resume that is not exact; the small sizes are an override each, as a user would try a script out.
SMALL = ("parallel.tp=2", "parallel.pp=2", "model.precision=fp32", "model.hidden_dropout=0.1", "runtime.threads=1",
         "run.epochs=0", f"run.steps={STEPS}", "data.row_tokens=96", "data.rows_per_step=8", "optim.lr=1e-3",
         "checkpoint.every_steps=4", "validation.every_steps=12", "log.every_steps=1", "log.tensorboard=false")
HOLDING = """\
# A python whose training stops after three steps of each start, on every rank, until it is told to end or finds a file "gate".
import os, runpy, sys, time
from pathlib import Path
from megatron_ft.training.ending import Ending
took, steps = Ending.took, []
def took_and_wait(self, step_s):
    took(self, step_s)
    steps.append(1)
    start, rank = int(os.environ.get("SLURM_RESTART_COUNT", "0")) + 1, os.environ["SLURM_PROCID"]
    if len(steps) == HELD_AFTER and not Path(f"gate-{start}").exists():
        Path(f".{start}-{rank}").write_text(str(os.getpid()))
        Path(f".{start}-{rank}").rename(f"held-{start}-{rank}")
        while not (self.signals.requeue or Path(f"gate-{start}").exists()):
            time.sleep(0.05)
Ending.took = took_and_wait
if sys.argv[1] == "-c":
    code = sys.argv[2]
    sys.argv[:3] = ["-c"]
    exec(code, {"__name__": "__main__"})
else:
    sys.argv[:3] = [sys.argv[2]]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def overrides_for(base: Path, dataset: Path) -> tuple[str, ...]:
    return (*SMALL, f"load.from={base}", f"data.train=0:0.8 {dataset}", f"data.valid=0.8:1 {dataset}")


class User:
    """Somebody in a folder with a base model and data, who submits the script."""

    def __init__(self, cluster: Cluster, folder: Path, base: Path, dataset: Path) -> None:
        self.cluster, self.folder = cluster, folder
        folder.mkdir(parents=True)
        self.environment = {"MEGATRON_FT_PYTHON": sys.executable, "MEGATRON_FT_PREFLIGHT": "off",
                            **cluster.job_environment}
        self.overrides = overrides_for(base, dataset)

    def submit(self, *overrides: str, run: str = "my run") -> str:
        """Submit the script as it is: four of the 64 tasks that its header asks for."""
        return self.cluster.sbatch("--nodes=2", "--ntasks-per-node=2", "--cpus-per-task=2", SCRIPT, f"run.dir={run}",
                                   *self.overrides, *overrides, cwd=self.folder, environment=self.environment)

    def after(self, job: str) -> str:
        """Submit something that depends on a job."""
        return self.cluster.sbatch(f"--dependency=afterok:{job}", "--wrap", "true", cwd=self.folder)

    def hold(self) -> None:
        """Let each start of a job stop after three steps."""
        (self.folder / "holding.py").write_text(HOLDING.replace("HELD_AFTER", str(HELD_AFTER)))
        python = self.folder / "holding python"
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{self.folder}/holding.py" "$@"\n')
        python.chmod(0o755)
        self.environment["MEGATRON_FT_PYTHON"] = str(python)

    def held(self, job: str, start: int) -> list[int]:
        """Wait until a start of the job has done its three steps; its ranks' processes."""
        paths = [self.folder / f"held-{start}-{rank}" for rank in range(RANKS)]
        self.cluster.wait_until(lambda: all(path.exists() for path in paths) or self.state(job) == "FAILED",
                                timeout_s=TIMEOUT_S, what=f"step 3 of start {start}\n{self.log(job)}")
        assert self.state(job) == "RUNNING", self.log(job)
        return [int(path.read_text()) for path in paths]

    def is_queued_again(self, job: str) -> None:
        """Wait until it is."""
        self.cluster.wait_until(lambda: self.state(job) == "PENDING", timeout_s=TIMEOUT_S, what=f"a requeue\n{self.log(job)}")

    def state(self, job: str) -> str:
        return self.cluster.states(job)[""]

    def log(self, job: str) -> str:
        path = self.folder / f"slurm-{job}.out"
        return path.read_text() if path.exists() else ""

    def expect(self, job: str, state: str) -> None:
        """Wait for the end of a job."""
        found = self.cluster.wait(job, timeout_s=TIMEOUT_S)
        assert found == {"": state}, f"{self.log(job)}{self.cluster.logs()}"

    def metrics(self, run: str = "my run") -> list[dict[str, Any]]:
        return run_folder.read(self.folder / run / run_folder.METRICS)

    def events(self, kind: str, run: str = "my run") -> list[dict[str, Any]]:
        return [event for event in run_folder.read(self.folder / run / run_folder.EVENTS) if event.get("event") == kind]


@pytest.fixture
def user(cluster: Cluster, tmp_path: Path, bases, dataset) -> Iterator[User]:
    yield User(cluster, tmp_path / "a user", bases("starcoder", "mqa")[0], dataset)
    cluster.cancel_all()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, bases, dataset) -> list[dict[str, Any]]:
    """Metrics of the same run by torchrun, on one machine and without an interruption."""
    run_dir = tmp_path_factory.mktemp("torchrun") / "run"
    overrides = overrides_for(bases("starcoder", "mqa")[0], dataset)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(RANKS), "-m",
               "megatron_ft.train", "examples/configs/starcoderbase-15b.toml", f"run.dir={run_dir}", *overrides]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stderr
    return run_folder.read(run_dir / run_folder.METRICS)


def same_curves(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert curve(found, "step") == curve(expected, "step")
    for field in ("loss", "grad_norm", "valid_loss"):
        assert curve(found, field) == curve(expected, field)
        assert curve(found, field)


def test_tp2_pp2_over_two_nodes_trains_as_torchrun_does_on_one(user, whole):
    del user.environment["MEGATRON_FT_PREFLIGHT"]
    job = user.submit()
    user.expect(job, "COMPLETED")
    same_curves(user.metrics(), whole)
    log = user.log(job)
    assert "finetune_starcoderbase.sh: job 1 on node[0-1], start 1, " in log.replace(f"job {job} ", "job 1 ")
    assert "4 processes = 2 tp x 2 pp x 1 dp" in log and f"done: {STEPS} steps" in log
    assert log.index("nothing is in the way") < log.index("training; the logs of ranks above 0 are in my run/jobs/")
    assert log.count("done; the model is in my run/checkpoints") == 1
    folder = user.folder / "my run" / "jobs" / f"{job}-1"
    names = [path.name for path in sorted(folder.iterdir())]
    assert names == ["config.toml", "job.txt", "rank-0001.log", "rank-0002.log", "rank-0003.log"]
    about = (folder / "job.txt").read_text()
    assert re.search(r"^commit: [0-9a-f]{40}$", about, flags=re.MULTILINE) and "run.dir: my run\n" in about
    assert (folder / "config.toml").read_text() == (user.folder / "my run" / "config.toml").read_text()


def test_a_job_that_is_interrupted_in_every_way_ends_as_if_it_had_not_been(user, whole):
    user.hold()
    job = user.submit()
    dependent = user.after(job)

    # Its time is up in three minutes, which is when it asked for the signal: each rank has to get it, or it stays held.
    user.held(job, 1)
    user.cluster.run("scontrol", "update", f"JobId={job}", "TimeLimit=3")
    user.is_queued_again(job)
    assert "told to end by SIGUSR1 or SIGTERM on 4 ranks" in user.log(job)
    user.cluster.run("scontrol", "update", f"JobId={job}", "TimeLimit=60")
    user.cluster.start_again(job)
    user.held(job, 2)
    ended, resumed = user.events("end")[-1]["step"], user.events("resume")[-1]["step"]
    assert ended == resumed == HELD_AFTER + 1, "no step is lost"

    # Somebody puts it back into the queue.
    user.cluster.run("scontrol", "requeue", job)
    user.cluster.start_again(job)

    # A job that comes first takes its nodes: it has the minute of the partition's GraceTime.
    user.held(job, 3)
    urgent = user.cluster.sbatch("--partition=urgent", "--nodes=2", "--exclusive", "--wrap", "true", cwd=user.folder)
    user.is_queued_again(job)
    assert user.cluster.wait(urgent) == {"": "COMPLETED"}
    user.cluster.start_again(job)

    # A rank is killed, as the kernel does when memory runs out.
    os.kill(user.held(job, 4)[3], signal.SIGKILL)
    assert user.events("end")[-1]["step"] == user.events("resume")[-1]["step"], "no step is lost to the urgent job"
    user.is_queued_again(job)
    assert "rank 0 (host" in user.log(job) and "ended because rank 3 (host" in user.log(job)
    user.cluster.start_again(job)

    # A node dies, with two ranks on it: SLURM ends the job and queues it again.
    user.held(job, 5)
    user.cluster.power_off("node1")
    user.is_queued_again(job)
    assert user.state(dependent) == "PENDING"
    user.cluster.power_on("node1")
    user.cluster.start_again(job)
    user.held(job, 6)
    assert "done; the model is in" not in user.log(job)
    (user.folder / "gate-6").touch()
    user.expect(job, "COMPLETED")
    user.expect(dependent, "COMPLETED")
    assert user.cluster.tasks(job)[""]["Restarts"] == "5"
    same_curves(user.metrics(), whole)
    assert checkpoint_layout.find(user.folder / "my run" / "checkpoints").name == f"iter_{STEPS:07d}"


def test_the_time_limit_itself_ends_in_a_requeue_and_a_cancelled_job_stays_cancelled(user):
    """A step and its checkpoint may take longer than the signal leaves them; training is a stand-in that heeds SIGTERM only."""
    python = user.folder / "slow-python"  # no space: proctrack/linuxproc would not find the process then, nor signal it
    python.write_text('#!/bin/bash\nif [ "$2" != megatron_ft.train ]; then exec "$REAL" "$@"; fi\n'
                      "trap 'kill $!; exit 75' TERM; trap '' USR1; sleep 3600 & touch running-$SLURM_RESTART_COUNT; wait\n")
    python.chmod(0o755)
    user.environment |= {"MEGATRON_FT_PYTHON": str(python), "REAL": sys.executable}
    job = user.submit()
    user.cluster.wait_until((user.folder / "running-").exists, timeout_s=TIMEOUT_S, what="a start")
    user.cluster.run("scontrol", "update", f"JobId={job}", "TimeLimit=1")
    user.is_queued_again(job)
    assert "DUE TO TIME LIMIT" in user.log(job) and "training ended with exit code 75; requeue: " in user.log(job)
    user.cluster.run("scontrol", "update", f"JobId={job}", "TimeLimit=60")
    user.cluster.start_again(job)
    user.cluster.wait_until((user.folder / "running-1").exists, timeout_s=TIMEOUT_S, what="a second start")
    user.cluster.run("scancel", job)
    user.expect(job, "CANCELLED")
    assert "SLURM ends this job: preempted or requeued it comes back by itself, cancelled it does not" in user.log(job)


def test_a_job_that_fails_is_failed_and_nothing_that_depends_on_it_starts(user):
    job = user.submit("optim.lr=0.1", "optim.min_lr=0.2")
    dependent = user.after(job)
    user.expect(job, "FAILED")
    assert user.cluster.tasks(job)[""]["ExitCode"] == "2:0"
    assert "error: ConfigError: " in user.log(job) and "optim.min_lr: 0.2 is above optim.lr=0.1" in user.log(job)
    user.cluster.wait_until(lambda: user.cluster.tasks(dependent)[""]["Reason"] == "DependencyNeverSatisfied",
                            what="DependencyNeverSatisfied")
    assert user.cluster.tasks(job)[""]["Restarts"] == "0"
