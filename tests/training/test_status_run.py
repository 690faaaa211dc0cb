"""A real run is followed by its status: loading, training, killed, resumed, told to end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tomli_w

from tests.training.runs import config

TIMEOUT_S = 600.0


def status(run: Path) -> tuple[int, dict]:
    done = subprocess.run([sys.executable, "-m", "megatron_ft.status", str(run), "--json"], capture_output=True, text=True,
                          check=False)
    return done.returncode, json.loads(done.stdout) if done.stdout else {}


@pytest.mark.slow
def test_a_run_is_followed_through_a_kill_and_a_signal(bases, dataset, tmp_path):
    settings = config(bases("starcoder", "mqa")[1], dataset, tmp_path / "run", run__steps=100_000, validation__every_steps=0,
                      checkpoint__every_steps=3, optim__schedule="constant")
    (tmp_path / "run.toml").write_text(tomli_w.dumps(settings))
    command = [sys.executable, "-m", "megatron_ft.train", str(tmp_path / "run.toml")]
    environment = {**os.environ, "SLURM_JOB_ID": "4711", "SLURM_JOB_END_TIME": str(int(time.time()) + 7200)}
    phases: list[str] = []

    def follow(training: subprocess.Popen, *, attempt: int, until_step: int) -> dict:
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            assert training.poll() is None, (tmp_path / "log").read_text()
            code, found = status(tmp_path / "run") if (tmp_path / "run").exists() else (0, {})
            if len(found.get("attempts", [])) == attempt:  # before that a start has only its imports
                assert code == 0 and found["is_well"], found
                phases.append(found["state"])
                if found["step"] >= until_step and found["checkpoint"] and found["pace"] and found["state"] == "training":
                    return found
            time.sleep(0.05)
        raise AssertionError(f"not at step {until_step} in {TIMEOUT_S:.0f} s: {phases}")

    with (tmp_path / "log").open("a") as log:
        first = subprocess.Popen(command, stderr=log, env=environment)
        try:
            found = follow(first, attempt=1, until_step=4)
            assert found["attempts"][0]["about"]["job"] == "4711" and found["steps"] == 100_000
            assert found["pace"]["more_attempts"] is not None and 0 < found["pace"]["left_s"] <= 7200
        finally:
            first.kill()
            first.wait()
        code, killed = status(tmp_path / "run")
        assert (code, killed["state"]) == (1, "killed") and "ended without a word after step " in killed["sentence"]
        second = subprocess.Popen(command, stderr=log, env=environment)
        try:
            follow(second, attempt=2, until_step=killed["checkpoint"]["step"] + 4)
            second.send_signal(signal.SIGUSR1)
            assert second.wait(TIMEOUT_S) == 75
        finally:
            second.kill()
            second.wait()
    code, ended = status(tmp_path / "run")
    assert (code, ended["state"], ended["attempts"][1]["exit_code"], ended["steps_at_risk"]) == (0, "ended", 75, 0)
    one, two = ended["attempts"]
    assert one["reached"] >= killed["step"] >= one["saved_step"] == two["from_step"] >= 3
    assert two["reached"] == two["saved_step"] == ended["step"] > two["from_step"]
    assert {"loading", "training"} <= set(phases) <= {"loading", "training", "saving"}
