"""What a box's /tmp takes of the machine's memory: it belongs to no process, so no look at processes finds it."""

from __future__ import annotations

import os
from pathlib import Path

NAME_BYTES = 1024  # of the kernel's memory for each file or folder, however empty; 1.0 KiB measured on Linux 6.18


def held_bytes(pid: int) -> int:
    """The memory of what is in the /tmp that a box's process sees; nothing if that is the machine's, or the process is gone."""
    place = Path(f"/proc/{pid}/root/tmp")
    try:
        if place.stat().st_dev == Path("/tmp").stat().st_dev:
            return 0
        told = os.statvfs(place)
    except OSError:
        return 0
    return (told.f_files - told.f_ffree) * NAME_BYTES + (told.f_blocks - told.f_bfree) * told.f_frsize
