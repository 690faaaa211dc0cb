"""One lock for every output that is written by one process at a time."""

import errno
import fcntl
import subprocess

import pytest

from megatron_ft import cli
from megatron_ft.errors import ConfigError


def test_an_output_is_held_by_one_process_at_a_time(tmp_path):
    with open(tmp_path / "lock", "w") as first, open(tmp_path / "lock", "w") as second:
        cli.hold(first, tmp_path / "out")
        with pytest.raises(ConfigError, match="--output: another process is writing .*/out; wait for it, or name another path"):
            cli.hold(second, tmp_path / "out")


def test_the_workers_of_a_killed_process_are_waited_for(tmp_path):
    """They share its lock, and end a moment after it: who submits the same again must not find it taken."""
    with open(tmp_path / "lock", "w") as first, open(tmp_path / "lock", "w") as second:
        cli.hold(first, tmp_path / "out")
        worker = subprocess.Popen(["sleep", "1"], pass_fds=[first.fileno()])
        first.close()
        with pytest.raises(BlockingIOError):
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        cli.hold(second, tmp_path / "out")
        assert worker.wait() == 0


@pytest.mark.parametrize("code", sorted(cli.WITHOUT_LOCKS), ids=errno.errorcode.get)
def test_a_file_system_without_locks_holds_nothing_and_stops_nothing(tmp_path, monkeypatch, code):
    monkeypatch.setattr(fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(code, "no locks")))
    with open(tmp_path / "lock", "w") as lock:
        cli.hold(lock, tmp_path / "out")


def test_any_other_error_of_a_lock_is_raised(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "broken")))
    with open(tmp_path / "lock", "w") as lock, pytest.raises(OSError, match="broken"):
        cli.hold(lock, tmp_path / "out")
