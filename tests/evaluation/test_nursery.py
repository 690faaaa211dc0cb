"""Programs that are forked one after the other from one box: none finds anything of another, or any right."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from megatron_ft.errors import EvaluationError
from megatron_ft.evaluation import interpreter, sandbox
from megatron_ft.evaluation.box import Box
from megatron_ft.evaluation.languages.python import Python
from megatron_ft.evaluation.nursery import Nursery
from megatron_ft.evaluation.sandbox import Limits, Sandbox
from megatron_ft.evaluation.supervise import started, watch
from tests.evaluation import ordinary_user
from tests.evaluation.problems import make_problem

LEAVES = """
import builtins, ctypes, os, time
libc = ctypes.CDLL(None)
def double(x):
    open("/tmp/left", "w").write("x")
    builtins.left = True
    if (libc.shmget(77, 4096, 0o1666) >= 0) is FILTERED: return "shared memory, or none"
    if os.fork() == 0:
        os.setsid()
        time.sleep(3600)
    return x * 2
"""
FINDS = """
import builtins, ctypes, os
libc = ctypes.CDLL(None)
def double(x):
    found = [os.listdir("/tmp"), hasattr(builtins, "left"), libc.shmget(77, 4096, 0o666) >= 0]
    alive = []
    for pid in range(1, 300):
        try: os.kill(pid, 0)
        except ProcessLookupError: continue
        except PermissionError: pass
        alive.append(pid)
    return x * 2 if found == [[], False, False] and alive == [1] else [found, alive]
"""
RIGHTS = """
import ctypes, os, resource, stat, struct
libc = ctypes.CDLL(None, use_errno=True)
def double(x):
    header, held = ctypes.create_string_buffer(struct.pack("Ii", 0x20080522, 0)), ctypes.create_string_buffer(24)
    libc.capget(header, held)
    kinds = []
    for descriptor in range(256):
        try: kinds.append((descriptor > 2, stat.S_IFMT(os.fstat(descriptor).st_mode)))
        except OSError: pass
    found = {"capabilities": any(held.raw), "root": os.getuid() == 0 or 0 in os.getgroups(),
             "gets rights by exec": libc.prctl(39, 0, 0, 0, 0) != 1, "namespace": libc.unshare(0x10000000) == 0,
             "sockets": any(kind == stat.S_IFSOCK for _, kind in kinds), "descriptors": len(kinds) - 5,
             "processes": resource.getrlimit(resource.RLIMIT_NPROC)[1] > 100}
    return x * 2 if not any(found.values()) else [key for key, value in found.items() if value] + kinds
"""


def verdicts(python: Python) -> list[str]:
    """What programs give that try to find each other's traces, and rights."""
    leaves = f"FILTERED = {python.sandbox.filtered}\n{LEAVES}"
    judged = [python.judge(make_problem(test="assert double(2) == 4, double(2)"), "", program)
              for program in (leaves, FINDS, RIGHTS, FINDS)]
    return [verdict.reason or verdict.status for verdict in judged]


@pytest.mark.parametrize("filtered", [True, False])
def test_no_program_finds_traces_of_another_or_rights(boxes: Sandbox, filtered: bool) -> None:
    """Where the kernel has no filter, shared memory can be made, and must not be found."""
    assert verdicts(Python(replace(boxes, filtered=filtered), Limits(cpu_s=5, wall_s=60))) == ["passed"] * 4


@pytest.mark.parametrize("tool", sandbox.TOOLS)
def test_nor_does_it_where_the_evaluator_runs_as_an_ordinary_user(tool: str) -> None:
    script = ("from megatron_ft.evaluation import sandbox\nfrom megatron_ft.evaluation.languages.python import Python\n"
              "from tests.evaluation.test_nursery import verdicts\n"
              f"box = sandbox.find(tools=({tool!r},))\nassert not box.as_root\nprint(*verdicts(Python(box)))")
    done = ordinary_user.run(script)
    if done.returncode and "no sandbox works here" in done.stderr and os.environ.get("CI") != "true":
        pytest.skip(f"{tool} as an ordinary user: {done.stderr.splitlines()[-1]}")
    assert done.stdout.split() == ["passed"] * 4, done.stderr


@pytest.mark.parametrize("filtered", [True, False])
def test_nor_does_a_command(boxes: Sandbox, filtered: bool, tmp_path: Path) -> None:
    """As compilers and programs of other languages are run: any command, or a file that lies under no name in the box."""
    boxes = replace(boxes, filtered=filtered)
    nursery = Nursery(boxes, Box(interpreter.shown(), limits=Limits(cpu_s=5, wall_s=60)))
    copied = tmp_path / "program"
    shutil.copy(shutil.which("env"), copied)
    python = [interpreter.interpreter(), "-s", "-c"]
    pipes = os.pipe()
    try:
        for program in (LEAVES, FINDS, RIGHTS, FINDS):
            script = f"FILTERED = {filtered}\n{program}\nassert double(2) == 4, double(2)\n"
            assert ended(nursery, [*python, script], keep=pipes) == (0, "")
        status, said = ended(nursery, ["env", *python, "import os; print(dict(os.environ), os.listdir('/box'))"],
                             executable=copied)
    finally:
        for each in pipes:
            os.close(each)
        nursery.close()
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/tmp", "TMPDIR": "/tmp", "LANG": "C.UTF-8"}
    assert (status, said) == (0, f"{environment} ['inside']\n")


def ended(nursery: Nursery, argv: list[str], stdin: bytes = b"", **options: object) -> tuple[int | None, str]:
    """Exit status and output of a command."""
    with nursery.started(argv, stdin=stdin, **options) as running:
        assert watch([running.output], [running.output], time.monotonic() + 30) == "ended"
        return running.status(within_s=5), running.output.text


@pytest.mark.parametrize("stdin", [b"", b"given", b"large" * 2**18], ids=["empty", "small", "large"])
def test_nothing_can_be_written_into_standard_input(boxes: Sandbox, stdin: bytes) -> None:
    """It would be a file on the evaluator's disk."""
    command = ["/bin/sh", "-c", "cksum; head -c 100000 /dev/zero >&0"]
    read = subprocess.run("cksum", input=stdin, capture_output=True, check=True).stdout.decode()
    nursery = Nursery(boxes, Box())
    try:
        status, said = ended(nursery, command, stdin)
    finally:
        nursery.close()
    with started(boxes, Box(), command, stdin=stdin) as running:
        watch([running.output], [running.output], time.monotonic() + 30)
        alone = running.output.text
    for each in (said, alone.removeprefix("\x01up\n")):
        assert each.startswith(read) and "Bad file descriptor" in each
    assert status != 0


def test_a_command_finds_signals_as_they_are_by_default(boxes: Sandbox) -> None:
    """Python ignores some, and what it starts would too: a writer whose reader has gone would go on."""
    nursery = Nursery(boxes, Box())
    try:
        assert ended(nursery, ["/bin/sh", "-c", "yes | head -n 1"]) == (0, "y\n")
    finally:
        nursery.close()


def test_what_one_thread_leaves_serves_the_next(boxes: Sandbox) -> None:
    python = Python(boxes)
    assert python.judge(make_problem(), "", "def double(x):\n    return x * 2\n").passed
    mine = python._nursery("program")
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(python._nursery, "program").result() is not mine
    python.nurseries.leave()
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(python._nursery, "program").result() is mine
    assert python._nursery("program") is not mine
    assert mine.alive
    mine.process.kill()
    mine.process.wait()
    python.nurseries.leave()
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(python._nursery, "program").result().alive


def test_a_nursery_that_is_killed_is_replaced(boxes: Sandbox) -> None:
    python = Python(boxes, Limits(cpu_s=5, wall_s=60))
    problem, right = make_problem(), "def double(x):\n    return x * 2\n"
    assert python.judge(problem, "", right).passed
    first = python._nursery("program")
    os.kill(first.process.pid, signal.SIGKILL)
    first.process.wait()
    assert python.judge(problem, "", right).passed
    assert python._nursery("program") is not first


def test_a_nursery_that_dies_beside_a_program_gives_no_verdict_on_it(boxes: Sandbox) -> None:
    """Its program did not fail: it is run again in the next one."""
    python = Python(boxes, Limits(cpu_s=5, wall_s=60))
    nursery, begun = python._nursery("program"), python._nursery("tests").started

    def kill_the_other(*words: object, **options: object):
        python._nursery("tests").started = begun
        os.killpg(nursery.process.pid, signal.SIGKILL)
        return begun(*words, **options)

    python._nursery("tests").started = kill_the_other
    assert python.judge(make_problem(), "", "def double(x):\n    return x * 2\n").passed


def test_an_order_to_a_nursery_that_has_just_died_is_taken_by_the_next(boxes: Sandbox) -> None:
    """Its socket says so before its outermost process has been waited for."""
    python = Python(boxes, Limits(cpu_s=5, wall_s=60))
    problem, right = make_problem(), "def double(x):\n    return x * 2\n"
    assert python.judge(problem, "", right).passed
    python._nursery("program")._control.shutdown(socket.SHUT_RDWR)
    assert python.judge(problem, "", right).passed


def begun_with(text: str, python: Python, folder: Path) -> Python:
    """The same, whose interpreters run a text at their start."""
    shutil.copytree(interpreter.SCRIPTS, folder / interpreter.SCRIPTS.name)
    folder.chmod(0o755)
    with (folder / interpreter.SCRIPTS.name / "__init__.py").open("a") as file:
        file.write(text)
    box = python._box
    python._box = replace(box, read_only={**box.read_only, str(folder): "/box/site"},
                          environment={**box.environment, "PYTHONPATH": f"/box/site:{box.environment['PYTHONPATH']}"})
    return python


def test_a_nursery_needs_no_descriptors_of_processes(boxes: Sandbox, tmp_path: Path) -> None:
    """Linux has them since 5.3, and pythons that are built for older ones lack the call."""
    python = begun_with("import os\ndel os.pidfd_open\n", Python(boxes, Limits(cpu_s=1, wall_s=2)), tmp_path / "site")
    right = "import os\ndef double(x):\n    return x * 2 if not hasattr(os, 'pidfd_open') else None\n"
    sleeps = "import time\ntime.sleep(3600)\n"
    assert [python.judge(make_problem(), "", program).status for program in (sleeps, right)] == ["timeout", "passed"]


def test_what_ended_a_nursery_is_in_the_error(boxes: Sandbox, tmp_path: Path) -> None:
    text = "import os, types\nos.uname = lambda: types.SimpleNamespace(machine='abacus')\n"
    python = begun_with(text, Python(boxes), tmp_path / "site")
    with pytest.raises(EvaluationError, match="(?s)did not come up in 3 attempts.*KeyError: 'abacus'"):
        python.judge(make_problem(), "", "def double(x):\n    return x * 2\n")
