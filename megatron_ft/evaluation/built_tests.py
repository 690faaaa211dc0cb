"""The built tests of compiled languages, kept for later runs: they are half of the work of a run with one program a problem.

A file's name is the digest of the source it was built of; its folder's is that of all else that it depends on.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import tempfile
import time
import zlib
from collections.abc import Sequence
from pathlib import Path

from megatron_ft.evaluation import toolchain_cache
from megatron_ft.evaluation.toolchain_cache import digest

KEPT_S = 30 * 24 * 3600
"""How long the tests of another toolchain are kept after their last use."""


class BuiltTests:
    """Those of one language, built in one way."""

    def __init__(self, language: str, made_by: Sequence[str]) -> None:
        """Begin to use them, whether there are any or not.

        Args:
            made_by: everything that they depend on beside their source: the toolchain and the command.
        """
        key = chr(0).join([*made_by, *platform.libc_ver(), platform.machine()])
        self._language = language
        self.folder = toolchain_cache.root() / "tests" / f"{language}-{digest(key)[:16]}"
        with contextlib.suppress(OSError):
            os.utime(self.folder)

    def get(self, source: str) -> bytes | None:
        """What was built of a source; None where nothing is known, or what is there is damaged."""
        try:
            return zlib.decompress(self._place(source).read_bytes())
        except (OSError, zlib.error):
            return None

    def put(self, source: str, built: bytes) -> None:
        """Keep what was built; where this folder cannot be written, the next run builds it again."""
        with contextlib.suppress(OSError):
            if not self.folder.is_dir():
                self.folder.mkdir(parents=True)
                self._forget_others()
            handle, name = tempfile.mkstemp(prefix=".", dir=self.folder)
            try:
                with open(handle, "wb") as file:
                    file.write(zlib.compress(built, level=1))
                Path(name).replace(self._place(source))
            except OSError:
                Path(name).unlink(missing_ok=True)
                raise

    def _place(self, source: str) -> Path:
        return self.folder / digest(source)

    def _forget_others(self) -> None:
        for other in self.folder.parent.glob(f"{self._language}-*"):
            if time.time() - other.stat().st_mtime > KEPT_S:
                shutil.rmtree(other, ignore_errors=True)
