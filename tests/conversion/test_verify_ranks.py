"""Processes that the tool starts itself: the end of one is the end of all, with the words of the one that failed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from megatron_ft.conversion import verify_ranks
from megatron_ft.errors import CheckpointError
from tests.conversion import verify_programs

STARTED = """\
from megatron_ft.conversion import verify_ranks
from tests.conversion import verify_programs
if __name__ == "__main__":
    verify_ranks.run(verify_programs.sleep_noted, 2, {folder!r})
"""


def test_what_rank_0_returns_is_given():
    assert verify_ranks.run(verify_programs.ranks, 2, 7) == 14


def test_a_users_error_on_one_rank_is_that_error_and_ends_the_others():
    begun = time.monotonic()
    with pytest.raises(CheckpointError, match="^the weights are another model's$"):
        verify_ranks.run(verify_programs.refuse_on_last, 2)
    assert time.monotonic() - begun < 60, "the other rank, which sleeps for ten minutes, was waited for"


def test_an_error_that_another_rank_caused_is_not_the_one_shown():
    with pytest.raises(verify_ranks.RankError, match=r"rank 1 of 2 failed:\n(.*\n)+ZeroDivisionError: the cause"):
        verify_ranks.run(verify_programs.echo_before_the_cause, 2)


def test_a_rank_that_is_killed_is_named_with_the_signal():
    with pytest.raises(verify_ranks.RankError, match="rank 1 of 2 was killed by SIGKILL; .*memory"):
        verify_ranks.run(verify_programs.killed, 2)


@pytest.mark.parametrize("ended_by", [signal.SIGINT, signal.SIGKILL])
def test_no_rank_outlives_the_process_that_started_it(tmp_path, ended_by):
    (tmp_path / "pids").mkdir()
    (tmp_path / "main.py").write_text(STARTED.format(folder=str(tmp_path / "pids")))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    parent = subprocess.Popen([sys.executable, tmp_path / "main.py"], stderr=subprocess.PIPE, env=environment,
                              preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # a background job ignores it
    assert _within(60, lambda: len([*(tmp_path / "pids").iterdir()]) == 2)
    pids = [int(path.name) for path in (tmp_path / "pids").iterdir()]
    parent.send_signal(ended_by)
    parent.communicate(timeout=30)
    assert _within(30, lambda: not any(map(_lives, pids)))


def _lives(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def _within(seconds: float, holds) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
