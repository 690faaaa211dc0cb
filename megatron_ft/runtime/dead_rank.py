"""Ends a run on all ranks when one of them dies, with that rank's own error first. Torch-free.

Each rank keeps one connection to the hub in rank 0's process (`hub.py` says why that is better than heartbeats). A thread
waits for the hub's verdict and ends the process with `os._exit`, since the main thread may be stuck in a collective that
nobody else will ever enter. Of the ranks' errors one is printed in full: that of the rank that failed first by itself.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import multiprocessing
import os
import secrets
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from megatron_ft import cli
from megatron_ft.errors import TrainingError
from megatron_ft.runtime import hub
from megatron_ft.runtime.hub import Hub

if TYPE_CHECKING:
    from megatron_ft.runtime.groups import Place

STORE_KEY = "megatron_ft/hub"
VERDICT_S = hub.ECHO_S + hub.CULPRIT_S + 10.0  # a rank that has failed waits this long to hear whether it was the first
ECHO_TYPES = {"DistError", "DistBackendError", "DistNetworkError", "DistStoreError", "DistQueueEmptyError"}
ECHO_WORDS = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer", "Broken pipe")
Note = Callable[[str, int, int], None]


def _nothing(error: str, exit_code: int, rank: int) -> None:
    """A note that is not taken."""


@contextlib.contextmanager
def watch(place: Place, *, address: str, silence_s: float, timeout_s: float, folder: Path,
          note: Note = _nothing) -> Iterator[None]:
    """Within it the end of one rank is the end of all: this process leaves by `os._exit`, also out of a collective.

    An exception is printed once, by the rank that had it first, with exit code 2 for what a user can cause and else 1;
    it is written with its traceback to rank_N.txt of `folder` on every rank that had one. The other ranks say in one line
    which rank it was, and end with 1. Errors of collectives count last: they are what the end of another rank looks like.

    Args:
        address: of the machine of rank 0, as the others reach it.
        silence_s: a machine that does not answer for so long counts as dead; 0: nothing is watched.
        timeout_s: how long to wait for all ranks to enter.
        note: is told how it ended before this process ends: the error in words, the exit code of the rank that had it, its
            number.
    """
    if place.size == 1 or silence_s == 0:
        yield
        return
    member = _join(place, address, silence_s=silence_s, timeout_s=timeout_s, folder=folder, note=note)
    try:
        yield
    except BaseException as error:  # noqa: BLE001 - whatever ends this rank ends the run
        member.fail(error)
    member.leave()


class Member:
    """This rank's connection to the hub, and the thread that waits for the hub's verdict."""

    def __init__(self, rank: int, *, first: tuple[str, int], silence_s: float, folder: Path,
                 hub_thread: Hub | None = None, note: Note = _nothing) -> None:
        """
        Args:
            first: host and process id of rank 0.
        """
        self._first_host, self._first = first[0], hub.name(0, *first)
        self._rank, self._silence_s, self._folder, self._hub = rank, silence_s, folder, hub_thread
        self._host, self._pid = socket.gethostname(), os.getpid()
        self._welcome, self._mine = threading.Event(), threading.Event()
        self._leaving = False
        self._hint, self._note = "", note

    @property
    def who(self) -> str:
        """This rank as errors name it."""
        return hub.name(self._rank, self._host, self._pid)

    def join(self, address: str, port: int, token: str, *, timeout_s: float) -> None:
        """Connect to the hub and wait until all ranks have; TrainingError when that takes longer than `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        self._connection = self._hub.here if self._hub is not None else self._connect(address, port, timeout_s)
        hub.send(self._connection, {"token": token, "rank": self._rank, "host": self._host, "pid": self._pid})
        threading.Thread(target=self._listen, name="dead-rank", daemon=True).start()
        if not self._welcome.wait(max(0.0, deadline - time.monotonic())):
            raise TrainingError(f"{self.who} has waited {timeout_s:g} s for all other ranks to start; look for the rank that "
                                "has printed nothing")

    def _connect(self, address: str, port: int, timeout_s: float) -> socket.socket:
        try:
            connection = socket.create_connection((address, port), timeout=timeout_s)
        except OSError as error:
            raise TrainingError(f"{self.who} cannot connect to {address}:{port}, where rank 0 watches over all ranks: {error}; "
                                "let the machines of a job reach each other, or set runtime.dead_rank_seconds=0") from error
        connection.settimeout(None)
        hub.watch_connection(connection, self._silence_s)
        return connection

    def leave(self) -> None:
        """The run is over on this rank, and all is well."""
        self._leaving = True
        hub.send(self._connection, {"left": True})
        if self._hub is not None:
            self._hub.join(hub.LINGER_S)
        self._connection.close()

    def fail(self, error: BaseException) -> NoReturn:
        """Tell the others, print the error if this rank was the first, and end the process; within `except`."""
        code, line = cli.outcome(error)
        self._write(traceback.format_exc())
        hub.send(self._connection, {"failed": summary(error), "code": code, "echo": is_echo(error)})
        self._mine.wait(VERDICT_S)
        self._note(summary(error), code, self._rank)
        text = f"error: {self.who}: {line or summary(error)}{self._hint}\n"
        self._say(text if line else text + traceback.format_exc())
        _record_for_torchrun(summary(error), traceback.format_exc())
        self._end(code)

    def _listen(self) -> None:
        try:
            with self._connection.makefile("rb") as lines:
                for line in lines:
                    message = json.loads(line)
                    if "verdict" in message:
                        return self._obey(**message["verdict"])
                    if "over" in message:
                        self._mine.set()
                        return None
                    self._welcome.set()
            lost = hub.killed(self._first_host)
        except OSError as error:
            lost = hub.killed(self._first_host) if error.errno in hub.ENDED else hub.silent(self._silence_s)
        if not self._leaving:
            self._obey(rank=0, who=self._first, what=lost, code=cli.EXIT_FAILED)
        return None

    def _obey(self, *, rank: int, who: str, what: str, code: int, hint: str = "") -> None:
        if rank == self._rank:
            self._hint = hint
            self._mine.set()  # the main thread waits for it in fail()
            return
        line = f"error: {self.who} ended because {who} {what}{hint}\n"
        if self._rank == 0:
            self._write(line)  # of a rank that was killed this is all that there is
        self._say(line)
        self._note(f"{who} {what}{hint}", code, rank)
        _record_for_torchrun(line, line, delay_s=1)
        self._end(code if code == cli.EXIT_INTERRUPTED else cli.EXIT_FAILED)

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            with open(self._folder / f"rank_{self._rank}.txt", "a", encoding="utf-8") as stream:
                stream.write(f"{datetime.datetime.now():%Y-%m-%d %H:%M:%S} {self.who}\n{text}\n")

    def _say(self, text: str) -> None:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        if sys.stderr.isatty():
            text = "\n" + text  # below a progress bar
        with contextlib.suppress(OSError):
            os.write(2, text.encode())

    def _end(self, code: int) -> NoReturn:
        for child in multiprocessing.active_children():  # writers of a checkpoint that cannot become whole any more
            child.kill()
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        if self._hub is not None:
            self._hub.join(hub.CULPRIT_S + hub.LINGER_S)
        os._exit(code)


def _join(place: Place, address: str, *, silence_s: float, timeout_s: float, folder: Path, note: Note) -> Member:
    thread = None
    if place.rank == 0:
        token = secrets.token_hex(16)
        thread = Hub(place.size, token=token, silence_s=silence_s)
        thread.start()
        mine = socket.gethostname(), os.getpid()
        place.store.set(STORE_KEY, json.dumps([mine, _address_towards(address), thread.port, token]))
    first, address, port, token = json.loads(place.store.get(STORE_KEY))
    member = Member(place.rank, first=tuple(first), silence_s=silence_s, folder=folder, hub_thread=thread,
                    note=note)
    member.join(address, port, token, timeout_s=timeout_s)
    return member


def _address_towards(address: str) -> str:
    """This machine's address in the network in which `address` is; that itself where it is a name of this machine."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((address, 9))  # sends nothing
        own = probe.getsockname()[0]
        if not own.startswith("127."):
            return own
    return address


def summary(error: BaseException) -> str:
    """Type and first line of an error.

    >>> summary(ValueError("no such thing\\nand more"))
    'ValueError: no such thing'
    """
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:1000]}" if lines else type(error).__name__


def is_echo(error: BaseException | None) -> bool:
    """Whether an error, or one that it came from, can be how a collective or store shows that another rank is gone.

    >>> is_echo(RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer"))
    True
    >>> is_echo(RuntimeError("CUDA out of memory")), is_echo(KeyError("gloo"))
    (False, False)
    """
    while error is not None:
        if type(error).__name__ in ECHO_TYPES:
            return True
        if isinstance(error, RuntimeError) and any(word in str(error) for word in ECHO_WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False


def _record_for_torchrun(text: str, traceback_text: str, *, delay_s: int = 0) -> None:
    """Leave an error where torchrun looks for it: its own summary calls the earliest one, in whole seconds, the root cause."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path:
        details = {"py_callstack": traceback_text, "timestamp": str(int(time.time()) + delay_s)}
        with contextlib.suppress(OSError):
            Path(path).write_text(json.dumps({"message": {"message": text, "extraInfo": details}}), encoding="utf-8")
