"""A job whose processes are all killed, at random moments, also inside a save, ends as if it had not been: bit for bit.

Three kills in the usual run; MEGATRON_FT_KILLS=10 (and MEGATRON_FT_KILL_SEED) for more.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import tomli_w
import torch

from megatron_ft.runtime import checkpoint_files, checkpoint_layout
from megatron_ft.runtime.groups import free_port
from megatron_ft.training import run_folder
from tests.training.runs import config, curve, tensors

KILLS = int(os.environ.get("MEGATRON_FT_KILLS", "3"))
SEED = int(os.environ.get("MEGATRON_FT_KILL_SEED", "1"))
RANKS, TIMEOUT_S = 2, 240.0


@contextlib.contextmanager
def job(settings: dict, folder: Path) -> Iterator[list[subprocess.Popen]]:
    """The run's command on two ranks, each in a process group of its own, as two nodes would have it."""
    (folder / "config.toml").write_text(tomli_w.dumps(settings))
    port, ranks = free_port(), []
    for rank in range(RANKS):
        environment = {**os.environ, "RANK": str(rank), "WORLD_SIZE": str(RANKS), "LOCAL_RANK": str(rank),
                       "LOCAL_WORLD_SIZE": str(RANKS), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
                       "OMP_NUM_THREADS": "1"}
        with (folder / f"log{rank}").open("a") as log:
            ranks.append(subprocess.Popen([sys.executable, "-m", "megatron_ft.train", str(folder / "config.toml")],
                                          stderr=log, env=environment, start_new_session=True))
    try:
        yield ranks
    finally:
        for process in ranks:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def finish(settings: dict, folder: Path) -> None:
    with job(settings, folder) as ranks:
        codes = [process.wait(timeout=TIMEOUT_S) for process in ranks]
    assert codes == [0] * RANKS, (folder / "log0").read_text()[-3000:] + (folder / "log1").read_text()[-3000:]


def latest(root: Path) -> int:
    pointer = root / checkpoint_layout.LATEST_FILE
    return int(pointer.read_text()) if pointer.is_file() else 0


def wait_for_moment(kind: str, root: Path, chance: random.Random, ranks: list[subprocess.Popen]) -> None:
    """Return at a moment of that kind, at least one checkpoint further than the run stood."""
    target, deadline = latest(root) + chance.randint(1, 3), time.monotonic() + TIMEOUT_S

    def come() -> bool:
        if kind == "in a save":
            return any(root.glob(f".iter_{target:07d}.partial/*"))
        if kind == "at the last rename":
            return (root / f"iter_{target:07d}").exists()
        return latest(root) >= target

    while not come():
        assert all(process.poll() is None for process in ranks), "it ended before it could be killed"
        assert time.monotonic() < deadline, f"no moment {kind} {target} in {TIMEOUT_S:.0f} s"
        time.sleep(0.0005)
    if kind != "at the last rename":
        time.sleep(chance.uniform(0, 0.02 if kind == "in a save" else 0.3))


@pytest.mark.slow
def test_a_job_killed_at_random_moments_ends_as_if_it_had_not_been(bases, dataset, tmp_path):
    def settings(name: str) -> dict:
        tree = config(bases("starcoder", "mqa")[1], dataset, tmp_path / name, run__steps=4 * KILLS + 2,
                      model__hidden_dropout=0.1, checkpoint__every_steps=1, validation__every_steps=0)
        return {**tree, "parallel": {"tp": 2} if SEED % 2 else {}}

    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    finish(settings("whole"), tmp_path / "whole")
    root, chance, inside = tmp_path / "killed" / "checkpoints", random.Random(SEED), 0
    for number in range(KILLS):
        with job(settings("killed"), tmp_path / "killed") as ranks:
            wait_for_moment(("in a save", "anywhere", "at the last rename")[number % 3], root, chance, ranks)
            for process in ranks:
                os.killpg(process.pid, signal.SIGKILL)
        inside += bool(list(root.glob(".iter_*.partial")))
        if latest(root):
            newest = checkpoint_layout.find(root)
            files = checkpoint_layout.Manifest.read(newest).files
            assert checkpoint_files.damage(newest, files) == [], "latest names a whole one"
    finish(settings("killed"), tmp_path / "killed")
    ends = [tmp_path / name / "checkpoints" / checkpoint_layout.folder_name(4 * KILLS + 2) for name in ("whole", "killed")]
    expected, found = map(tensors, ends)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    lines = [run_folder.read(tmp_path / name / run_folder.METRICS) for name in ("whole", "killed")]
    assert curve(lines[0]) == curve(lines[1]) and curve(lines[0], "grad_norm") == curve(lines[1], "grad_norm")
    assert not list(root.glob(".*")), "what was half-written is gone"
    print(f"{KILLS} kills, {inside} of them inside a save; {len(expected)} tensors are the same bit for bit")
