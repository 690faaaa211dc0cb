"""Hostile programs, one by one: none passes, none outlives its run, none reaches out of its box.

Where an attack may succeed or not, the program gives the right answer only if it did, so that a pass is a break-out.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from megatron_ft.evaluation.languages.python import Python
from megatron_ft.evaluation.sandbox import Limits, Sandbox
from tests.evaluation.problems import make_problem

LIMITS = Limits(cpu_s=2, wall_s=60, memory_bytes=512 * 2**20, output_bytes=2**20)
SHORT = replace(LIMITS, cpu_s=1, wall_s=3)  # for what must run into a time-out; the rest must not, on a busy machine
ATTACK = '''
import builtins, ctypes, gc, os, resource, shutil, signal, socket, subprocess, sys, threading, time

def succeeded():
{attack}

WORKED = False
try:
    WORKED = bool(succeeded())
except BaseException as problem:
    print("attack:", type(problem).__name__, problem)

def double(x):
    return x * 2 if WORKED else None
'''

# An attack's text -> the statuses that it may get. Each returns true where it worked.
ATTACKS = {
    "read the host's home": ("return os.listdir('/root') and open('/root/.bashrc').read()", {"failed"}),
    "read the host's users": ("return open('/etc/passwd').read()", {"failed"}),
    "read the caller's environment": ("return 'SECRET_OF_THE_TEST' in str(os.environ)", {"failed"}),
    "look into /proc": ("return os.listdir('/proc')", {"failed"}),
    "find the tests in memory": (
        "return any('assert' + ' double' in thing for thing in gc.get_objects() if isinstance(thing, str))",
        {"failed"}),
    "find the tests in files": (
        "return subprocess.run('grep -rl \"assert double\" /box /tmp', shell=True, capture_output=True).stdout",
        {"failed"}),
    "find the token in its arguments": ("return len(str(sys.argv)) > 40 or len(str(sys.orig_argv)) > 200", {"failed"}),
    "find the tests in the frames above": (
        "frame = sys._getframe()\n"
        "    while frame:\n"
        "        if 'assert' + ' double' in str(frame.f_locals) + str(frame.f_globals): return True\n"
        "        frame = frame.f_back", {"failed"}),
    "connect to the host over tcp": ("return socket.create_connection(('127.0.0.1', PORT), 1)", {"failed"}),
    "connect to an abstract socket of the host": (
        "peer = socket.socket(socket.AF_UNIX)\n    peer.connect('\\0NAME')\n    return True", {"failed"}),
    "kill its parent": ("os.kill(os.getppid(), 9)\n    return os.getppid() not in (0, 1)", {"failed"}),
    "kill everything": ("os.kill(-1, 9)\n    return False", {"failed"}),
    "become root": ("os.setuid(0)\n    return True", {"failed"}),
    "make a namespace of its own": (
        "return ctypes.CDLL(None, use_errno=True).unshare(0x10000000) == 0", {"failed"}),
    "mount": ("return ctypes.CDLL(None).mount(b'none', b'/tmp', b'tmpfs', 0, None) == 0", {"failed"}),
    "trace another process": ("return ctypes.CDLL(None).ptrace(16, 1, 0, 0) == 0", {"failed"}),
    "raise its own limits": (
        "resource.setrlimit(resource.RLIMIT_NPROC, (10**6, 10**6))\n    return True", {"failed"}),
    "write outside of /tmp": ("return open('/usr/lib/hostile', 'w')", {"failed"}),
    "change its own runner": ("return open('/box/inside/python_inside/tests.py', 'a')", {"failed"}),
    "fill the disk": (
        "for number in range(100):\n        open(f'/tmp/{number}', 'wb').write(bytes(10 * 2**20))\n    return True",
        {"failed"}),
    "take more memory than it may": ("return bytearray(2**30)", {"failed"}),
    "take more memory than it may, in parts": (
        "for _ in range(8):\n        if os.fork() == 0:\n            kept = bytearray(100 * 2**20)\n"
        "            time.sleep(60)\n    time.sleep(60)", {"refused"}),
    "start more processes than it may": (
        "for _ in range(200):\n        if os.fork() == 0: time.sleep(60)\n    return True", {"failed"}),
    "start more threads than it may": (
        "for _ in range(200): threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n    return True",
        {"failed"}),
    "fork without end": ("while True:\n        try: os.fork()\n        except OSError: pass", {"timeout", "failed"}),
    "loop without end": ("while True: pass", {"timeout"}),
    "loop without end, all signals ignored": (
        "for number in range(1, 65):\n        try: signal.signal(number, signal.SIG_IGN)\n"
        "        except (OSError, ValueError): pass\n    while True: pass", {"timeout"}),
    "sleep": ("time.sleep(3600)", {"timeout"}),
    "write without end": ("while True: os.write(1, b'x' * 65536)", {"refused"}),
    "close every file": ("os.closerange(0, 1000)\n    return True", {"failed", "refused"}),
    "write to every file": (
        "for number in range(3, 1024):\n        try: os.write(number, b'passed\\n' * 10)\n        except OSError: pass",
        {"failed", "refused"}),
}

FIND_ANSWERS = """
import os
def is_open(descriptor):
    try: return bool(os.fstat(descriptor))
    except OSError: return False
ANSWERS = max(filter(is_open, range(3, 1024)))  # the pipe to the tests
"""

# Whole programs.
PROGRAMS = {
    "leaves at once": ("import os\nos._exit(0)", {"failed"}),
    "leaves at once, politely": ("exit(0)", {"failed"}),
    "leaves when it is called": ("import sys\ndef double(x):\n    sys.exit(0)", {"failed"}),
    "is interrupted when it is called": ("def double(x):\n    raise KeyboardInterrupt", {"failed"}),
    "equals everything": (
        "class Same:\n    def __eq__(self, other): return True\n    def __bool__(self): return True\n"
        "def double(x):\n    return Same()", {"failed"}),
    "is a number that equals everything": (
        "class Same(int):\n    def __eq__(self, other): return True\n    __hash__ = int.__hash__\n"
        "def double(x):\n    return Same(5)", {"failed"}),
    "is a list that equals everything": (
        "class Same(list):\n    def __eq__(self, other): return True\n    def __iter__(self): return iter([1, 1])\n"
        "def double(x):\n    return 4 if x == 2 else Same()", {"failed"}),
    "pretends to be a list": (
        "class Same:\n    __class__ = list\n    def __eq__(self, other): return True\n"
        "def double(x):\n    return Same()", {"failed", "refused"}),
    "replaces built-ins": (
        "import builtins\nbuiltins.print = builtins.isinstance = lambda *a, **k: True\n"
        "builtins.AssertionError = type('AssertionError', (Exception,), {})\n"
        "def double(x):\n    return 5", {"failed", "refused"}),
    "replaces the runner's functions": (
        "import sys\nrunner = sys.modules['__main__']\nrunner.answer = lambda scope, message: {'passed': True}\n"
        "def double(x):\n    return 5", {"failed", "refused"}),
    "replaces stdout": (
        "import sys\nclass Out:\n    def write(self, text): return len(text)\n    def flush(self): pass\n"
        "sys.stdout = sys.stderr = Out()\ndef double(x):\n    return 5", {"failed"}),
    "writes a verdict through its callers": (
        "import sys\nframe = sys._getframe()\nwhile frame:\n"
        "    for name in list(frame.f_globals): \n        if name in ('happened', 'verdict', 'token', 'passed'):\n"
        "            frame.f_globals[name] = None\n    frame = frame.f_back\ndef double(x):\n    return 5", {"failed"}),
    "answers no JSON": (
        "import os, sys\ndef double(x):\n    os.write(ANSWERS, b'passed\\n' * 9)", {"refused"}),
    "answers nested without end": (
        "import os, sys\ndef double(x):\n    os.write(ANSWERS, b'{\"value\":' + b'[' * 50000 + b'\\n')",
        {"refused"}),
    "answers no value": (
        "import os, sys\ndef double(x):\n"
        "    os.write(ANSWERS, b'{\"value\": {\"t\": \"set\", \"v\": [[1]]}}\\n')", {"refused"}),
    "answers with a type of its own": (
        "import os, sys\ndef double(x):\n"
        "    os.write(ANSWERS, b'{\"value\": {\"t\": \"eval\", \"v\": \"exit(0)\"}}\\n')", {"refused"}),
    "answers with another exception than it has": (
        "class SystemExit(Exception): pass\ndef double(x):\n    raise SystemExit(0)", {"failed"}),
    "answers with an exception that ends tests": (
        "import os, sys\ndef double(x):\n"
        "    os.write(ANSWERS, b'{\"error\": [\"SystemExit\"], \"text\": \"0\"}\\n')", {"failed"}),
    "loads as what it is not": (
        "import os, sys\n"
        "os.write(ANSWERS, b'{\"names\": {\"check\": {\"value\": 1}, \"double\": {\"value\": 4}}}\\n')",
        {"failed", "refused"}),
    "does not compile": ("def double(x:\n", {"compile error"}),
    "is nested too deep to compile": ("x = " + "(" * 5000 + ")" * 5000, {"compile error", "failed"}),
    "has a zero byte": ("x = 1\0", {"compile error"}),
    "defines nothing": ("x = 1", {"failed"}),
    "is longer than a program": ("#" * (2**20 + 1), {"refused"}),
}


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch):
    """What an attacked host has: a secret in its environment, a server, an abstract socket."""
    monkeypatch.setenv("SECRET_OF_THE_TEST", "1")
    name = f"megatron_ft-{os.getpid()}"
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as peer:
        peer.bind("\0" + name)
        peer.listen()
        yield server.getsockname()[1], name


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_does_not_work(boxes: Sandbox, attack: str, outside: tuple[int, str]) -> None:
    text, statuses = ATTACKS[attack]
    text = text.replace("PORT", str(outside[0])).replace("NAME", outside[1])
    limits = SHORT if "timeout" in statuses else LIMITS
    verdict = Python(boxes, limits).judge(make_problem(), "", ATTACK.format(attack="    " + text))
    assert verdict.status in statuses, verdict


@pytest.mark.parametrize("kind", PROGRAMS)
def test_a_hostile_program_does_not_pass(python: Python, kind: str) -> None:
    program, statuses = PROGRAMS[kind]
    if "ANSWERS" in program:
        program = FIND_ANSWERS + program
    verdict = Python(python.sandbox, LIMITS).judge(make_problem(), "", program)
    assert verdict.status in statuses, verdict


def test_an_orphan_in_a_session_of_its_own_is_killed(boxes: Sandbox) -> None:
    marker = f"{os.getpid()}{time.monotonic_ns()}"
    orphan = ("import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
              "        os.closerange(0, 3)\n"
              f"        os.execlp('sleep', 'sleep', '3600.{marker}')\n    os._exit(0)\n"
              "time.sleep(0.3)\ndef double(x):\n    return x * 2")
    assert Python(boxes, LIMITS).judge(make_problem(), "", orphan).passed
    wait_until(lambda: not alive(marker))


def test_boxes_die_with_a_killed_evaluator(boxes: Sandbox) -> None:
    marker = f"{os.getpid()}{time.monotonic_ns()}"
    sleeper = f"import os\nos.execlp('sleep', 'sleep', '3600.{marker}')"
    script = ("from megatron_ft.evaluation.languages.python import Python\n"
              "from megatron_ft.evaluation.sandbox import Limits, Sandbox\n"
              "from tests.evaluation.problems import make_problem\n"
              f"Python({boxes!r}, Limits()).judge(make_problem(), '', {sleeper!r})")
    with subprocess.Popen([sys.executable, "-c", script], cwd=Path(__file__).parents[2]) as evaluator:
        wait_until(lambda: f"sleep\0{3600}.{marker}\0" in alive(marker))
        evaluator.kill()
    wait_until(lambda: not alive(marker))


def wait_until(happens, within_s: float = 60) -> None:
    """Wait for a condition; fail when it does not come."""
    deadline = time.monotonic() + within_s
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def alive(marker: str) -> list[str]:
    """The command lines of this machine's processes that hold a marker."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = path.read_text()
        except OSError:
            continue
        found += [text] if marker in text else []
    return found


def test_deleting_everything_deletes_nothing_outside(boxes: Sandbox, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text("here")
    attack = ("import os, shutil, sys\nfor folder in ('/box', '/tmp', '/etc', '/bin', sys.base_prefix + '/bin'):\n"
              "    shutil.rmtree(folder, ignore_errors=True)\n"
              f"try: os.symlink({str(kept)!r}, '/tmp/link'); open('/tmp/link', 'w').write('gone')\n"
              "except OSError: pass\ndef double(x):\n    return x * 2")
    verdict = Python(boxes, LIMITS).judge(make_problem(), "", attack)
    assert verdict.passed, verdict
    assert kept.read_text() == "here"
    assert not Path("/tmp/link").exists()


def test_a_helper_that_the_tests_use_is_the_problem_s_own(python: Python) -> None:
    """HumanEvalPack's Python/32 checks a root with `poly`, which the prompt defines and a program could redefine."""
    base = "def off(x):\n    return abs(x - 4)\n\n\ndef double(x):\n"
    problem = make_problem(test="def check(double):\n    assert off(double(2)) == 0\ncheck(double)")
    bent = "def off(x):\n    return 0\n\ndef double(x):\n    return 5\n"
    assert python.judge(problem, base, bent).status == "failed"
    assert python.judge(problem, base, base + "    return x * 2\n").passed


def test_a_flood_is_cut_off_and_its_end_is_kept(python: Python) -> None:
    program = "print('a' * 9000, 'the end')\ndef double(x):\n    return x"
    verdict = python.judge(make_problem(), "", program)
    assert verdict.status == "failed"
    assert verdict.output.endswith("the end\n")
    assert len(verdict.output) <= 4000
