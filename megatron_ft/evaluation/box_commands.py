"""Draws a box up for bubblewrap or for unshare: the command line that makes it.

A root of read-only system folders, five devices, a private /tmp with a size limit and no /proc, in user, pid, network, mount,
ipc and uts namespaces of its own.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from megatron_ft.evaluation.box import SYSTEM, Box, Limits, resource_limits

DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
SYSTEM_FILES = ("/etc/ld.so.cache", "/etc/alternatives")
PATH = "/usr/local/bin:/usr/bin:/bin"


def limited(limits: Limits, processes: int) -> list[str]:
    """Runs what follows under the limits."""
    return ["prlimit", *(f"--{name}={soft}:{hard}" for name, (soft, hard) in resource_limits(limits, processes).items()), "--"]


def variables(box: Box, folder: str = "/tmp") -> dict[str, str]:
    """The environment of what runs in a box, or without one in a folder."""
    return {"PATH": PATH, "HOME": folder, "TMPDIR": folder, "LANG": "C.UTF-8", **box.environment}


def environment(box: Box, folder: str | None = None) -> list[str]:
    """Runs what follows with the box's environment alone; without a box, in a folder."""
    settings = variables(box, folder or "/tmp").items()
    return ["/usr/bin/env", "-i", *([f"--chdir={folder}"] if folder else []), *(f"{name}={value}" for name, value in settings)]


def _system() -> tuple[dict[str, str], dict[str, str]]:
    """The system's folders to show read-only, and the links among them."""
    links = {path: str(Path(path).readlink()) for path in SYSTEM if Path(path).is_symlink()}
    shown = {path: path for path in (*SYSTEM, *SYSTEM_FILES) if path not in links and Path(path).exists()}
    return shown, links


def _mounts(box: Box) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """What is shown read-only (place -> source), links, and the folders to make for it, parents first."""
    system, links = _system()
    shown = dict(system)
    for source, place in box.read_only.items():
        if not any(place == known or place.startswith(known.rstrip("/") + "/") for known in shown):
            shown[place] = source
    folders = {str(parent) for place in shown for parent in Path(place).parents} - {"/", "/tmp", "/dev"}
    return shown, links, sorted(folders)


def by_bubblewrap(box: Box, inner: list[str], *, new_user: bool, options: Sequence[str] = ()) -> list[str]:
    """The box by bubblewrap, its rights in a new user namespace or those of the caller."""
    shown, links, folders = _mounts(box)
    args = ["bwrap", *options, "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try",
            "--die-with-parent", "--new-session", *(["--unshare-user"] if new_user else [])]
    args += ["--perms", "1777", "--size", str(box.limits.file_bytes), "--tmpfs", "/tmp"]
    for folder in folders:
        args += ["--perms", "0755", "--dir", folder]
    for place, source in shown.items():
        args += ["--ro-bind", source, place]
    for place, target in links.items():
        args += ["--symlink", target, place]
    for device in DEVICES:
        args += ["--dev-bind", device, device]
    return [*args, "--chmod", "0755", "/dev", "--remount-ro", "/", "--chdir", "/tmp", "--", *environment(box), *inner]


def by_unshare(box: Box, inner: list[str], *, new_user: bool) -> list[str]:
    """The same box by hand; pid 1 is the shell that waits, so that nothing of the box outlives the program."""
    shown, links, folders = _mounts(box)
    script = ["set -e", "mount -t tmpfs -o mode=755,size=16m tmpfs /sys", "cd /sys", "mkdir -p tmp dev .old",
              f"mount -t tmpfs -o mode=1777,nosuid,nodev,size={box.limits.file_bytes} tmpfs tmp"]
    script += [f"mkdir -p {shlex.quote('.' + folder)}" for folder in folders]
    for place, source in shown.items():
        inside, make = shlex.quote("." + place), "mkdir -p" if Path(source).is_dir() else ": >"
        script += [f"{make} {inside}", f"mount --rbind {shlex.quote(source)} {inside}",
                   f"mount -o remount,bind,{_flags(source)} {inside}"]
    script += [f"ln -s {shlex.quote(target)} {shlex.quote('.' + place)}" for place, target in links.items()]
    script += [f": > .{device}; mount --bind {device} .{device}" for device in DEVICES]
    # umount reads /proc/self/mountinfo, so the old /proc stays in sight until the old root is gone.
    script += ["ln -s .old/proc proc", "pivot_root . .old", "cd /tmp", "umount -l /.old", "rm /proc", "rmdir /.old",
               "mount -n -o remount,ro none /", "set +e", '"$@"', "exit $?"]
    mapped = ["--user", "--map-root-user"] if new_user else []
    return ["setpriv", "--pdeathsig", "KILL", "--", "unshare", *mapped, "--pid", "--net", "--ipc", "--uts", "--mount",
            "--fork", "--kill-child", "--", "/bin/sh", "-c", "\n".join(script), "sh", *environment(box), *inner]


def _flags(source: str) -> str:
    """Read-only, and those flags of the source's own mount that a user namespace may not clear."""
    held = os.statvfs(source).f_flag
    names = {os.ST_NOEXEC: "noexec", os.ST_NOATIME: "noatime", os.ST_NODIRATIME: "nodiratime"}
    return ",".join(["ro", "nosuid", "nodev", *(name for flag, name in names.items() if held & flag)])
