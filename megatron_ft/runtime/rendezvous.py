"""Where the processes of a run meet, and what is said when some do not come."""

from __future__ import annotations

import datetime
import socket
import time
from collections.abc import Callable

from torch.distributed import DistError, Store, TCPStore

from megatron_ft.errors import TrainingError
from megatron_ft.runtime.device import Process

CAME_KEY, OUTCOME_KEY = "megatron_ft/came", "megatron_ft/outcome"
POLL_S = (0.01, 1.0)  # the first pause between two looks, and the longest; one long wait would not hear Ctrl-C


def meet(process: Process, *, timeout_s: float) -> Store:
    """The run's key-value store, once all processes are there.

    Rank 0 holds it, or torchrun's own process where that started the run. TrainingError says how many processes came
    within `timeout_s` and which did not.
    """
    deadline = time.monotonic() + timeout_s
    where, first = f"{process.address}:{process.port}", process.rank == 0
    opens = first and not process.store_is_open
    if not opens:
        _wait_until_open(process, where, deadline, timeout_s)
    try:
        store = TCPStore(process.address, process.port, process.size, opens, datetime.timedelta(seconds=timeout_s),
                         wait_for_workers=False)
    except DistError as error:
        raise TrainingError(f"rendezvous: rank {process.rank} cannot {'open' if opens else 'reach'} {where}: "
                            f"{str(error).splitlines()[0]}; set MASTER_ADDR to the machine of rank 0 and MASTER_PORT to a "
                            "port that is free there") from error
    store.set(f"{CAME_KEY}/{process.rank}", "")
    store.add(CAME_KEY, 1)
    if first:
        outcome = _wait_for_all(store, process.size, where, deadline, timeout_s)
        store.set(OUTCOME_KEY, outcome)
        if outcome:
            time.sleep(2 * POLL_S[1])  # until the others have read it
    else:
        patient = deadline + 2 * POLL_S[1]  # rank 0 has more to say than that time is over
        if not _poll(lambda: store.check([OUTCOME_KEY]), patient):
            raise TrainingError(f"rendezvous at {where}: rank 0 did not come within {timeout_s:g} s (runtime.timeout_minutes); "
                                "look at what it printed")
        outcome = store.get(OUTCOME_KEY).decode()
    if outcome:
        raise TrainingError(outcome)
    return store


def _wait_for_all(store: Store, size: int, where: str, deadline: float, timeout_s: float) -> str:
    """Empty when all came in time, else what to tell everybody."""
    if _poll(lambda: store.add(CAME_KEY, 0) == size, deadline):
        return ""
    missing = [rank for rank in range(size) if not store.check([f"{CAME_KEY}/{rank}"])]
    return (f"rendezvous at {where}: {size - len(missing)} of {size} processes came within {timeout_s:g} s "
            f"(runtime.timeout_minutes), not rank {', '.join(map(str, missing))}; look at what those printed, and whether "
            "their machines reach that address")


def _wait_until_open(process: Process, where: str, deadline: float, timeout_s: float) -> None:
    # torch would wait too, but every unanswered try prints a C++ stack trace.
    def is_open() -> bool:
        try:
            socket.create_connection((process.address, process.port), timeout=5).close()
        except OSError as error:
            reasons.append(str(error))
            return False
        return True

    reasons: list[str] = []
    if not _poll(is_open, deadline):
        raise TrainingError(f"rendezvous: rank {process.rank} found nobody at {where} within {timeout_s:g} s "
                            f"(runtime.timeout_minutes): {reasons[-1]}. Rank 0 opens it: look at what it printed, and whether "
                            "MASTER_ADDR is its machine")


def _poll(holds: Callable[[], bool], deadline: float) -> bool:
    pause = POLL_S[0]
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
        pause = min(2 * pause, POLL_S[1])
    return True


def free_port() -> int:
    """A TCP port of this machine that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
