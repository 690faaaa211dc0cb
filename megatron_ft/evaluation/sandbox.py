"""The box that a model's program runs in: found by trying it, described once, drawn up for bubblewrap or unshare.

What a box is: user, pid, network, mount, ipc and uts namespaces of its own; a root of read-only system folders, six
devices, a private /tmp with a size limit and no /proc; an unprivileged user id; limits on cpu, memory, processes, file
size and open files; no way to gain privileges or to make further namespaces.

Run as root, the mounts are made as root and the program then gets a user id that nothing else has (RLIMIT_NPROC never
holds for uid 0). Run as an ordinary user, a user namespace gives the rights that making the mounts takes.
"""

from __future__ import annotations

import itertools
import math
import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from megatron_ft.errors import EvaluationError

DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
SYSTEM = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/usr")
SYSTEM_FILES = ("/etc/ld.so.cache", "/etc/alternatives")
PATH = "/usr/local/bin:/usr/bin:/bin"
FIRST_UID, FALLBACK_UID, UIDS_PER_PROCESS = 2_000_000_000, 61_000, 256
TOOLS = ("bubblewrap", "unshare")
PROBE_S = 20
PROBE = "[ ! -e /proc/self ] && ! touch /probe 2>/dev/null && touch /tmp/probe && [ $$ -lt 300 ] && echo boxed"

_uses = itertools.count()


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


@dataclass(frozen=True)
class Sandbox:
    """A way to make boxes that works on this machine (`find` has tried it)."""

    tool: str
    """bubblewrap, unshare, or none (--unsafe)."""
    as_root: bool
    """The mounts are made as root and the program gets another uid; else a user namespace is used."""
    locked: bool = True
    """Programs are put into a user namespace without any mapping, in which no further one can be made."""

    def command(self, box: Box, argv: list[str]) -> list[str]:
        """The command line that runs `argv` in a new box."""
        uid = self.next_uid()
        inner = [*_limited(box.limits, processes_allowed(box.limits, uid)), *self._dropped(uid), *argv]
        if self.tool == "none":
            return [*_environment(box, "--chdir=/tmp"), *inner]
        return self._drawn(box, inner)

    def privileged_command(self, box: Box, argv: list[str]) -> list[str]:
        """The command line that runs `argv` in a new box without limits and with the rights to make namespaces there.

        For code of ours that gives them up before anything of a program is read.
        """
        return self._drawn(box, argv, "--cap-add", "ALL")

    def next_uid(self) -> int | None:
        """The user id of the next box's program; None where it keeps the one it has."""
        return unprivileged_uid(next(_uses)) if self.as_root else None

    def _drawn(self, box: Box, inner: list[str], *rights: str) -> list[str]:
        first_to_die = ["/bin/sh", "-c", 'echo 1000 > /proc/self/oom_score_adj; exec "$@"', "sh"]
        if self.tool == "bubblewrap":
            return [*first_to_die, *_bubblewrap(box, self.as_root, inner, rights)]
        return [*first_to_die, *_unshare(box, self.as_root, inner)]

    def _dropped(self, uid: int | None) -> list[str]:
        """The commands that give up every privilege, last."""
        if self.tool == "none":
            return []
        drop = ["setpriv", "--no-new-privs"]
        if uid is not None:
            drop += [f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
        if uid is not None or self.tool == "unshare":  # bubblewrap has dropped an ordinary user's already
            drop += ["--bounding-set=-all", "--inh-caps=-all"]
        return [*drop, "--", *(["unshare", "--user", "--"] if self.locked else [])]


def find(*, unsafe: bool = False, tools: tuple[str, ...] = TOOLS, as_root: bool | None = None) -> Sandbox:
    """The first way to make boxes that works here, tried with a small program.

    Raises EvaluationError with what each one said when none does, unless `unsafe`.
    """
    if as_root is None:
        as_root = os.geteuid() == 0 and unprivileged_uid(0) is not None
    said = []
    for tool, locked in itertools.product(tools, (True, False)):
        sandbox = Sandbox(tool, as_root, locked)
        problem = try_out(sandbox)
        if problem is None:
            return sandbox
        said.append(f"{tool}{'' if locked else ' without the lock'}: {problem}")
    if unsafe:
        return Sandbox("none", as_root=False, locked=False)
    raise EvaluationError(
        "no sandbox works here, and a model's programs are not run without one. Install bubblewrap (Debian package "
        "bubblewrap, 0.7 or newer) or allow user namespaces (sysctl user.max_user_namespaces, "
        "kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns); in a throw-away machine pass "
        f"--unsafe. Tried: {'; '.join(said)}")


def try_out(sandbox: Sandbox) -> str | None:
    """None when a box of this kind comes up and holds, else why it does not."""
    program = "bwrap" if sandbox.tool == "bubblewrap" else "unshare"
    missing = [name for name in (program, "prlimit", "setpriv", "unshare") if shutil.which(name) is None]
    if missing:
        return f"no {' and no '.join(missing)} on PATH"
    if os.geteuid() == 0 and not sandbox.as_root:
        return "started as a root that has no other user id to give a program"
    try:
        done = subprocess.run(sandbox.command(Box(), ["/bin/sh", "-c", PROBE]), stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=PROBE_S, check=False)
    except subprocess.TimeoutExpired:
        return f"no answer in {PROBE_S} s"
    if done.stdout.strip() == "boxed" and done.returncode == 0:
        return None
    return (done.stderr or done.stdout).strip().replace("\n", " ")[:300] or f"exit status {done.returncode}"


def unprivileged_uid(use: int) -> int | None:
    """A user id for one box that no other box of this machine has now; None where this namespace maps none."""
    mapped = 0
    for line in Path("/proc/self/uid_map").read_text().splitlines():
        inside, _, count = map(int, line.split())
        mapped = max(mapped, inside + count)
    slot = use % UIDS_PER_PROCESS
    if mapped > FIRST_UID + 2**22 * UIDS_PER_PROCESS:
        return FIRST_UID + os.getpid() % 2**22 * UIDS_PER_PROCESS + slot
    return FALLBACK_UID + slot if mapped > FALLBACK_UID + UIDS_PER_PROCESS else None


def processes_allowed(limits: Limits, uid: int | None) -> int:
    """The process limit; before Linux 5.14 it counts all that the user runs, not only what is in the box."""
    if uid is not None or tuple(map(int, os.uname().release.split("-")[0].split(".")[:2])) >= (5, 14):
        return limits.processes
    running = 0
    for task in Path("/proc").glob("[0-9]*"):
        try:
            running += sum(1 for _ in (task / "task").iterdir()) if task.stat().st_uid == os.getuid() else 0
        except OSError:
            continue  # it ended while we counted
    return limits.processes + running


def resource_limits(limits: Limits, processes: int) -> dict[str, tuple[int, int]]:
    """Soft and hard limits of each process, by prlimit's names for them."""
    cpu_s = math.ceil(limits.cpu_s)
    each = {"nproc": processes, "fsize": limits.file_bytes, "nofile": limits.open_files, "core": 0}
    if limits.address_space:
        each["as"] = limits.memory_bytes
    return {"cpu": (cpu_s, cpu_s + 1), **{name: (value, value) for name, value in each.items()}}


def _limited(limits: Limits, processes: int) -> list[str]:
    return ["prlimit", *(f"--{name}={soft}:{hard}" for name, (soft, hard) in resource_limits(limits, processes).items()), "--"]


def _environment(box: Box, *options: str) -> list[str]:
    settings = {"PATH": PATH, "HOME": "/tmp", "TMPDIR": "/tmp", "LANG": "C.UTF-8", **box.environment}
    return ["/usr/bin/env", "-i", *options, *(f"{name}={value}" for name, value in settings.items())]


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


def _bubblewrap(box: Box, as_root: bool, inner: list[str], rights: Sequence[str] = ()) -> list[str]:
    shown, links, folders = _mounts(box)
    args = ["bwrap", *rights, "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try",
            "--die-with-parent", "--new-session", *([] if as_root else ["--unshare-user"])]
    args += ["--perms", "1777", "--size", str(box.limits.file_bytes), "--tmpfs", "/tmp"]
    for folder in folders:
        args += ["--perms", "0755", "--dir", folder]
    for place, source in shown.items():
        args += ["--ro-bind", source, place]
    for place, target in links.items():
        args += ["--symlink", target, place]
    for device in DEVICES:
        args += ["--dev-bind", device, device]
    return [*args, "--chmod", "0755", "/dev", "--remount-ro", "/", "--chdir", "/tmp", "--", *_environment(box), *inner]


def _unshare(box: Box, as_root: bool, inner: list[str]) -> list[str]:
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
    mapped = [] if as_root else ["--user", "--map-root-user"]
    return ["setpriv", "--pdeathsig", "KILL", "--", "unshare", *mapped, "--pid", "--net", "--ipc", "--uts", "--mount",
            "--fork", "--kill-child", "--", "/bin/sh", "-c", "\n".join(script), "sh", *_environment(box), *inner]


def _flags(source: str) -> str:
    """Read-only, and those flags of the source's own mount that a user namespace may not clear."""
    held = os.statvfs(source).f_flag
    names = {os.ST_NOEXEC: "noexec", os.ST_NOATIME: "noatime", os.ST_NODIRATIME: "nodiratime"}
    return ",".join(["ro", "nosuid", "nodev", *(name for flag, name in names.items() if held & flag)])
