"""The system calls that a boxed program is refused, as a BPF program for the kernel's seccomp.

It names what is refused, not what is allowed: six runtimes and their compilers live under it, and newer versions of them
use newer calls. What is refused are ways to memory that no process's size shows, what most exploits of kernels begin with,
and what reaches other processes or the machine. Whatever has no number here stays with the box's namespaces and rights.

BPF: man 2 seccomp, and bpf(4) of the BSDs for the instructions. Numbers: asm/unistd_64.h and asm-generic/unistd.h.
"""

from __future__ import annotations

import errno
import platform
import struct
from collections.abc import Mapping
from dataclasses import dataclass

# sock_filter: code, jump if true, jump if false, operand
INSTRUCTION = struct.Struct("<HBBI")
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
NUMBER, ARCHITECTURE, FIRST_ARGUMENT = 0, 4, 16  # places in seccomp_data; of an argument, its lower half
ALLOW, KILL_PROCESS, FAIL = 0x7FFF0000, 0x80000000, 0x00050000
X32 = 0x40000000

Calls = Mapping[str, tuple[int | None, int | None]]
"""Name -> number on x86-64 and on aarch64."""

# Pages of these belong to no process, or may, so that a box's memory cannot be held to its limit.
UNSEEN_MEMORY: Calls = {
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "vmsplice": (278, 75),
    "shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195), "shmdt": (67, 197),
    "semget": (64, 190), "semop": (65, 193), "semctl": (66, 191), "semtimedop": (220, 192),
    "msgget": (68, 186), "msgsnd": (69, 189), "msgrcv": (70, 188), "msgctl": (71, 187),
    "mq_open": (240, 180), "mq_unlink": (241, 181), "mq_timedsend": (242, 182), "mq_timedreceive": (243, 183),
    "mq_notify": (244, 184), "mq_getsetattr": (245, 185),
}
# Large and young parts of the kernel that no program of a benchmark needs. Runtimes ask for some and take no for an answer.
KERNEL_SURFACE: Calls = {
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "io_setup": (206, 0), "io_submit": (209, 2), "userfaultfd": (323, 282), "bpf": (321, 280),
    "perf_event_open": (298, 241), "fanotify_init": (300, 262), "lookup_dcookie": (212, 18),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219), "modify_ldt": (154, None),
}
OTHER_PROCESSES: Calls = {
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "process_madvise": (440, 440), "kcmp": (312, 272), "pidfd_getfd": (438, 438),
}
MACHINE: Calls = {
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "init_module": (175, 105), "finit_module": (313, 273),
    "delete_module": (176, 106), "reboot": (169, 142), "swapon": (167, 224), "swapoff": (168, 225), "acct": (163, 89),
    "quotactl": (179, 60), "quotactl_fd": (443, 443), "syslog": (103, 116), "vhangup": (153, 58), "iopl": (172, None),
    "ioperm": (173, None), "settimeofday": (164, 170), "clock_settime": (227, 112), "adjtimex": (159, 171),
    "clock_adjtime": (305, 266), "sethostname": (170, 161), "setdomainname": (171, 162),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265), "nfsservctl": (180, 42),
}
# What makes a box takes these, so they are refused only where the filter comes after it.
BOX_MAKING: Calls = {
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "setns": (308, 268),
    "mount_setattr": (442, 442), "move_mount": (429, 429), "open_tree": (428, 428), "open_tree_attr": (467, 467),
    "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433),
}
CLONE3, CLONE, UNSHARE, SOCKET, SOCKETPAIR = (435, 435), (56, 220), (272, 97), (41, 198), (53, 199)
NEW_USER = 0x10000000
NEW_NAMESPACES = 0x7E020000  # mnt, cgroup, uts, ipc, user, pid, net, as `clone` has them
FAMILIES = (1, 2, 10)  # unix, inet, inet6: a network namespace does not hold vsock, which reaches a machine's host


@dataclass(frozen=True)
class Machine:
    """What of a filter depends on the processor."""

    audit: int
    """AUDIT_ARCH_*: the calls of another architecture have other numbers."""
    column: int
    """Which of the two numbers is its."""


MACHINES = {"x86_64": Machine(0xC000003E, 0), "aarch64": Machine(0xC00000B7, 1)}


def program(*, box_stands: bool, machine: str = platform.machine()) -> bytes | None:
    """The filter for a machine, as an array of sock_filter; None for a machine whose numbers are not known here.

    Args:
        box_stands: the filter comes after the box was made. All that is still to come then is the lock, a user
            namespace made by `unshare`; in it the kernel refuses a further one.
    """
    if machine not in MACHINES:
        return None
    kind = MACHINES[machine]
    code = [_step(LOAD, ARCHITECTURE), _step(EQUAL, kind.audit, 1, 0), _step(RETURN, KILL_PROCESS), _step(LOAD, NUMBER)]
    if machine == "x86_64":
        code += [_step(AT_LEAST, X32, 0, 1), _fail(errno.ENOSYS)]
    refused = {errno.ENOSYS: [*UNSEEN_MEMORY.values(), *KERNEL_SURFACE.values()],
               errno.EPERM: [*OTHER_PROCESSES.values(), *MACHINE.values()]}
    if box_stands:
        refused[errno.EPERM] += BOX_MAKING.values()
        # The arguments of clone3 lie in memory, where no filter can look: without it the C library takes clone.
        refused[errno.ENOSYS].append(CLONE3)
    for error, calls in refused.items():
        for number in (numbers[kind.column] for numbers in calls):
            code += [] if number is None else [_step(EQUAL, number, 0, 1), _fail(error)]
    if box_stands:
        code += _if(CLONE[kind.column], [_step(ANY_BIT, NEW_NAMESPACES, 0, 1), _fail(errno.EPERM)])
        code += _if(UNSHARE[kind.column], [_step(ANY_BIT, 0xFFFFFFFF ^ NEW_USER, 0, 1), _fail(errno.EPERM)])
    for call in (SOCKET, SOCKETPAIR):
        known = [_step(EQUAL, family, len(FAMILIES) - place, 0) for place, family in enumerate(FAMILIES)]
        code += _if(call[kind.column], [*known, _fail(errno.EAFNOSUPPORT)])
    return b"".join([*code, _step(RETURN, ALLOW)])


def _step(code: int, operand: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return INSTRUCTION.pack(code, if_true, if_false, operand)


def _fail(error: int) -> bytes:
    return _step(RETURN, FAIL | error)


def _if(number: int, then: list[bytes]) -> list[bytes]:
    """For one call, steps that look at its first argument and fail or go on to what follows them: it is allowed."""
    steps = [_step(LOAD, FIRST_ARGUMENT), *then, _step(RETURN, ALLOW)]
    return [_step(EQUAL, number, 0, len(steps)), *steps]


# For tools that take no filter themselves: this text's arguments are the filter, in hexadecimal digits, and a command.
INSTALL = """
import ctypes, os, sys
code = ctypes.create_string_buffer(bytes.fromhex(sys.argv[1]), len(sys.argv[1]) // 2)
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]
libc = ctypes.CDLL(None, use_errno=True)
program = Program(len(code) // 8, ctypes.addressof(code))
if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.byref(program), 0, 0):
    sys.exit("seccomp: " + os.strerror(ctypes.get_errno()))
os.execvp(sys.argv[2], sys.argv[2:])
"""
