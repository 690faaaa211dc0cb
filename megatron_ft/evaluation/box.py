"""What a box may use and shows: its limits, what it finds, whose user id its program gets."""

from __future__ import annotations

import itertools
import math
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

SYSTEM = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/usr")
"""The folders that every box shows, read-only."""
# Above what directories (sssd's begin at 200,000 and take 2 billion) and containers give out, below what a tool that reads
# them as signed numbers takes.
OWN_UIDS = range(2_100_000_000, 2**31 - 1)
FEWER_UIDS = range(61_000, 65_000)  # of what a container maps that has the usual 65,536
AT_A_TIME = 64  # programs that may run at once: without boxes, the processes of all of them count against each one's limit
# Begun at random: evaluators that do not see each other, as in two containers, take their ids from the same range. For 100 of
# a machine's boxes at a time it is one chance in ten thousand that two have one id; they share a limit on processes then, and
# nothing else, as neither sees the other's processes or files.
_uses = itertools.count(secrets.randbelow(len(OWN_UIDS)))


@dataclass(frozen=True)
class Limits:
    """What one box may use."""

    cpu_s: float = 10.0
    """CPU seconds of each process; a program over it has timed out, however busy the machine is."""
    wall_s: float = 30.0
    """Seconds until the box is killed."""
    memory_bytes: int = 2 * 2**30
    """Resident memory of the box's processes together, and with `address_space` what each process may reserve."""
    address_space: bool = True
    """False for runtimes that reserve far more than they use (node, java), which have a heap limit of their own."""
    processes: int = 24
    """Processes and threads of the box together."""
    file_bytes: int = 64 * 2**20
    """Size of each file it writes, and of its /tmp."""
    open_files: int = 128
    """Open files of each process."""
    output_bytes: int = 16 * 2**20
    """What it may write to stdout and stderr before it is stopped."""


@dataclass(frozen=True)
class Box:
    """What a program finds around it, beside the system's folders."""

    read_only: Mapping[str, str] = field(default_factory=dict)
    """Folder or file outside -> its place inside."""
    environment: Mapping[str, str] = field(default_factory=dict)
    limits: Limits = Limits()


def unprivileged_uid() -> int | None:
    """A user id for one box, not given to another before all have been; None where this user namespace maps none."""
    mapped = 0
    for line in Path("/proc/self/uid_map").read_text().splitlines():
        inside, _, count = map(int, line.split())
        mapped = max(mapped, inside + count)
    known = next((uids for uids in (OWN_UIDS, FEWER_UIDS) if mapped >= uids.stop), None)
    return None if known is None else known[next(_uses) % len(known)]


def processes_allowed(limits: Limits, uid: int | None, *, boxed: bool = True) -> int:
    """The process limit; before Linux 5.14, or without a box, it counts all that the user runs, not only what is in the box."""
    if uid is not None or (boxed and tuple(map(int, os.uname().release.split("-")[0].split(".")[:2])) >= (5, 14)):
        return limits.processes
    running = 0
    for task in Path("/proc").glob("[0-9]*"):
        try:
            running += sum(1 for _ in (task / "task").iterdir()) if task.stat().st_uid == os.getuid() else 0
        except OSError:
            continue  # it ended while we counted
    return running + limits.processes * (1 if boxed else AT_A_TIME)


def resource_limits(limits: Limits, processes: int) -> dict[str, tuple[int, int]]:
    """Soft and hard limits of each process, by prlimit's names for them."""
    cpu_s = math.ceil(limits.cpu_s)
    each = {"nproc": processes, "fsize": limits.file_bytes, "nofile": limits.open_files, "core": 0}
    if limits.address_space:
        each["as"] = limits.memory_bytes
    return {"cpu": (cpu_s, cpu_s + 1), **{name: (value, value) for name, value in each.items()}}
