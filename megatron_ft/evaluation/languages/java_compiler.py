"""A compiler that stays: one source after another over a pair of pipes, in a box of its own."""

from __future__ import annotations

import contextlib
import os
import selectors
import struct
import threading
import time

from megatron_ft.evaluation.sandbox import Box, Sandbox
from megatron_ft.evaluation.supervise import started

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
                stack.enter_context(started(sandbox, box, argv, keep=(theirs_in, theirs_out)))
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

    def close(self) -> None:
        """End it."""
        self._stack.close()

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

        One that is gone may have died long ago (its box dies with the thread that started it), so a new one tries again.
        """
        with self._lock:
            compiler = self._idle.pop() if self._idle else None
        for _ in range(2):
            compiler = compiler or Compiler(*self._made_of)
            try:
                answer = compiler.compile(source)
            except GoneError:
                compiler.close()
                compiler = None
            except BaseException:
                compiler.close()
                raise
            else:
                with self._lock:
                    self._idle.append(compiler)
                return answer
        return None

    def close(self) -> None:
        """End all that are idle."""
        with self._lock:
            idle, self._idle = self._idle, []
        for compiler in idle:
            compiler.close()

