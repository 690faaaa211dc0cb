"""One rank without torch, for the tests of the watch over ranks: `python -m tests.training.watched RANK SIZE FOLDER DEED`.

What stands in the main thread for training is the deed; `hang` sleeps in C, as a collective does.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path

from megatron_ft import cli
from megatron_ft.errors import TrainingError
from megatron_ft.runtime import dead_rank, hub

ECHO = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:4242"


class FolderStore:
    """Stands for torch's store: a key is a file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def set(self, key: str, value: str) -> None:
        (self._folder / key.replace("/", ".")).with_suffix(".new").write_text(value)
        (self._folder / key.replace("/", ".")).with_suffix(".new").rename(self._folder / key.replace("/", "."))

    def get(self, key: str) -> str:
        while not (self._folder / key.replace("/", ".")).exists():
            time.sleep(0.01)
        return (self._folder / key.replace("/", ".")).read_text()


def error() -> None:
    """An error that a user can cause."""
    raise TrainingError("step 7: the loss is nan")


def late_error() -> None:
    """The same, a second later."""
    time.sleep(1.0)
    error()


def bug() -> None:
    """An error that takes a traceback."""
    print(1 // 0)


def echo() -> None:
    """What a rank sees of another's end."""
    raise RuntimeError(ECHO)


def kill() -> None:
    """The end that the out-of-memory killer gives."""
    os.kill(os.getpid(), signal.SIGKILL)


def hang() -> None:
    """A collective that nobody else enters."""
    time.sleep(60)


def hold() -> None:
    """Hold the interpreter's lock, so that no thread of this process runs."""
    ctypes.PyDLL(None).sleep(3)


def end() -> None:
    """Train to the end, as long as `hold` takes."""
    time.sleep(4)


def go() -> None:
    """End at once."""


def cut() -> None:
    """Cut the network of this network namespace, and with it the connection to rank 1."""
    while not Path(sys.argv[3], "in_1").exists():
        time.sleep(0.01)
    subprocess.run(["ip", "link", "set", "lo", "down"], check=True)
    time.sleep(60)


def main() -> None:
    """Do the deed under the watch."""
    rank, size, folder, deed = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
    deeds: dict[str, Callable[[], None]] = {known.__name__: known for known in (error, late_error, bug, echo, kill, hang, hold,
                                                                                end, go, cut)}
    hub.ECHO_S = 2.0
    place = types.SimpleNamespace(rank=rank, size=size, store=FolderStore(folder))
    with dead_rank.watch(place, address="127.0.0.1", silence_s=1.0, timeout_s=60, folder=folder / "errors",
                         note=lambda *end: (folder / f"note_{rank}").write_text(json.dumps(end))):
        (folder / f"in_{rank}").touch()
        deeds[deed]()


if __name__ == "__main__":
    cli.main(main)
