"""Folders for what is needed for a while; where the process that made one was killed, the next removes it.

As long as its process lives, a folder is locked: the kernel takes the lock away however that process ends. Where a file
system has no locks, what a killed process leaves stays there.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import platform
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path

from megatron_ft.cli import WITHOUT_LOCKS

WITHOUT_LOCKS_OF_FOLDERS = {*WITHOUT_LOCKS, errno.EBADF}  # NFS locks what is open for writing, which no folder can be


class Scratch:
    """A new folder, gone when it is closed, when nothing refers to it any more, or at the end of the process."""

    def __init__(self, kind: str, place: Path | None = None) -> None:
        """Make it, and remove what killed processes of this user have left of its kind on this machine.

        Args:
            kind: what its name begins with.
            place: the folder that it lies in; by default that for temporary files.
        """
        place = place or Path(tempfile.gettempdir())
        beginning = f"{kind}-{platform.node()}-"  # another machine's locks may not be seen on this one
        for left in _own(place, beginning):
            _remove_if_left(left)
        while True:
            self._folder = tempfile.TemporaryDirectory(prefix=beginning, dir=place, ignore_cleanup_errors=True)
            self.path = Path(self._folder.name)
            with contextlib.suppress(FileNotFoundError):  # another process took it for left, as it was not locked yet
                lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
                weakref.finalize(self, os.close, lock)
                _has_lock(lock, fcntl.LOCK_EX)
                if self.path.exists():
                    return

    def close(self) -> None:
        """Remove it if it is still there."""
        self._folder.cleanup()


def _own(place: Path, beginning: str) -> Iterator[Path]:
    """This user's folders whose names begin so."""
    with os.scandir(place) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                if entry.name.startswith(beginning) and entry.stat(follow_symlinks=False).st_uid == os.geteuid():
                    yield Path(entry.path)


def _remove_if_left(folder: Path) -> None:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            if _has_lock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB):
                shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(descriptor)


def _has_lock(descriptor: int, how: int) -> bool:
    """Ask for a folder's lock; False where another process has it, or the file system has none."""
    try:
        fcntl.flock(descriptor, how)
    except OSError as error:
        if not isinstance(error, BlockingIOError) and error.errno not in WITHOUT_LOCKS_OF_FOLDERS:
            raise
        return False
    return True
