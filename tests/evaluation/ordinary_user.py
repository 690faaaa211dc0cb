"""Runs Python as an ordinary user, who may read neither root's home nor, with that, an interpreter that lies in it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy
import pytest

UID = 12345
REPOSITORY = Path(__file__).parents[2]
SITE_PACKAGES = Path(numpy.__file__).parents[1]


def prefix() -> list[str]:
    """What makes a command an ordinary user's: nothing where it is one already."""
    return [] if os.geteuid() else ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "--"]


@cache
def interpreter() -> str | None:
    """One that the user may run and that has this one's version, so that the packages of this environment serve it."""
    system = f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"
    for path in (str(Path(sys.executable).resolve()), system):
        # `env` starts it with the user's rights; setpriv itself would do so with root's.
        probe = [*prefix(), "env", *_environment(), path, "-c", "import numpy, megatron_ft.evaluation.sandbox"]
        if subprocess.run(probe, capture_output=True, check=False).returncode == 0:
            return path
    return None


def run(script: str, *, inside: Sequence[str] = (), arguments: Sequence[str] = (),
        timeout_s: float = 120) -> subprocess.CompletedProcess:
    """Run a script as the user; the test is skipped (with CI=true it fails) where the user may run no fitting interpreter.

    Args:
        inside: a command, run as the user, that runs the interpreter, such as `unshare`.
    """
    path = interpreter()
    if path is None:
        reason = (f"user {UID} may read neither {Path(sys.executable).resolve()} nor another python of its version, "
                  f"or not {REPOSITORY}")
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    return subprocess.run([*prefix(), *inside, "env", *_environment(), path, "-c", script, *arguments], cwd="/",
                          capture_output=True, text=True, timeout=timeout_s, check=False)


def _environment() -> list[str]:
    return [f"PYTHONPATH={REPOSITORY}:{SITE_PACKAGES}", "PYTHONDONTWRITEBYTECODE=1", "HOME=/nonexistent"]
