"""Runs a script of slurm/ without a cluster: what SLURM gives a job are variables and a few commands, here stand-ins."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
ECHO = '#!/bin/sh\nfor word; do echo "<$word>"; done\n'


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def run(script: Path, *arguments: str, folder: Path, **variables: str) -> subprocess.CompletedProcess:
    """Run a script in a folder, whose bin/ comes first in PATH; a variable that is '' is not set."""
    environment = {name: value for name, value in os.environ.items()
                   if not name.startswith(("SLURM_", "SBATCH_", "MEGATRON_FT_"))}
    environment |= {"SLURM_JOB_ID": "17", "SLURM_CPUS_PER_TASK": "3", "PATH": f"{folder / 'bin'}:/usr/bin:/bin", **variables}
    return subprocess.run(["bash", str(script), *arguments], cwd=folder, capture_output=True, text=True, check=False,
                          env={name: value for name, value in environment.items() if value})


class ArrayCall:
    """Calls a script in a folder as a task of an array 'FIRST-LAST' (of `tasks`), or with array=None as a plain job; its python
    is ECHO."""

    def __init__(self, script: Path, folder: Path) -> None:
        self._script, self._folder = script, folder
        self._python = executable(folder / "bin" / "echo python", ECHO)

    def __call__(self, *arguments: str, array: str | None = "0-3", task: int = 2, tasks: int | None = None,
                 script: Path | None = None, **variables: str) -> subprocess.CompletedProcess:
        own = {"MEGATRON_FT_PYTHON": str(self._python)}
        if array is not None:
            first, last = map(int, array.split("-"))
            own |= {"SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": str(task), "SLURM_ARRAY_TASK_MIN": str(first),
                    "SLURM_ARRAY_TASK_MAX": str(last), "SLURM_ARRAY_TASK_COUNT": str(tasks or last - first + 1)}
        return run(script or self._script, *arguments, folder=self._folder, **own | variables)


def words(done: subprocess.CompletedProcess) -> list[str]:
    """What ECHO was called with."""
    assert done.returncode == 0, done.stderr
    return [line[1:-1] for line in done.stdout.splitlines()]


def refusal(done: subprocess.CompletedProcess) -> str:
    """The message of a script that did nothing."""
    assert (done.returncode, done.stdout) == (2, ""), done
    return done.stderr
