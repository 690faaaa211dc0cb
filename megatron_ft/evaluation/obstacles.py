"""What of a machine or a container stands in the way of a sandbox, and what to do about it."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from megatron_ft.evaluation.box import unprivileged_uid

USER_NAMESPACES = {
    # Setting -> the value that forbids, what it does.
    "user/max_user_namespaces": ("0", "no user namespace may be made here"),
    "kernel/unprivileged_userns_clone": ("0", "only root may make user namespaces here"),
    "kernel/apparmor_restrict_unprivileged_userns": ("1", "AppArmor takes the rights out of user namespaces"),
}
CONTAINERS: tuple[tuple[str, Callable[[], bool], str], ...] = (
    # Name, how it is known, what may help in it.
    ("an Apptainer container", lambda: any(name in os.environ for name in ("APPTAINER_CONTAINER", "SINGULARITY_CONTAINER")),
     "`apptainer exec --userns` may allow what its setuid mode does not"),
    ("a Docker container", Path("/.dockerenv").exists,
     "`docker run --cap-add SYS_ADMIN --security-opt seccomp=unconfined --security-opt apparmor=unconfined` allows namespaces"),
    ("a Podman container", Path("/run/.containerenv").exists,
     "`podman run --security-opt seccomp=unconfined --security-opt label=disable` allows namespaces"),
)


def found(settings: Path = Path("/proc/sys")) -> list[str]:
    """Sentences, each with a reason and with what to do; what is told first is to be looked at first."""
    missing = [name for name in ("prlimit", "setpriv", "unshare") if shutil.which(name) is None]
    if missing:
        return [f"There is no {' and no '.join(missing)} on PATH: install util-linux, and bubblewrap (0.7 or newer)."]
    sentences = []
    if (problem := of_proc()) is not None:
        sentences.append(f"{problem[0].upper()}{problem[1:]}.")
    for name, (forbids, what) in USER_NAMESPACES.items():
        if _read(settings / name) == forbids:
            other = "1" if forbids == "0" else "0"
            wanted = "15000" if "max" in name else other
            sentences.append(f"{name.replace('/', '.')} is {forbids}: {what}; its administrator can change that with "
                             f"`sysctl {name.replace('/', '.')}={wanted}`.")
    if os.geteuid() == 0 and of_proc() is None and unprivileged_uid() is None:
        sentences.append("No user id but root's is mapped here; if it is root's outside too, the kernel does not limit its "
                         "processes: run the evaluator as an ordinary user, or map more ids.")
    if status().get("Seccomp") == "2":
        sentences.append("A filter of system calls is in force already and may refuse namespaces.")
    sentences += [f"This is {name}: {what}; else run the evaluator outside of it."
                  for name, holds, what in CONTAINERS if holds()]
    return [*sentences, "Otherwise install bubblewrap (0.7 or newer) if there is none, or run the evaluator on a node that "
                        "allows namespaces: `--generations` scores there what was generated elsewhere."]


def of_proc(proc: Path = Path("/proc")) -> str | None:
    """Why the memory of boxes cannot be watched by what /proc shows; None where it can be."""
    mount = "in Apptainer leave out `--no-mount proc`, elsewhere `mount -t proc proc /proc`"
    try:
        shown = str((proc / "self").readlink())
    except OSError as error:
        return f"the memory of boxes is looked up in {proc}, which is not there ({error.strerror}): mount it ({mount})"
    if shown != str(os.getpid()):
        return (f"{proc} is of another pid namespace (there this process is {shown}, here {os.getpid()}), so that the memory "
                f"of boxes cannot be looked up: mount it anew ({mount})")
    if not (proc / f"self/task/{threading.get_native_id()}/children").exists():
        return (f"{proc}/PID/task/TID/children is missing, by which the processes of a box are found: a kernel with "
                "CONFIG_PROC_CHILDREN has it")
    return None


def status() -> Mapping[str, str]:
    """What the kernel says of this process: the fields of /proc/self/status."""
    lines = (line.partition(":") for line in _read(Path("/proc/self/status")).splitlines())
    return {name: value.strip() for name, _, value in lines}


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
