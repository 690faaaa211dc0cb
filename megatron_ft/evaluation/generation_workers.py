"""Several devices: one process each with the whole model; batches are handed out one by one, so that no device idles.

The parent alone writes what comes back. A worker that dies is named with its device; whatever ends the parent, be it a
signal that nobody can catch, ends the workers.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import TracebackType

import psutil

from megatron_ft import cli, log
from megatron_ft.errors import EvaluationError, MegatronFTError
from megatron_ft.evaluation import model_folder
from megatron_ft.evaluation.batching import Completion, Row, Sampling, Wrote, batches

START = "spawn"  # a fork would take over a CUDA context and threads that hold locks
READY, WROTE, ANSWER, OVER = "ready", "wrote", "answer", "over"
TOLD_AFTER_TOKENS = 64  # a worker's tokens are told in portions
DEATH_S = 10
LOST = (EOFError, OSError)  # how a pipe says that who held its other end is gone, perhaps in the middle of a message


@dataclass
class Worker:
    """One process and what it is busy with."""

    process: BaseProcess
    pipe: Connection
    device: str
    batch: Sequence[Row] = ()


class Workers:
    """Processes that answer batches with a model on their devices; in a `with` block, after which none is left."""

    def __init__(self, model: str, devices: Sequence[str], *, dtype: str, batch_size: int, batch_tokens: int) -> None:
        self.outline = model_folder.outline(model)
        self._model, self._devices, self._dtype = model, list(devices), dtype
        self._batch_size, self._batch_tokens = batch_size, batch_tokens
        self._workers: list[Worker] = []
        self.described = ""
        """What each of them has loaded."""

    def __enter__(self) -> Workers:
        try:
            # Weights pass through the memory on their way to a device; where it does not hold all copies, some wait.
            at_once = max(1, psutil.virtual_memory().available // max(1, model_folder.weights_bytes(self._model)))
            for number in range(len(self._devices)):
                if number >= at_once:
                    self._await_ready(self._workers[number - at_once])
                self._workers.append(self._start(number))
            for worker in self._workers[-at_once:]:
                self._await_ready(worker)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end()

    @property
    def pids(self) -> list[int]:
        """Of the processes."""
        return [worker.process.pid for worker in self._workers]

    def answers(self, rows: Sequence[Row], sampling: Sampling, wrote: Wrote) -> Iterator[tuple[Row, Completion]]:
        """Every row with its completion, as soon as it is over; what others have finished comes before an error."""
        share = -(-len(rows) // len(self._workers))  # fewer in a batch than fit, where a device would get none otherwise
        waiting = batches(rows, min(self._batch_size, share), self._batch_tokens)
        try:
            for worker in self._workers:
                self._hand_out(worker, waiting, sampling)
            while busy := [worker for worker in self._workers if worker.batch]:
                ready = wait([worker.pipe for worker in busy])
                for worker in busy:
                    if worker.pipe in ready:
                        kind, *content = self._message(worker)
                        if kind == OVER:
                            self._hand_out(worker, waiting, sampling)
                        elif kind == WROTE:
                            wrote(*content)
                        else:
                            place, completion = content
                            yield worker.batch[place], completion
        except MegatronFTError:
            yield from self._last_answers()
            raise

    def _start(self, number: int) -> Worker:
        context = multiprocessing.get_context(START)
        mine, other = context.Pipe()
        threads = max(1, cli.cores() // len(self._devices))
        process = context.Process(target=_work, args=(other, self._model, self._devices[number], self._dtype, threads),
                                  name=f"generation-{number}", daemon=True)
        # Ctrl-C reaches every process of a terminal; the parent alone answers it. A blocked signal stays blocked in a child.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        other.close()  # so that the pipe ends when the worker does
        return Worker(process, mine, self._devices[number])

    def _await_ready(self, worker: Worker) -> None:
        _, self.described = self._message(worker)

    def _hand_out(self, worker: Worker, waiting: Iterator[list[Row]], sampling: Sampling) -> None:
        worker.batch = next(waiting, [])
        if worker.batch:
            try:
                worker.pipe.send((worker.batch, sampling))
            except LOST as error:
                raise self._lost(worker) from error

    def _message(self, worker: Worker) -> tuple:
        """What a worker says next; its own error where it had one, EvaluationError if it is gone."""
        try:
            said = worker.pipe.recv()
        except LOST as error:
            raise self._lost(worker) from error
        if isinstance(said, MegatronFTError):
            worker.batch = ()
            raise said
        return said

    def _lost(self, worker: Worker) -> EvaluationError:
        worker.batch = ()
        worker.process.join(DEATH_S)  # its end of the pipe is closed, so it is on its way
        worker.process.kill()
        worker.process.join()
        code = worker.process.exitcode
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return EvaluationError(f"--devices: the process that generated on {worker.device} (pid {worker.process.pid}) {how}; "
                               "what it had to say is above. If the kernel killed it for memory (see `dmesg`), use fewer "
                               "--devices or a lower --batch-tokens")

    def _last_answers(self) -> Iterator[tuple[Row, Completion]]:
        """What the others have sent by now."""
        for worker in self._workers:
            with contextlib.suppress(MegatronFTError):
                while worker.batch and worker.pipe.poll():
                    kind, *content = self._message(worker)
                    if kind == OVER:
                        break
                    if kind != WROTE:
                        yield worker.batch[content[0]], content[1]

    def _end(self) -> None:
        """They hold nothing that is not here already, so they are ended without being asked."""
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.join()
            worker.process.close()
            worker.pipe.close()
        self._workers = []


def _work(pipe: Connection, model: str, device: str, dtype: str, threads: int) -> None:
    """What a worker does: loads the model, then answers batch after batch."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import torch

    from megatron_ft.evaluation.completing import complete

    log.get()
    torch.set_num_threads(threads)
    try:
        loaded = model_folder.load(model, device=device, dtype=dtype)
        pipe.send((READY, loaded.described))
        tokens = 0

        def wrote(count: int) -> None:
            nonlocal tokens
            tokens += count
            if tokens >= TOLD_AFTER_TOKENS:
                pipe.send((WROTE, tokens))
                tokens = 0

        while True:
            rows, sampling = pipe.recv()
            for place, completion in complete(loaded, rows, sampling, wrote):
                pipe.send((ANSWER, place, completion))
            pipe.send((OVER,))
    except MegatronFTError as error:
        pipe.send(error)
    except (EOFError, BrokenPipeError):
        pass  # the parent is gone, and nobody is left to tell


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
