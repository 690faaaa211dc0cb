"""A function over chunks, by several processes, with the results in the order of the chunks."""

from __future__ import annotations

import collections
import concurrent.futures
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from megatron_ft.errors import ConfigError, DataError

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 3  # items per process: enough to keep it busy, few enough to keep memory flat


def ordered_map(function: Callable[[Item], Result], items: Iterable[Item], *, workers: int = 1, fork: bool = False,
                initializer: Callable[[], object] | None = None) -> Iterator[Result]:
    """`function` of every item, in order; at most a few items per process are in memory.

    Args:
        workers: processes; with 1 everything happens in this one.
        fork: let the processes begin as copies of this one, with what it has loaded. Only before any thread has started.
        initializer: what each process does first.
    """
    if workers == 1:
        if initializer:
            initializer()
        return map(function, items)
    context = multiprocessing.get_context("fork" if fork else "spawn")
    pool = concurrent.futures.ProcessPoolExecutor(workers, mp_context=context, initializer=_begin,
                                                  initargs=(os.getpid(), initializer))
    pool.submit(int).result()  # all processes begin here, before this one goes on to anything that starts threads
    return _in_order(pool, function, iter(items), workers)


def _in_order(pool: concurrent.futures.ProcessPoolExecutor, function: Callable[[Item], Result], items: Iterator[Item],
              workers: int) -> Iterator[Result]:
    pending: collections.deque[concurrent.futures.Future[Result]] = collections.deque()
    with pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) >= AHEAD * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except concurrent.futures.process.BrokenProcessPool as error:
            raise DataError(f"--workers: one of {workers} processes was killed, most often by the memory limit; "
                            "use fewer") from error
        finally:
            for future in pending:
                future.cancel()


def require_workers(workers: int) -> None:
    """ConfigError unless there is somebody to do the work."""
    if workers < 1:
        raise ConfigError(f"--workers: {workers} processes do nothing; use 1 or more")


def _begin(parent: int, initializer: Callable[[], object] | None) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one thread per process; read when a batch is first encoded
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent ends the work
    threading.Thread(target=_leave_with, args=(parent,), daemon=True).start()
    if initializer:
        initializer()


def _leave_with(parent: int) -> None:
    """End this process when its parent has gone; a killed parent cannot tell it to."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
