"""A compiler that stays: one source after another over a pair of pipes, in a box of its own."""

from __future__ import annotations

import contextlib
import os
import selectors
import struct
import threading
import time

from megatron_ft.errors import EvaluationError
from megatron_ft.evaluation.box import Box
from megatron_ft.evaluation.case import MEMORY_SHORT, STARTS
from megatron_ft.evaluation.sandbox import Sandbox
from megatron_ft.evaluation.supervise import KILLED, started

READ_BYTES = 2**16


class GoneError(Exception):
    """The compiler is not there any more."""


class Compiler:
    """One compiler process; what it compiles is a message, what it says of it the answer."""

    def __init__(self, sandbox: Sandbox, box: Box, script: str) -> None:
        self._wall_s = box.limits.wall_s
        self._answer_bytes = box.limits.file_bytes
        with contextlib.ExitStack() as stack:
            theirs_in, self._requests = os.pipe()
            self._answers, theirs_out = os.pipe()
            stack.callback(lambda: (os.close(self._requests), os.close(self._answers)))
            try:
                argv = ["/bin/sh", "-c", script, "sh", str(theirs_in), str(theirs_out)]
                self._running = stack.enter_context(started(sandbox, box, argv, keep=(theirs_in, theirs_out)))
            finally:
                os.close(theirs_in)
                os.close(theirs_out)
            self._stack = stack.pop_all()

    def compile(self, source: bytes) -> bytes:
        """The answer to a source; GoneError if the compiler ended, TimeoutError if it took longer than its box's wall_s."""
        deadline = time.monotonic() + self._wall_s
        try:
            message = memoryview(struct.pack(">i", len(source)) + source)
            while message:
                message = message[os.write(self._requests, message):]
        except BrokenPipeError:
            raise GoneError from None
        size, = struct.unpack(">i", self._read(4, deadline))
        if not 0 < size <= self._answer_bytes:
            raise GoneError(f"it answered with {size} bytes")
        return self._read(size, deadline)

    def was_killed(self) -> bool:
        """Of one that is gone, whether it was killed from outside."""
        return self._running.status(within_s=5) in KILLED

    def close(self) -> None:
        """End it."""
        self._stack.close()

    @property
    def said(self) -> str:
        """What a closed one wrote besides its answers."""
        return self._running.said

    def _read(self, count: int, deadline: float) -> bytes:
        data = bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(self._answers, selectors.EVENT_READ)
            while len(data) < count:
                if not selector.select(max(deadline - time.monotonic(), 0)):
                    raise TimeoutError
                part = os.read(self._answers, min(count - len(data), READ_BYTES))
                if not part:
                    raise GoneError
                data += part
        return bytes(data)


class Compilers:
    """As many compilers of one kind as are used at the same time; each source gets one that is idle, or a new one."""

    def __init__(self, sandbox: Sandbox, box: Box, script: str) -> None:
        self._made_of = (sandbox, box, script)
        self._idle: list[Compiler] = []
        self._lock = threading.Lock()

    def compile(self, source: bytes) -> bytes | None:
        """The answer to a source, None if it ended the compiler; TimeoutError as above.

        One that is gone may have died long ago (its box dies with the thread that started it), so new ones try again. Where
        they are killed from outside, or end at any source, none of it is the program's doing: EvaluationError.
        """
        with self._lock:
            compiler = self._idle.pop() if self._idle else None
        for _ in range(STARTS):
            compiler = compiler or Compiler(*self._made_of)
            try:
                return self._answer(compiler, source)
            except GoneError:
                gone, killed, compiler = compiler, compiler.was_killed(), None
                gone.close()
        if killed:
            raise EvaluationError(f"a compiler was killed from outside, perhaps {MEMORY_SHORT}, in {STARTS} attempts. Give the "
                                  f"job more memory, or run fewer programs at a time (--workers). It said: {gone.said}")
        compiler = Compiler(*self._made_of)
        try:
            self._answer(compiler, b"")
        except GoneError:
            compiler.close()
            raise EvaluationError(f"a compiler ends at every source, even at none; it said: {compiler.said}") from None
        return None

    def _answer(self, compiler: Compiler, source: bytes) -> bytes:
        """A compiler's answer; it is idle then, or closed if it took too long."""
        try:
            answer = compiler.compile(source)
        except GoneError:
            raise
        except BaseException:
            compiler.close()
            raise
        with self._lock:
            self._idle.append(compiler)
        return answer

    def close(self) -> None:
        """End all that are idle."""
        with self._lock:
            idle, self._idle = self._idle, []
        for compiler in idle:
            compiler.close()

