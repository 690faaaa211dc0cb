"""A pool of worker processes that stay up over a whole test run: each task runs on the first n of them over gloo.

A task is a function of a module, named "module:function", called as function(process, **arguments) on every worker;
`run` gives the list of what they returned, by rank.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import multiprocessing
import os
import queue
import sys
import traceback
from typing import Any

import psutil

TASK_TIMEOUT_S = 300.0


class Pool:
    """Workers are started at the first task that needs them and stopped by `close`."""

    def __init__(self, workers: int = 4, *, preload: list[str] | None = None) -> None:
        """
        Args:
            preload: modules that one process imports and the workers are forked from, for pools of many.
        """
        self._context = multiprocessing.get_context("forkserver" if preload else "spawn")
        if preload:
            self._context.set_forkserver_preload(preload)
        self._wanted = workers
        self._workers: list[tuple[Any, Any, Any]] = []

    def run(self, size: int, task: str, **arguments: Any) -> list[Any]:
        """What `task` returned on ranks 0..size-1; a failing rank raises here, with its traceback."""
        from megatron_ft.runtime.groups import free_port

        if not self._workers:
            self._workers = [self._start() for _ in range(self._wanted)]
        port = free_port()
        for rank, (_, inbox, _) in enumerate(self._workers[:size]):
            inbox.put((rank, size, port, task, arguments))
        results = []
        for rank, (_, _, outbox) in enumerate(self._workers[:size]):
            try:
                failed, result = outbox.get(timeout=TASK_TIMEOUT_S)
            except queue.Empty:
                self.close()
                raise AssertionError(f"{task}: rank {rank} of {size} gave no answer in {TASK_TIMEOUT_S:.0f} s") from None
            if failed:
                self.close()  # the others may wait in a collective for ever
                kind, text = result
                raise TaskError(kind, f"rank {rank} of {size}, {task}:\n{text}")
            results.append(result)
        return results

    def close(self) -> None:
        """End the workers that this pool has started."""
        for worker, _, _ in self._workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                for helper in psutil.Process(worker.pid).children(recursive=True):  # a save starts one that outlives it
                    helper.kill()
            worker.kill()
            worker.join()
        self._workers = []

    def _start(self) -> tuple[Any, Any, Any]:
        inbox, outbox = self._context.Queue(), self._context.Queue()
        # Not daemonic: saving a checkpoint starts processes of its own, which daemons may not.
        worker = self._context.Process(target=_work, args=(inbox, outbox, os.getpid()))
        worker.start()
        return worker, inbox, outbox


class TaskError(Exception):
    """An exception of a worker: `kind` is its class name."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


def _work(inbox: Any, outbox: Any, parent: int) -> None:
    while True:
        try:
            rank, size, port, task, arguments = inbox.get(timeout=5)
        except queue.Empty:
            if not psutil.pid_exists(parent):
                return
            continue
        try:
            outbox.put((False, _call(rank, size, port, task, arguments)))
        except BaseException as error:  # noqa: BLE001 - it is passed on to the test
            outbox.put((True, (type(error).__name__, traceback.format_exc())))
        release()


def release() -> None:
    """Free the models that nothing needs any more, and with them process groups and their ever-busy threads.

    To be called in a worker after each run.
    """
    core = sys.modules.get("megatron.core.distributed")
    if core:
        from megatron_ft.training import step

        step.release([each for each in gc.get_objects() if type(each) is core.DistributedDataParallel])
    gc.collect()
    if not gc.get_freeze_count():
        gc.freeze()  # modules stay: a million objects that the next collection need not look at


def _call(rank: int, size: int, port: int, task: str, arguments: dict[str, Any]) -> Any:
    from megatron_ft import log
    from megatron_ft.config import Runtime
    from megatron_ft.runtime import device

    process = device.Process(rank, size, rank, size, "127.0.0.1", port)
    log.setup(rank=rank, level="WARNING")
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        device.prepare(Runtime(device="cpu", threads=1), process)
        module, function = task.split(":")
        return getattr(importlib.import_module(module), function)(process, **arguments)
