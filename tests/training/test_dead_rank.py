"""The end of one rank is the end of all, with its own error first; a rank that is only slow is let be.

Ranks here are processes without torch (`watched.py`); whole trainings are in test_ending.py.
"""

from __future__ import annotations

import json
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from megatron_ft.runtime import dead_rank
from megatron_ft.runtime.hub import Hub
from tests.training import watched

TIMEOUT_S = 60.0


def start(folder: Path, deeds: list[str], *, before: tuple[str, ...] = ()) -> list[subprocess.Popen]:
    """A rank for each deed that is named; all write to one file, as under srun."""
    with open(folder / "log", "ab") as log:
        return [subprocess.Popen([*before, sys.executable, "-m", "tests.training.watched", str(rank), str(len(deeds)),
                                  str(folder), deed], stderr=log, stdout=log) for rank, deed in enumerate(deeds) if deed]


def ended(folder: Path, ranks: list[subprocess.Popen]) -> tuple[list[int], list[str]]:
    """Exit codes by rank, and the lines of the log."""
    deadline = time.monotonic() + TIMEOUT_S
    try:
        codes = [rank.wait(max(0.1, deadline - time.monotonic())) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    return codes, (folder / "log").read_text().splitlines()


def run(folder: Path, *deeds: str) -> tuple[list[int], list[str]]:
    return ended(folder, start(folder, list(deeds)))


@pytest.mark.parametrize("culprit", [0, 2])
def test_an_error_is_printed_first_and_once_and_ends_the_others(tmp_path, culprit):
    deeds = ["hang", "hang", "hang"]
    deeds[culprit] = "error"
    codes, lines = run(tmp_path, *deeds)
    assert codes == [2 if rank == culprit else 1 for rank in range(3)]
    assert len(lines) == 3
    assert lines[0].startswith(f"error: rank {culprit} (host {socket.gethostname()}, pid ")
    assert lines[0].endswith("): TrainingError: step 7: the loss is nan")
    for line in lines[1:]:
        assert f" ended because rank {culprit} (host " in line
        assert line.endswith(") failed: TrainingError: step 7: the loss is nan")
    assert "in error\n" in (tmp_path / "errors" / f"rank_{culprit}.txt").read_text()
    for rank in range(3):
        said, code, first = json.loads((tmp_path / f"note_{rank}").read_text())
        assert said.endswith("TrainingError: step 7: the loss is nan") and (code, first) == (2, culprit)


def test_an_error_that_all_ranks_have_is_printed_once(tmp_path):
    codes, lines = run(tmp_path, "error", "error", "error")
    assert codes == [2, 2, 2] or sorted(codes) == [1, 1, 2] or sorted(codes) == [1, 2, 2]
    assert sum(line.endswith("): TrainingError: step 7: the loss is nan") for line in lines) == 1
    assert len(lines) == 3


def test_an_unforeseen_error_has_its_traceback_once(tmp_path):
    codes, lines = run(tmp_path, "hang", "bug")
    assert codes == [1, 1]
    assert lines[0].endswith("): ZeroDivisionError: integer division or modulo by zero")
    assert lines[1] == "Traceback (most recent call last):"
    assert lines[-1].endswith(") failed: ZeroDivisionError: integer division or modulo by zero")
    assert sum("Traceback" in line for line in lines) == 1


@pytest.mark.parametrize("culprit", [0, 1])
def test_a_rank_that_is_killed_is_missed_at_once(tmp_path, culprit):
    deeds = ["hang", "hang", "hang"]
    deeds[culprit] = "kill"
    codes, lines = run(tmp_path, *deeds)
    assert codes == [-signal.SIGKILL if rank == culprit else 1 for rank in range(3)]
    assert len(lines) == 2
    for line in lines:
        assert line.startswith("error: rank ") and f" ended because rank {culprit} (host {socket.gethostname()}, pid " in line
        assert "ended without an error of its own: it was probably killed (out of memory?" in line
    if culprit:
        assert "was probably killed" in (tmp_path / "errors" / "rank_0.txt").read_text()


@pytest.mark.parametrize("how", ["closed", "reset"])
def test_a_rank_0_that_is_killed_before_all_are_welcome_is_named(tmp_path, how):
    """This test stands for it: it takes rank 1's connection, hears its greeting and ends the connection without a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(TIMEOUT_S)
        watched.FolderStore(tmp_path).set(dead_rank.STORE_KEY, json.dumps([["far", 4711], *listener.getsockname(), "token"]))
        ranks = start(tmp_path, ["", "hang"])
        try:
            connection, _ = listener.accept()
            with connection:
                assert json.loads(connection.recv(1000))["rank"] == 1
                if how == "reset":
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        finally:
            codes, lines = ended(tmp_path, ranks)
    assert codes == [1] and len(lines) == 1
    assert lines[0].startswith(f"error: rank 1 (host {socket.gethostname()}, pid {ranks[0].pid}) ended because "
                               "rank 0 (host far, pid 4711) ended without an error of its own: it was probably killed")
    assert "see `dmesg` on far, " in lines[0]


def test_the_cause_is_told_and_not_its_echo_on_other_ranks(tmp_path):
    """The echo comes first, as it does when a rank that was hit has more to do before it fails."""
    codes, lines = run(tmp_path, "echo", "late_error", "echo")
    assert codes == [1, 2, 1]
    assert len(lines) == 3 and "Connection closed" not in "".join(lines)
    assert "rank 1 " in lines[0] and lines[0].endswith("TrainingError: step 7: the loss is nan")


def test_an_echo_without_a_cause_is_told_with_the_rank_that_has_none(tmp_path):
    codes, lines = run(tmp_path, "hang", "echo", "hang")
    assert codes == [1, 1, 1]
    assert "): RuntimeError: [/pytorch" in lines[0] and "rank 1 " in lines[0]
    assert "Connection closed by peer [127.0.0.1]:4242; no such error in rank 0, 2, which may hang" in lines[0]


def test_a_rank_that_is_slow_or_stopped_is_not_dead(tmp_path):
    """For three seconds, where a machine counts as dead after one."""
    ranks = start(tmp_path, ["end", "hold", "end"])
    deadline = time.monotonic() + TIMEOUT_S
    while not (tmp_path / "in_2").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    ranks[2].send_signal(signal.SIGSTOP)
    time.sleep(3)
    ranks[2].send_signal(signal.SIGCONT)
    assert ended(tmp_path, ranks) == ([0, 0, 0], [])


def test_a_run_that_ends_well_says_nothing_and_does_not_wait(tmp_path):
    started = time.monotonic()
    assert run(tmp_path, "go", "go", "go") == ([0, 0, 0], [])
    assert time.monotonic() - started < 30


def test_a_machine_that_does_not_answer_is_dead_after_the_time_set(tmp_path):
    """In a network namespace whose network goes down: the processes live, and no word passes any more."""
    inside = ["unshare", "--user", "--map-root-user", "--net"]
    if not shutil.which("ip") or subprocess.run([*inside, "ip", "link", "set", "lo", "up"], capture_output=True).returncode:
        pytest.skip("network namespaces cannot be made here")
    script = "ip link set lo up; $0 -m tests.training.watched 0 2 $1 cut & $0 -m tests.training.watched 1 2 $1 hang & wait"
    command = [*inside, "bash", "-c", script, sys.executable, str(tmp_path)]
    with open(tmp_path / "log", "wb") as log:
        subprocess.run(command, stderr=log, stdout=log, timeout=TIMEOUT_S)
    lines = sorted((tmp_path / "log").read_text().splitlines())
    assert len(lines) == 2
    for rank, line in enumerate(lines):
        assert line.startswith(f"error: rank {rank} (host ") and f" ended because rank {1 - rank} (host " in line
        assert line.endswith("has not been heard of for 1 s: its machine is off, or the network to it is cut")


def test_strangers_at_the_door_do_not_matter():
    hub = Hub(1, token="secret", silence_s=1.0)
    hub.start()
    other_run = b'{"token": "other", "rank": 0, "host": "h", "pid": 1}\n'
    for words in (b"GET / HTTP/1.1\r\n\r\n", other_run, b"x" * 200_000, b"[]\n", b""):
        with socket.create_connection(("127.0.0.1", hub.port), timeout=10) as stranger:
            try:
                stranger.sendall(words)
                if words:
                    assert stranger.recv(10) == b""
            except OSError:
                pass  # the hub closed it in the middle
    with hub.here as member:
        member.sendall(b'{"token": "secret", "rank": 0, "host": "h", "pid": 1}\n')
        assert member.recv(100) == b'{"welcome": true}\n'
        member.sendall(b'{"left": true}\n')
    hub.join(10)
    assert not hub.is_alive()


def test_a_limit_of_open_files_is_raised_or_named():
    code = ("import resource, sys; limit = int(sys.argv[1]); resource.setrlimit(resource.RLIMIT_NOFILE, (64, limit))\n"
            "from megatron_ft.runtime.hub import Hub; Hub(100, token='t', silence_s=1)\n"
            "print(resource.getrlimit(resource.RLIMIT_NOFILE))")
    raised, refused = (subprocess.run([sys.executable, "-c", code, limit], capture_output=True, text=True)
                       for limit in ("500", "400"))
    assert raised.stdout == "(456, 500)\n"
    assert "rank 0 may open 400 files (`ulimit -Hn`), but 100 ranks take 456; have it raised" in refused.stderr
