"""Runs the tests of one case after the other, as to fork a process for each takes longer than most tests.

`resident.main()`, in a process that the nursery of tests forks; its arguments are a socket and the cpu seconds of a case. Each
message on the socket brings a case's descriptors, of stdin, stdout, stderr and the pipes, and is answered with the cpu seconds
that the case took. Where the process ends instead, its exit status is that of the case, and the next case gets a new process.

So it ends, of itself, after a case that may matter to the next: where tests did not pass or fail at an assert, imported what
was not there, left threads or functions to be called, or made memory grow. What a program sends them is plain data (see `wire`)
and is gone with the case.
"""

from __future__ import annotations

import _thread
import atexit
import builtins
import os
import resource
import socket
import sys

from . import DESCRIPTORS, ORDER_BYTES, STANDARD, tests

GROWTH_KIB = 16 * 1024


def used_s() -> float:
    """The cpu time of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def state() -> tuple:
    """What tests are likeliest to change for those after them."""
    return (set(sys.modules), set(vars(builtins)), sys.stdin, sys.stdout, sys.stderr, sys.getrecursionlimit(),
            atexit._ncallbacks(), _thread._count())


def allow(cpu_s: int) -> None:
    """Let this process use as many more cpu seconds."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = int(used_s()) + 1 + cpu_s
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def main() -> None:
    """Serve until the socket is closed or a case was unusual."""
    link, cpu_s = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
    nothing = os.open(os.devnull, os.O_RDWR)
    before = state()
    most_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + GROWTH_KIB
    while True:
        message, descriptors, _, _ = socket.recv_fds(link, ORDER_BYTES, DESCRIPTORS)
        if not message:
            return
        begun = used_s()
        allow(cpu_s)
        for place, descriptor in enumerate(descriptors[:STANDARD]):
            os.dup2(descriptor, place)
            os.close(descriptor)
        sys.argv[1:] = map(str, descriptors[STANDARD:])
        usual = tests.main() and state() == before and resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < most_kib
        if not usual:
            return
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        for place in range(STANDARD):  # whoever reads what a case writes waits until nobody can write it any more
            os.dup2(nothing, place)
        link.send(f"{used_s() - begun:.3f}".encode())
