"""Runs the tests of one case after the other, as to fork a process for each takes longer than most tests.

`resident.main()`, in a process that the nursery of tests forks; its arguments are a socket and the cpu seconds of a case. Each
message on the socket brings a case's descriptors, of stdin, stdout, stderr and the pipes, and is answered with the cpu seconds
that the case took. Where the process ends instead, its exit status is that of the case, and the next case gets a new process.

So it ends, of itself, after a case that may matter to the next: where tests did not pass or fail at an assert, imported what
was not there, put something else into a module, left a file or a process, or made memory grow. What a program sends them is
plain data (see `wire`) and is gone with the case.
"""

from __future__ import annotations

import itertools
import operator
import os
import resource
import socket
import sys
import time

from . import DESCRIPTORS, ORDER_BYTES, STANDARD, tests

GROWTH_KIB = 16 * 1024
WAYS_TO_THE_PROCESS = ("_thread", "threading", "_signal", "signal", "atexit", "gc", "resource", "ctypes")
"""What tests do through these is not seen from outside, so that they shall not be there: to import one is unusual."""
LIMITED_CLOCK = ~0 << 3
"""This process's clock that Linux holds to RLIMIT_CPU (in its posix-timers.h, MAKE_PROCESS_CPUCLOCK(0, CPUCLOCK_PROF)). It
counts ticks: where more processes run than there are cores, it has been seen to show 3.8 s after 2.4 s of cpu time."""


def contents() -> list:
    """Every loaded module and every value in it."""
    modules = list(sys.modules.values())
    return [*modules, *itertools.chain.from_iterable(getattr(module, "__dict__", {}).values() for module in modules)]


def surroundings() -> tuple:
    """What tests can change beside modules."""
    return (sys.getrecursionlimit(), sys.gettrace(), sys.getprofile(), list(sys.path), dict(os.environ),
            os.getcwd(), os.listdir("/tmp"), has_children())  # noqa: PTH109, PTH208  # pathlib would have to be loaded


def has_children() -> bool:
    """Whether this process has started another that nobody has waited for."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def allow(cpu_s: int) -> None:
    """Let this process use as many more cpu seconds."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = int(time.clock_gettime(LIMITED_CLOCK)) + 1 + cpu_s
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def main() -> None:
    """Serve, in a child: no signal of its own ends the first process of a namespace, not even that of used up cpu time."""
    link, cpu_s = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
    pid = os.fork()
    if pid == 0:
        serve(link, cpu_s)
        return
    link.close()
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    os._exit(code if code >= 0 else 128 - code)


def serve(link: socket.socket, cpu_s: int) -> None:
    """Take cases until the socket is closed or one was unusual."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for name in WAYS_TO_THE_PROCESS:
        sys.modules.pop(name, None)
    loaded, around = contents(), surroundings()
    most_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + GROWTH_KIB
    while True:
        message, descriptors, _, _ = socket.recv_fds(link, ORDER_BYTES, DESCRIPTORS)
        if not message:
            return
        begun = time.process_time()
        allow(cpu_s)
        for place, descriptor in enumerate(descriptors[:STANDARD]):
            os.dup2(descriptor, place)
            os.close(descriptor)
        sys.argv[1:] = map(str, descriptors[STANDARD:])
        usual, now = tests.main(), contents()
        if not (usual and len(now) == len(loaded) and all(map(operator.is_, now, loaded)) and surroundings() == around
                and resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < most_kib):
            return
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        for place in range(STANDARD):  # whoever reads what a case writes waits until nobody can write it any more
            os.dup2(nothing, place)
        link.send(f"{time.process_time() - begun:.3f}".encode())
