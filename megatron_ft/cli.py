"""The frame of every command: true exit codes, errors a person can read, outputs that are whole or absent."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, NoReturn

from megatron_ft import log
from megatron_ft.errors import ConfigError, MegatronFTError

EXIT_OK = 0
EXIT_CHECK_FAILED = 1  # the command ran and its answer is "no" (verify, validate)
EXIT_FAILED = 1  # a fault of the program or the machine, or of another rank
EXIT_USER_ERROR = 2
EXIT_REQUEUE = 75  # EX_TEMPFAIL of sysexits.h: nothing is wrong, the same command goes on where this one ended
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143

OF_THE_MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG}
"""Errors of disks and permissions: no fault of ours, and no traceback says more than their own words."""
LOCK_ATTEMPTS, LOCK_PAUSE_S = 25, 0.2  # five seconds; workers of ours end within one
WITHOUT_LOCKS = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL}
"""How file systems say that they have no locks (Lustre without its option, some network file systems)."""


def main(command: Callable[[], int | None]) -> None:
    """Run a command and leave with its exit code: 0 done, 1 the check failed, 2 a user's error, 130 or 143 interrupted.

    A MegatronFTError is printed as one line, and so is a disk that is full or must not be written; anything else is a
    fault of ours and keeps its traceback (exit code 1).
    """
    try:
        code = command()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader left; let the exit flush in peace
        code = EXIT_USER_ERROR
    except (Exception, KeyboardInterrupt) as error:
        code, line = outcome(error)
        if line is None:
            raise
        sys.stderr.write(f"{line}\n" if isinstance(error, KeyboardInterrupt) else f"error: {line}\n")
    sys.exit(EXIT_OK if code is None else code)


def outcome(error: BaseException) -> tuple[int, str | None]:
    """The exit code that an error means and the line that says all about it; None where it takes the traceback."""
    if isinstance(error, MegatronFTError):
        return EXIT_USER_ERROR, f"{type(error).__name__}: {error}"
    if isinstance(error, OSError) and error.errno in OF_THE_MACHINE:
        return EXIT_USER_ERROR, f"{error}; make room or choose another place, then run the same command again"
    if isinstance(error, Terminated):
        return EXIT_TERMINATED, "terminated"
    if isinstance(error, KeyboardInterrupt):
        return EXIT_INTERRUPTED, "interrupted"
    return EXIT_FAILED, None


class Terminated(KeyboardInterrupt):
    """SIGTERM came."""


def clean_up_after_sigterm() -> None:
    """From now on SIGTERM (scancel, a time limit) is as Ctrl-C: temporary files go, and what was begun ends; a second kills."""
    def end(number: int, _: object) -> NoReturn:
        signal.signal(number, signal.SIG_DFL)
        raise Terminated

    signal.signal(signal.SIGTERM, end)


def cores() -> int:
    """How many CPU cores this process may use; inside a job those of the job."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def require_absent(path: str | Path, *, option: str) -> Path:
    """The output path, if nothing is there yet; else ConfigError (nothing is ever overwritten)."""
    path = Path(path)
    if os.path.lexists(path):
        raise ConfigError(f"{option}: {path} exists already; name another path or remove it first")
    return path


def hold(lock: IO, output: Path) -> None:
    """Keep other processes from writing an output, as long as its lock's file is open; ConfigError while one does.

    The workers of a process that was killed have its lock until they see that it is gone, so it is asked for some times.
    """
    for left in reversed(range(LOCK_ATTEMPTS)):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if not left:
                raise ConfigError(f"--output: another process is writing {output}; wait for it, or name another path") from None
            time.sleep(LOCK_PAUSE_S)
        except OSError as error:
            if error.errno not in WITHOUT_LOCKS:
                raise
            log.get().warning(f"{output}: this file system has no locks, so nothing stops a second process from writing "
                              "the same")
            return


@contextlib.contextmanager
def write_beside(final: str | Path) -> Iterator[Path]:
    """A temporary folder beside `final` that becomes `final` when the block ends well and vanishes when it does not.

    The rename is within one file system, so a reader sees the whole folder or none.
    """
    final = Path(final)
    final.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{final.name}.", suffix=".partial", dir=final.parent))
    partial.chmod(0o755)
    try:
        yield partial
        partial.rename(final)
    finally:
        if partial.exists():
            shutil.rmtree(partial, ignore_errors=True)


def write_text_atomically(path: str | Path, text: str) -> None:
    """Write a small file so that a reader sees the old text or the new, never a part."""
    path = Path(path)
    descriptor, partial = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    Path(partial).chmod(0o644)
    Path(partial).replace(path)
