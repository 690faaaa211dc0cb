"""Forks a process for each program, instead of making a box, or starting python, for each.

`python -m python_inside.nursery CONTROL`, in a box, with the rights that making namespaces takes.

The first message on the control socket says what its processes are, one half of a case in python or any command, and under
which limits. Then each message is an order, for a command what to run; its descriptors, of stdin, stdout, stderr, of the file
to execute where there is one, and of the pipes, are those of the next process. `kill` ends that process at once; its exit
status and its cpu seconds are the answer to every order.

A process is the first of pid, mount and ipc namespaces of its own, with its own /tmp, and has given up every right before
anything of a program is read. When it ends, the kernel ends all that it started, and nothing of one program is there for the
next. Python's tests are the benchmark's: their process takes one case after the other, as long as it leaves nothing that may
matter to the next (`resident`).
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib
import itertools
import json
import os
import resource
import select
import signal
import site
import socket
import struct
import sys

from . import DESCRIPTORS, ORDER_BYTES, STANDARD

NEW_NAMESPACES = 0x08000000 | 0x00020000 | 0x20000000  # CLONE_NEWIPC, CLONE_NEWNS, CLONE_NEWPID
NEW_USER = 0x10000000
CLONE = {"x86_64": 56, "aarch64": 220}
NO_NEW_PRIVS, BOUNDING_SET_DROP, AMBIENT, AMBIENT_CLEAR, SECCOMP, SECCOMP_FILTER = 38, 24, 47, 4, 22, 2
NO_SUID, NO_DEV = 2, 4
CAPABILITIES_V3 = 0x20080522
CAPABILITIES = 41
INSTRUCTION_BYTES = 8
RESIDENT = "resident"
OFTEN_IMPORTED = ("collections", "copy", "functools", "heapq", "itertools", "math", "re", "string", "typing")
"""Loaded once for all python programs. Not random or threading: what they do after a fork takes longer than to load them."""
LIMITS = {"cpu": resource.RLIMIT_CPU, "as": resource.RLIMIT_AS, "nproc": resource.RLIMIT_NPROC,
          "fsize": resource.RLIMIT_FSIZE, "nofile": resource.RLIMIT_NOFILE, "core": resource.RLIMIT_CORE}

libc = ctypes.PyDLL(None, use_errno=True)


def require(result: int) -> int:
    """The result of a system call; OSError if it is an error."""
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def fork_into_namespaces() -> int:
    """As os.fork, into new pid, mount and ipc namespaces."""
    ctypes.pythonapi.PyOS_BeforeFork()
    pid = libc.syscall(CLONE[os.uname().machine], NEW_NAMESPACES | signal.SIGCHLD, 0, 0, 0, 0)
    (ctypes.pythonapi.PyOS_AfterFork_Child if pid == 0 else ctypes.pythonapi.PyOS_AfterFork_Parent)()
    return require(pid)


def refuse_new_rights() -> None:
    """Have this process, and those that it forks, get no right that they do not hold; those that they hold, they keep."""
    require(libc.prctl(NO_NEW_PRIVS, 1, 0, 0, 0))
    drop_capabilities(keep_effective=True)


def give_up_rights(uid: int | None, locked: bool, filter: str) -> None:
    """Become a user without any right, who can get none back, and is refused the system calls of a filter in digits."""
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    if locked:
        require(libc.unshare(NEW_USER))  # maps nobody, so that no further namespace can be made in it
    drop_capabilities()  # a new user namespace gives all of them, in itself
    if filter:
        code = ctypes.create_string_buffer(bytes.fromhex(filter), len(filter) // 2)
        program = ctypes.create_string_buffer(struct.pack("@HP", len(code) // INSTRUCTION_BYTES, ctypes.addressof(code)))
        require(libc.prctl(SECCOMP, SECCOMP_FILTER, program, 0, 0))


def drop_capabilities(*, keep_effective: bool = False) -> None:
    """Empty the bounding and ambient sets, and those of this process."""
    for capability in range(CAPABILITIES):
        libc.prctl(BOUNDING_SET_DROP, capability, 0, 0, 0)  # those that this kernel lacks are no loss
    require(libc.prctl(AMBIENT, AMBIENT_CLEAR, 0, 0, 0))
    if not keep_effective:
        header = ctypes.create_string_buffer(struct.pack("Ii", CAPABILITIES_V3, 0))
        require(libc.capset(header, ctypes.create_string_buffer(24)))


def become(setup: dict, order: dict, descriptors: list[int]) -> None:
    """Run what the nursery is for as this process, with these descriptors and none besides."""
    others = take_over(descriptors)
    size = f"mode=1777,size={setup['tmp_bytes']}".encode()
    require(libc.mount(b"tmpfs", b"/tmp", b"tmpfs", NO_SUID | NO_DEV, size))
    limits = dict(setup["limits"])
    if setup["runs"] == RESIDENT:  # where each case has cpu seconds of its own
        cpu_s, _ = limits.pop("cpu")
        others.append(cpu_s)
    limit(limits)
    give_up_rights(setup["uid"], setup["locked"], setup["filter"])
    os.chdir("/tmp")
    if setup["runs"] == "command":
        execute(setup["environment"], order, others)
    if setup["runs"] == "public":  # of the other halves the tests say whether they stand
        os.write(1, setup["mark"].encode())
    run(setup, others)


def take_over(descriptors: list[int]) -> list[int]:
    """Lead a session that has these descriptors alone, the first as stdin, stdout and stderr; the others."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for place, descriptor in enumerate(descriptors[:STANDARD]):
        os.dup2(descriptor, place)
    others = descriptors[STANDARD:]
    kept = sorted({*range(STANDARD), *others, max(descriptors) + 4})  # the control socket and the like lie close to them
    for before, after in itertools.pairwise(kept):
        os.closerange(before + 1, after)
    os.setsid()
    return others


def limit(limits: dict) -> None:
    """Set this process's limits."""
    for name, (soft, hard) in limits.items():
        resource.setrlimit(LIMITS[name], (soft, hard))


def run(setup: dict, arguments: list[int]) -> None:
    """Call what the nursery has loaded."""
    sys.argv[1:] = map(str, arguments)
    sys.modules[f"{__package__}.{setup['runs']}"].main()


def execute(environment: dict, order: dict, descriptors: list[int]) -> None:
    """Become an order's command, to which the numbers of the descriptors are appended; the first may be what to execute."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which python ignores
        signal.signal(number, signal.SIG_DFL)
    executable = descriptors.pop(0) if order["executes"] else order["argv"][0]
    for descriptor in descriptors:
        os.set_inheritable(descriptor, True)
    if order["executes"]:
        os.set_inheritable(executable, False)
    if order["hello"]:
        os.write(descriptors[-1], bytes.fromhex(order["hello"]))
    os.execve(executable, [*order["argv"], *map(str, descriptors)], environment)


def leave_with(run: object, *arguments: object) -> None:
    """Call a function and leave as an interpreter would, whatever it raises."""
    code = 1
    try:
        run(*arguments)
        atexit._run_exitfuncs()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except Exception:
                code = code or 1
        os._exit(code & 0xFF)


class Child:
    """A process of the nursery; `link` is how it takes orders and answers them, where it does so more than once."""

    def __init__(self, pid: int, link: socket.socket | None = None) -> None:
        self.pid = pid
        self.link = link

    def answer(self) -> bytes:
        """What it answers; nothing if it has died."""
        try:
            return self.link.recv(ORDER_BYTES)
        except ConnectionError:  # it had not read its order
            return b""


def start(setup: dict, control: socket.socket, order: bytes, descriptors: list[int]) -> Child:
    """Fork the process of an order."""
    link = theirs = None
    if setup["runs"] == RESIDENT:
        link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        descriptors = [*range(STANDARD), theirs.fileno()]
    pid = fork_into_namespaces()
    if pid == 0:
        control.close()
        leave_with(become, setup, json.loads(order), descriptors)
    if theirs:
        theirs.close()
    return Child(pid, link)


def attend(control: socket.socket, ended: int, child: Child) -> tuple[int, float]:
    """How an order ended, exit status and cpu seconds; its process is killed when the socket says so or is closed.

    Args:
        ended: becomes readable when some process ends. A descriptor of the process itself would be simpler, but Linux has
            had it only since 5.3, and pythons that are built for older ones lack the call.
    """
    watched = [ended, control, *([child.link] if child.link else [])]
    while True:
        pid, status, used = os.wait4(child.pid, os.WNOHANG)
        if not pid:
            ready, _, _ = select.select(watched, [], [])
            if child.link in ready and (answered := child.answer()):
                return 0, float(answered)
            if child.link in ready:  # it is on its way
                _, status, used = os.wait4(child.pid, 0)
            elif ended in ready:
                os.read(ended, ORDER_BYTES)
                continue
            else:
                control.recv(ORDER_BYTES)
                os.kill(child.pid, signal.SIGKILL)
                _, status, used = os.wait4(child.pid, 0)
        if child.link:
            child.link.close()
        child.pid = 0
        return os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime


def ends() -> int:
    """A descriptor that becomes readable when a child of this process ends."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)  # what is ignored wakes nobody
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    return reading


def main() -> None:
    """Load what programs may import, say so, and serve orders until the socket is closed."""
    control = socket.socket(fileno=int(sys.argv[1]))
    setup = json.loads(control.recv(ORDER_BYTES))
    refuse_new_rights()
    if setup["runs"] != "command":
        for name in (f".{setup['runs']}", *OFTEN_IMPORTED):
            importlib.import_module(name, __package__)
        site.setquit(), site.setcopyright(), site.sethelper()  # the built-ins that an interpreter with -S lacks
    if setup["numpy"]:
        import numpy  # noqa: F401  # for the programs that import it
    ended = ends()
    gc.collect()
    gc.freeze()  # a collection in a child would copy every page
    control.send(b"ready")
    child = Child(0)
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, ORDER_BYTES, DESCRIPTORS)
        if not message:
            return
        if not descriptors:  # a kill that came when the process had ended by itself
            continue
        if not child.pid:
            child = start(setup, control, message, descriptors)
        if child.link:
            with contextlib.suppress(OSError):  # it has died meanwhile, which is its answer
                socket.send_fds(child.link, [message], descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        status, cpu_s = attend(control, ended, child)
        control.send(f"{status} {cpu_s:.3f}".encode())


if __name__ == "__main__":
    main()
