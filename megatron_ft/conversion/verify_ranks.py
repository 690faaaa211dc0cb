"""Runs a function in several processes of this machine that meet over loopback; the end of one is the end of all."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing import connection
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from megatron_ft import log
from megatron_ft.errors import MegatronFTError
from megatron_ft.runtime import dead_rank, rendezvous
from megatron_ft.runtime.device import Process

T = TypeVar("T")
ECHO_S = 5.0  # after an error that may only be another rank's end, so long for that rank to say its own


class RankError(Exception):
    """A process that failed by no fault of the user's, with its own words."""


@dataclasses.dataclass(frozen=True)
class _Failure:
    text: str
    error: MegatronFTError | None
    """What a user can cause, as it was raised."""
    echo: bool
    """Whether it can be how a collective shows that another process is gone."""


def run(function: Callable[..., T], size: int, *arguments: Any) -> T:
    """What `function(process, *arguments)` returns on rank 0 of `size` new processes.

    A MegatronFTError of any of them is raised here as it is, anything else as RankError; then, and after Ctrl-C, none of
    them is left. Should this process be killed, they end by themselves.

    Args:
        function: of a module, since the new processes import it by name.
    """
    context, port = multiprocessing.get_context("spawn"), rendezvous.free_port()
    started, ears = [], {}
    try:
        for rank in range(size):
            ear, mouth = context.Pipe(duplex=False)
            place = Process(rank, size, rank, size, "127.0.0.1", port)
            started.append(context.Process(target=_rank, args=(function, place, arguments, mouth), name=f"rank {rank}"))
            started[-1].start()
            mouth.close()  # else the death of the process would not be heard here
            ears[ear] = rank
        return _listen(ears, started)[0]
    finally:
        for process in started:
            process.kill()
            process.join()


def _listen(ears: dict[Connection, int], started: list[Any]) -> dict[int, Any]:
    """What each rank returned; raises for the first failure that is no echo of another one."""
    results: dict[int, Any] = {}
    echo: tuple[int, _Failure] | None = None
    patient = float("inf")
    while ears:
        wait_s = None if echo is None else max(0.0, patient - time.monotonic())
        ready = connection.wait([*ears], wait_s)
        for ear in ready:
            rank = ears.pop(ear)
            try:
                outcome = ear.recv()
            except EOFError:
                started[rank].join()
                outcome = _Failure(_death(started[rank].exitcode), None, echo=False)
            if not isinstance(outcome, _Failure):
                results[rank] = outcome
            elif not outcome.echo:
                _raise(rank, len(started), outcome)
            elif echo is None:
                echo, patient = (rank, outcome), time.monotonic() + ECHO_S
        if not ready:
            break
    if echo is not None:
        _raise(echo[0], len(started), echo[1])
    return results


def _raise(rank: int, size: int, failure: _Failure) -> None:
    if failure.error is not None:
        raise failure.error
    raise RankError(f"rank {rank} of {size} {failure.text}")


def _death(code: int) -> str:
    """
    >>> _death(-9), _death(3)
    ('was killed by SIGKILL; if that was the kernel, memory ran out (dmesg says so)', 'ended with exit code 3')
    """
    if code >= 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name
    return f"was killed by {name}{'; if that was the kernel, memory ran out (dmesg says so)' if name == 'SIGKILL' else ''}"


def _rank(function: Callable[..., Any], process: Process, arguments: tuple[Any, ...], mouth: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started this one ends it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    log.setup(rank=process.rank)
    try:
        outcome = function(process, *arguments)
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is raised again where the ranks were started
        known = error if isinstance(error, MegatronFTError) else None
        outcome = _Failure(f"failed:\n{traceback.format_exc()}", known, echo=dead_rank.is_echo(error))
    mouth.send(outcome)
    mouth.close()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
