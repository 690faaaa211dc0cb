"""The box that a model's program runs in: found by trying it.

What a box is: user, pid, network, mount, ipc and uts namespaces of its own; a root of read-only system folders, five
devices, a private /tmp with a size limit and no /proc; an unprivileged user id; limits on cpu, memory, processes, file
size and open files; no way to gain privileges or to make further namespaces; a filter of system calls.

Run as root, the mounts are made as root and the program then gets a user id that nothing else has (RLIMIT_NPROC never
holds for uid 0). Run as an ordinary user, a user namespace gives the rights that making the mounts takes. In a container
that maps nobody but its root, either may work; the limits are tried, not assumed.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from megatron_ft.errors import EvaluationError
from megatron_ft.evaluation import obstacles, seccomp
from megatron_ft.evaluation.box import Box, Limits, processes_allowed, unprivileged_uid
from megatron_ft.evaluation.box_commands import by_bubblewrap, by_unshare, environment, limited

TOOLS = ("bubblewrap", "unshare")
PROBE_S = 20
# Each line is what must hold, and what is said where it does not. `timeout` says 125 if it cannot start a process: shells
# would try again for long.
PROBE = """
must() { "$@" || { echo "a box came up, but $what"; exit 1; }; }
what="shows a /proc"; must [ ! -e /proc/self ]
what="its root can be written"; ! touch /probe 2>/dev/null || must false
what="its /tmp cannot be written"; must touch /tmp/probe
what="has no process numbers of its own"; must [ $$ -lt 300 ]
what="its limit on processes does not hold (is its user root outside?)"
prlimit --nproc=1:1 -- timeout 9 true 2>/dev/null; must [ $? = 125 ]
echo boxed
"""


@dataclass(frozen=True)
class Sandbox:
    """A way to make boxes that works on this machine (`find` has tried it)."""

    tool: str
    """bubblewrap, unshare, or none (--unsafe)."""
    as_root: bool
    """The mounts are made with the rights this process has as root, and the program gets another uid if one is mapped;
    else a user namespace is used."""
    locked: bool = True
    """Programs are put into a user namespace without any mapping, in which no further one can be made."""
    filtered: bool = True
    """Programs are refused the system calls that `seccomp` names."""

    def command(self, box: Box, argv: Sequence[str], keep: Collection[int] = (), folder: str = "/tmp") -> list[str]:
        """The command line that runs `argv` in a new box.

        Args:
            keep: descriptors that the program gets; others are closed by whoever runs the command.
            folder: where it begins without a sandbox, for what it writes.
        """
        uid = self.next_uid()
        processes = processes_allowed(box.limits, uid, boxed=self.tool != "none")
        inner = [*limited(box.limits, processes), *self._dropped(uid), *argv]
        if self.tool == "none":
            return [*environment(box, folder), *inner]
        if not self.filtered:
            return self._drawn(box, inner)
        if self.tool == "unshare":  # util-linux has a filter's option only since 2.40
            install = [sys.executable, "-I", "-S", "-c", seccomp.INSTALL, seccomp.program(box_stands=False).hex()]
            return self._drawn(box, inner, install=install)
        descriptor = next(number for number in range(3, 10) if number not in keep)  # a shell takes one digit
        return self._drawn(box, inner, ["--seccomp", str(descriptor)], f" {descriptor}<{_filter_file()}")

    def privileged_command(self, box: Box, argv: Sequence[str]) -> list[str]:
        """The command line that runs `argv` in a new box without limits and with the rights to make namespaces there.

        For code of ours that gives them up before anything of a program is read.
        """
        return self._drawn(box, list(argv), ["--cap-add", "ALL"])

    def next_uid(self) -> int | None:
        """The user id of the next box's program; None where it keeps the one it has."""
        return unprivileged_uid() if self.as_root else None

    def described(self) -> str:
        """What holds, in words."""
        if self.tool == "none":
            return "none (--unsafe)"
        user = "as root" if self.as_root else "as an ordinary user"
        lacks = [lack for holds, lack in ((self.locked, "no lock against further user namespaces"),
                                          (self.filtered, "no filter of system calls, which this kernel or machine lacks"))
                 if not holds]
        return f"{self.tool}, {user}" + (f"; {' and '.join(lacks)}" if lacks else "")

    def _drawn(self, box: Box, inner: list[str], options: Sequence[str] = (), redirected: str = "",
               install: Sequence[str] = ()) -> list[str]:
        first_to_die = ["/bin/sh", "-c", f'echo 1000 > /proc/self/oom_score_adj; exec "$@"{redirected}', "sh"]
        if self.tool == "bubblewrap":
            return [*first_to_die, *by_bubblewrap(box, inner, new_user=not self.as_root, options=options)]
        return [*first_to_die, *install, *by_unshare(box, inner, new_user=not self.as_root)]

    def _dropped(self, uid: int | None) -> list[str]:
        """The commands that give up every privilege, last."""
        if self.tool == "none":
            return []
        drop = ["setpriv", "--no-new-privs"]
        if uid is not None:
            drop += [f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
        if self.tool == "unshare" or os.geteuid() == 0:  # bubblewrap has dropped an ordinary user's already
            drop += ["--bounding-set=-all", "--inh-caps=-all"]
        return [*drop, "--", *(["unshare", "--user", "--"] if self.locked else [])]


def find(*, unsafe: bool = False, tools: tuple[str, ...] = TOOLS) -> Sandbox:
    """The first way to make boxes that works here, tried with a small program.

    Raises EvaluationError with what stands in the way and what each one said when none does, unless `unsafe`.
    """
    said: dict[str, str] = {}
    for sandbox in candidates(tools):
        problem = try_out(sandbox)
        if problem is None:
            return sandbox
        said.setdefault(problem, sandbox.tool)
    if unsafe:
        return Sandbox("none", as_root=False, locked=False, filtered=False)
    tried = "; ".join(f"{tool}: {problem}" for problem, tool in said.items())
    raise EvaluationError("no sandbox works here, and a model's programs are not run without one. "
                          f"{' '.join(obstacles.found())} In a throw-away machine pass --unsafe. Tried: {tried}")


def candidates(tools: Sequence[str] = TOOLS) -> Iterator[Sandbox]:
    """What may work here, the best first."""
    users = [False]
    if os.geteuid() == 0:  # with another id for programs as root is better, without one it is the last resort
        users = [True, False] if obstacles.of_proc() is None and unprivileged_uid() is not None else [False, True]
    filters = [False] if seccomp.program(box_stands=True) is None else [True, False]
    for tool, as_root, locked, filtered in itertools.product(tools, users, (True, False), filters):
        yield Sandbox(tool, as_root, locked, filtered)


def try_out(sandbox: Sandbox) -> str | None:
    """None when a box of this kind comes up and holds, else why it does not."""
    program = "bwrap" if sandbox.tool == "bubblewrap" else "unshare"
    missing = [name for name in (program, "prlimit", "setpriv", "unshare") if shutil.which(name) is None]
    if missing:
        return f"no {' and no '.join(missing)} on PATH"
    if obstacles.of_proc() is not None:
        return obstacles.of_proc()
    command = sandbox.command(Box(limits=Limits(cpu_s=PROBE_S)), ["/bin/sh", "-c", PROBE])
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PROBE_S, check=False)
    except subprocess.TimeoutExpired:
        return f"no answer in {PROBE_S} s"
    if done.stdout.strip() == "boxed" and done.returncode == 0:
        return None
    return (done.stdout + done.stderr).strip().replace("\n", " ")[:300] or f"exit status {done.returncode}"


@cache
def _filter_file() -> str:
    """A path under which every box opens the filter anew: an offset that boxes share would end at the first one's end."""
    descriptor, name = tempfile.mkstemp(prefix="megatron_ft-filter-")
    Path(name).unlink()
    os.write(descriptor, seccomp.program(box_stands=True))
    return f"/proc/{os.getpid()}/fd/{descriptor}"
