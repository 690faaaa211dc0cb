"""Runs a command as root or as an ordinary user, on a machine of its own as far as a mount, a pid and an ipc namespace go.

So whatever is in /tmp or /dev/shm, every process and every segment of shared memory is of that command, and what it leaves
there is seen. An ordinary user finds interpreters and compilers at their places also where these are in root's home.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

from tests.evaluation.hostile.outside import ALONE, REPOSITORY

IS_ROOT = os.geteuid() == 0
ROOT, ORDINARY = "root", "an ordinary user"
USERS = {ROOT: 0, ORDINARY: 12345 if IS_ROOT else os.geteuid()}
BUILDER = ROOT if IS_ROOT else ORDINARY
PLACE, CACHE = Path("/mnt/world"), Path("/mnt/cache")
TOOLS = ("node", "javac", "go", "g++", "rustc")
LIMIT_S = 1500
NAMESPACES = ("--mount", "--pid", "--ipc", "--fork", "--kill-child", "--mount-proc")


def missing(user: str) -> str | None:
    """Why nothing can be run as that user here; None where it can."""
    if user == ROOT and not IS_ROOT:
        return "only root can run as root: start the tests as root"
    if not IS_ROOT:
        return None
    mount = ["unshare", *NAMESPACES, "--", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    tried = subprocess.run(mount, capture_output=True, text=True, check=False)
    return f"this root may not make namespaces and mounts: {tried.stderr.strip()}" if tried.returncode else None


def run(command: list[str], *, user: str, folder: Path, cache_folder: Path) -> subprocess.CompletedProcess:
    """Run it in the folder `work` of `folder`, which is its user's; what is built once is in `cache_folder`.

    Only root can make it a machine of its own; where an ordinary user runs the tests, it is this machine.
    """
    uid = USERS[user]
    for place in (folder, *(folder / name for name in ("work", "home", "anybody"))):
        place.mkdir(parents=True, exist_ok=True)
        os.chown(place, uid, -1)
    if not IS_ROOT:
        return subprocess.run(command, cwd=folder / "work", env=environment(folder, cache_folder), capture_output=True,
                              text=True, check=False, timeout=LIMIT_S)
    script = ["umask 022", "mount -t tmpfs tmpfs /mnt", f"mkdir {PLACE} {CACHE} /mnt/kept",
              f"mount --bind {shlex.quote(str(folder))} {PLACE}", f"mount --bind {shlex.quote(str(cache_folder))} {CACHE}",
              *emptied(uid), f"cd {PLACE}/work", 'exec "$@"']
    as_user = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"] if uid else []
    return subprocess.run(
        ["unshare", *NAMESPACES, "--", "/bin/sh", "-e", "-c", "\n".join(script), "sh", *as_user, *command],
        env={**environment(PLACE, CACHE), ALONE: "yes"}, capture_output=True, text=True, check=False, timeout=LIMIT_S)


def environment(folder: Path, cache_folder: Path) -> dict[str, str]:
    """What the command finds in its environment."""
    return {"PATH": path(), "PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1", "HOME": str(folder / "home"),
            "MEGATRON_FT_CACHE": str(cache_folder), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "LANG": "C.UTF-8"}


def emptied(uid: int) -> list[str]:
    """Commands that empty the folders for passing things, and those which others may not enter, but for what is needed."""
    modes = {Path(folder): "1777" for folder in ("/tmp", "/var/tmp", "/dev/shm", "/run")}
    modes |= {folder: "755" for path in places() if uid and (folder := closed(path)) and folder not in modes}
    needed = [path for path in places() if modes.keys() & {path, *path.parents}]
    script = []
    for number, path in enumerate(needed):
        script += [f"mkdir /mnt/kept/{number}", f"mount --rbind {shlex.quote(str(path))} /mnt/kept/{number}"]
    script += [f"mount -t tmpfs -o mode={mode} tmpfs {shlex.quote(str(folder))}" for folder, mode in modes.items()]
    for number, path in enumerate(needed):
        script += [f"mkdir -p {shlex.quote(str(path))}", f"mount --move /mnt/kept/{number} {shlex.quote(str(path))}"]
    return script


def places() -> list[Path]:
    """The folders of this project, its interpreter and the toolchains; none of them inside another."""
    executables = [Path(sys.executable), *(Path(found) for tool in TOOLS if (found := shutil.which(tool, path=path())))]
    found = {REPOSITORY, Path(sys.prefix), Path(sys.base_prefix), *(each.resolve().parents[1] for each in executables)}
    return sorted(path for path in found if not any(other in path.parents for other in found))


def closed(path: Path) -> Path | None:
    """The outermost folder above a path that others may not enter."""
    return next((each for each in reversed([path, *path.parents]) if not each.stat().st_mode & 0o001), None)


@cache
def path() -> str:
    """Where commands are; rustup's stand-in for a compiler would look for a home, so the compiler itself comes first."""
    rustc = shutil.which("rustc")
    if rustc is None:
        return os.environ["PATH"]
    sysroot = subprocess.run([rustc, "--print", "sysroot"], capture_output=True, text=True, check=True).stdout.strip()
    return f"{sysroot}/bin{os.pathsep}{os.environ['PATH']}"
