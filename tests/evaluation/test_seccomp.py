"""The filter of system calls: its numbers are the kernel's, its instructions do what they say, and boxes live under it."""

from __future__ import annotations

import errno
import platform
import re
import shutil
import subprocess
from dataclasses import replace

import pytest

from megatron_ft.evaluation import doctor, sandbox, seccomp
from megatron_ft.evaluation.interpreter import interpreter
from megatron_ft.evaluation.languages.python import Python
from megatron_ft.evaluation.sandbox import Limits, Sandbox
from tests.evaluation.problems import make_problem

NAMED = {**seccomp.UNSEEN_MEMORY, **seccomp.KERNEL_SURFACE, **seccomp.OTHER_PROCESSES, **seccomp.MACHINE, **seccomp.BOX_MAKING,
         "clone3": seccomp.CLONE3, "clone": seccomp.CLONE, "unshare": seccomp.UNSHARE, "socket": seccomp.SOCKET,
         "socketpair": seccomp.SOCKETPAIR}
# What the headers of a kernel hide from those that only read them, or are too old to have.
HEADERS = {"x86_64": ("asm/unistd_64.h", set()), "aarch64": ("asm-generic/unistd.h", {"memfd_secret", "clone3"})}
YOUNG = {"open_tree_attr"}
ALLOWED = "allowed"


def verdict(code: bytes, number: int, arguments: tuple[int, ...] = (), *, audit: int) -> object:
    """What a kernel would do with a call: `allowed`, `killed`, or the error; written from bpf's manual."""
    words = [number, audit, 0, 0]
    for argument in (*arguments, *[0] * 6)[:6]:
        words += [argument & 0xFFFFFFFF, argument >> 32]
    steps, at, held = list(seccomp.INSTRUCTION.iter_unpack(code)), 0, 0
    while True:
        kind, if_true, if_false, operand = steps[at]
        at += 1
        if kind == 0x20:
            held = words[operand // 4]
        elif kind == 0x06:
            if operand == 0x7FFF0000:
                return ALLOWED
            return "killed" if operand == 0x80000000 else operand & 0xFFFF
        else:
            true = {0x15: held == operand, 0x35: held >= operand, 0x45: bool(held & operand)}[kind]
            at += if_true if true else if_false


@pytest.mark.parametrize("machine", HEADERS)
def test_numbers_are_those_of_the_kernel_s_headers(machine: str) -> None:
    header, hidden = HEADERS[machine]
    gcc = shutil.which("gcc")
    done = subprocess.run([gcc or "gcc", "-E", "-dM", "-x", "c", "-"], input=f"#include <{header}>\n", capture_output=True,
                          text=True, check=False) if gcc else None
    if done is None or done.returncode:
        pytest.skip(f"no gcc or no {header} here")
    told = dict(re.findall(r"#define __NR(?:3264)?_(\w+) (\d+)", done.stdout))
    column = seccomp.MACHINES[machine].column
    for name, numbers in NAMED.items():
        if name not in hidden and not (name in YOUNG and name not in told):
            assert told.get(name) == (None if numbers[column] is None else str(numbers[column])), name


@pytest.mark.parametrize("machine", seccomp.MACHINES)
@pytest.mark.parametrize("box_stands", [True, False])
def test_what_is_named_is_refused_and_nothing_else(machine: str, box_stands: bool) -> None:
    code, kind = seccomp.program(box_stands=box_stands, machine=machine), seccomp.MACHINES[machine]
    absent = {**seccomp.UNSEEN_MEMORY, **seccomp.KERNEL_SURFACE, **({"clone3": seccomp.CLONE3} if box_stands else {})}
    forbidden = {**seccomp.OTHER_PROCESSES, **seccomp.MACHINE, **(seccomp.BOX_MAKING if box_stands else {})}
    expected = {numbers[kind.column]: errno.ENOSYS for numbers in absent.values()}
    expected |= {numbers[kind.column]: errno.EPERM for numbers in forbidden.values()}
    expected |= {numbers[kind.column]: errno.EAFNOSUPPORT for numbers in (seccomp.SOCKET, seccomp.SOCKETPAIR)}  # of family 0
    for number in range(700):
        assert verdict(code, number, audit=kind.audit) == expected.get(number, ALLOWED), number


@pytest.mark.parametrize("machine", seccomp.MACHINES)
def test_arguments_decide_on_namespaces_and_sockets(machine: str) -> None:
    kind = seccomp.MACHINES[machine]

    def gives(call: tuple[int, int], first: int, box_stands: bool = True) -> object:
        return verdict(seccomp.program(box_stands=box_stands, machine=machine), call[kind.column], (first,), audit=kind.audit)

    threads, processes = 0x3D0F00, 17  # what the C library passes for them
    assert [gives(seccomp.CLONE, flags) for flags in (threads, processes)] == [ALLOWED] * 2
    for namespace in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert gives(seccomp.CLONE, processes | namespace) == errno.EPERM
        assert gives(seccomp.CLONE, processes | namespace, box_stands=False) == ALLOWED
        # The lock is made by this call; in it the kernel itself makes no further one.
        assert gives(seccomp.UNSHARE, namespace) == (ALLOWED if namespace == 0x10000000 else errno.EPERM)
        assert gives(seccomp.UNSHARE, namespace, box_stands=False) == ALLOWED
    families = {family: gives(seccomp.SOCKET, family) for family in range(50)}
    assert [family for family, given in families.items() if given == ALLOWED] == [1, 2, 10]
    assert gives(seccomp.SOCKETPAIR, 1) == ALLOWED
    assert gives(seccomp.SOCKETPAIR, 40, box_stands=False) == errno.EAFNOSUPPORT


def test_calls_of_another_architecture_end_the_process_and_those_of_x32_are_refused() -> None:
    for machine, kind in seccomp.MACHINES.items():
        assert verdict(seccomp.program(box_stands=True, machine=machine), 1, audit=kind.audit ^ 1) == "killed"
    x86_64 = seccomp.MACHINES["x86_64"].audit
    for number in (0, 1, 319, 520):
        assert verdict(seccomp.program(box_stands=True, machine="x86_64"), seccomp.X32 | number, audit=x86_64) == errno.ENOSYS
    assert seccomp.program(box_stands=True, machine="riscv64") is None


CALLS = """
import ctypes, os, socket
libc = ctypes.CDLL(None, use_errno=True)
def error(number, *arguments):
    done = libc.syscall(number, *arguments)
    return 0 if done >= 0 else ctypes.get_errno()
def vsock():
    try: socket.socket(40, socket.SOCK_STREAM)
    except OSError as problem: return problem.errno
    return 0
def tried():
    return {"memfd_create": error(MEMFD, b"x", 0), "shmget": error(SHMGET, 0, 4096, 0o1600), "vsock": vsock(),
            "ptrace": error(PTRACE, 0, 0, 0, 0), "clone3": error(CLONE3, 0, 0)}
"""
REFUSED = {"memfd_create": errno.ENOSYS, "shmget": errno.ENOSYS, "vsock": errno.EAFNOSUPPORT, "ptrace": errno.EPERM}


def calls() -> str:
    """The script, with this machine's numbers."""
    column = seccomp.MACHINES[platform.machine()].column
    numbers = {"MEMFD": "memfd_create", "SHMGET": "shmget", "PTRACE": "ptrace", "CLONE3": "clone3"}
    return "".join(f"{name} = {NAMED[call][column]}\n" for name, call in numbers.items()) + CALLS


@pytest.mark.parametrize("filtered", [True, False])
def test_a_box_refuses_them(boxes: Sandbox, filtered: bool) -> None:
    """Without the filter the same calls work, or fail for another reason."""
    command = replace(boxes, filtered=filtered).command(Python(boxes)._box, [interpreter(), "-s", "-c",
                                                                             f"{calls()}\nprint(tried())"])
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    tried = eval(done.stdout)
    # With unshare the filter comes before the box, which takes the calls that make one.
    assert tried.pop("clone3") == (errno.ENOSYS if filtered and boxes.tool == "bubblewrap" else errno.EINVAL)
    if filtered:
        assert tried == REFUSED
    else:
        assert tried["memfd_create"] == tried["shmget"] == 0


@pytest.mark.parametrize("filtered", [True, False])
def test_so_does_the_process_that_a_nursery_forks(boxes: Sandbox, filtered: bool) -> None:
    wanted = {**REFUSED, "clone3": errno.ENOSYS}
    program = f"{calls()}\ndef double(x):\n    return x * 2 if tried() == {wanted} else str(tried())\n"
    verdict = Python(replace(boxes, filtered=filtered), Limits(cpu_s=5, wall_s=60)).judge(make_problem(), "", program)
    assert verdict.passed == filtered, verdict


def test_where_the_kernel_refuses_a_filter_boxes_go_without_and_it_is_said(monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    monkeypatch.setattr(seccomp, "program", lambda *, box_stands: b"\xff" * 8)  # no instruction
    sandbox._filter_file.cache_clear()
    try:
        for tool in sandbox.TOOLS:
            found = sandbox.find(tools=(tool,))
            assert not found.filtered
            assert found.locked
            assert "no filter of system calls" in found.described()
        doctor.command(["--language", "python"])
    finally:
        sandbox._filter_file.cache_clear()
    assert "bubblewrap, as" in (said := capfd.readouterr().err)
    assert "no filter of system calls" in said


def test_a_machine_whose_numbers_are_not_known_has_no_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seccomp, "program", lambda *, box_stands: None)
    assert not sandbox.find().filtered


def test_a_filter_takes_the_number_of_no_descriptor_that_is_kept() -> None:
    """The shell that opens it takes numbers of one digit; what the program gets may have some of those."""
    command = Sandbox("bubblewrap", as_root=False).command(sandbox.Box(), ["true"], keep=(5, 3, 4))
    assert command[command.index("--seccomp") + 1] == "6"
    assert " 6<" in command[2]
