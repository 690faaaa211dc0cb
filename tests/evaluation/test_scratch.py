"""Folders that the next process removes where the one that made them was killed, and at no other time."""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_ft.evaluation import scratch
from megatron_ft.evaluation.scratch import Scratch

ROOT = Path(__file__).parents[2]
MAKES_ONE = ("import sys\nfrom pathlib import Path\nfrom megatron_ft.evaluation.scratch import Scratch\n"
             "made = Scratch('kind', Path(sys.argv[1]))\n(made.path / 'in it').write_text('much')\n"
             "(made.path / 'deeper').mkdir()\nprint(made.path, flush=True)\n")


def maker(place: Path, *then: str) -> subprocess.Popen:
    """A process that has made a folder; its name is what it says."""
    return subprocess.Popen([sys.executable, "-c", MAKES_ONE + "\n".join(then), str(place)], cwd=ROOT, stdout=subprocess.PIPE,
                            stdin=subprocess.PIPE, text=True)


def made_by(process: subprocess.Popen) -> Path:
    return Path(process.stdout.readline().strip())


def test_it_goes_when_it_is_closed_or_forgotten_and_with_its_process(tmp_path: Path) -> None:
    closed, forgotten = Scratch("kind", tmp_path), Scratch("kind", tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    closed.close()
    assert list(tmp_path.iterdir()) == [forgotten.path]
    del forgotten, closed
    gc.collect()
    assert not list(tmp_path.iterdir())
    assert not any(os.path.realpath(each).startswith(str(tmp_path)) for each in Path("/proc/self/fd").iterdir())
    process = maker(tmp_path)
    made = made_by(process)
    assert made.parent == tmp_path
    assert process.wait() == 0
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_left_is_removed_by_the_next_of_its_kind_and_machine(tmp_path: Path) -> None:
    killed, living = maker(tmp_path, "input()"), maker(tmp_path, "input()")
    left, stays = made_by(killed), made_by(living)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert {left, stays} == set(tmp_path.iterdir())
    others = [tmp_path / f"other-{platform.node()}-x", tmp_path / "kind-elsewhere-x"]
    for other in others:
        other.mkdir()
    (tmp_path / f"kind-{platform.node()}-file").write_text("no folder")
    (tmp_path / f"kind-{platform.node()}-link").symlink_to(others[0])
    mine = Scratch("kind", tmp_path)
    assert not left.exists()
    assert (stays / "in it").read_text() == "much"
    assert mine.path.is_dir()
    assert all(other.is_dir() for other in others)
    living.communicate("\n")
    assert living.returncode == 0
    assert not stays.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a folder of another user")
def test_what_is_another_users_stays(tmp_path: Path) -> None:
    theirs = tmp_path / f"kind-{platform.node()}-theirs"
    theirs.mkdir()
    os.chown(theirs, 1234, 1234)
    Scratch("kind", tmp_path)
    assert theirs.is_dir()


@pytest.mark.parametrize("moment", ["before it is opened", "before it is locked"])
def test_one_that_another_process_takes_for_left_is_made_again(moment: str, tmp_path: Path,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    removed: list[Path] = []

    def take_away() -> None:
        if not removed:
            removed.extend(tmp_path.iterdir())
            removed[0].rmdir()

    if moment == "before it is opened":
        opened = os.open
        monkeypatch.setattr(scratch.os, "open", lambda *arguments: (take_away(), opened(*arguments))[1])
    else:
        locked = fcntl.flock
        monkeypatch.setattr(scratch.fcntl, "flock", lambda *arguments: (take_away(), locked(*arguments))[1])
    made = Scratch("kind", tmp_path)
    assert len(removed) == 1
    assert removed[0] != made.path
    assert list(tmp_path.iterdir()) == [made.path]


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EBADF, errno.ENOLCK])
def test_where_there_are_no_locks_nothing_is_removed(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(scratch.fcntl, "flock", flock)
    first = Scratch("kind", tmp_path)
    second = Scratch("kind", tmp_path)
    assert first.path.is_dir()
    assert second.path.is_dir()
    first.close()
    assert not first.path.exists()


def test_another_fault_of_a_lock_is_no_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: int) -> None:
        raise OSError(errno.EIO, "broken disk")

    monkeypatch.setattr(scratch.fcntl, "flock", flock)
    with pytest.raises(OSError, match="broken disk"):
        Scratch("kind", tmp_path)
