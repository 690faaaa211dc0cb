"""Compilers that stay: what ends one, what is tried again, and who is to blame.

They are stood in for by a few lines of python that speak the same protocol, so that no JVM is started for each way to end.
"""

from __future__ import annotations

import os
import shlex
import signal

import pytest

from megatron_ft.errors import EvaluationError
from megatron_ft.evaluation.interpreter import interpreter
from megatron_ft.evaluation.languages.java_compiler import Compilers
from megatron_ft.evaluation.languages.python import Python
from megatron_ft.evaluation.sandbox import Sandbox
from tests.evaluation.conftest import sandbox_or_skip

SERVES = """
import os, struct, sys
requests, answers = map(int, sys.argv[1:])
def read(count):
    data = b""
    while len(data) < count:
        data += os.read(requests, count - len(data)) or sys.exit()
    return data
while True:
    source = read(struct.unpack(">i", read(4))[0])
    if source == b"ends": sys.exit("it was too much")
    if source == b"kills": os.kill(os.getpid(), 9)
    os.write(answers, struct.pack(">i", len(source) + 1) + b"c" + source.upper())
"""


@pytest.fixture
def boxes() -> Sandbox:
    """The first tool's."""
    return sandbox_or_skip("bubblewrap")


def compilers(boxes: Sandbox, script: str = "") -> Compilers:
    """As Java has them, with the stand-in or another script."""
    serves = f'exec {interpreter()} -s -c {shlex.quote(SERVES)} "$@"'
    return Compilers(boxes, Python(boxes)._box, script or serves)


def test_one_that_stays_answers_one_source_after_another(boxes: Sandbox) -> None:
    mine = compilers(boxes)
    assert [mine.compile(source) for source in (b"a", b"", b"bcd")] == [b"cA", b"c", b"cBCD"]
    assert len(mine._idle) == 1
    mine.close()


def test_one_that_was_killed_while_it_was_idle_is_replaced(boxes: Sandbox) -> None:
    mine = compilers(boxes)
    mine.compile(b"a")
    os.killpg(mine._idle[0]._running.pid, signal.SIGKILL)
    assert mine.compile(b"b") == b"cB"
    mine.close()


def test_a_source_at_which_each_one_ends_is_to_blame_if_another_does_not(boxes: Sandbox) -> None:
    mine = compilers(boxes)
    assert mine.compile(b"ends") is None
    assert mine.compile(b"a") == b"cA"
    mine.close()


def test_one_that_ends_at_every_source_stops_the_run(boxes: Sandbox) -> None:
    with pytest.raises(EvaluationError, match="a compiler ends at every source, even at none; it said: no room"):
        compilers(boxes, "echo no room; exit 1").compile(b"a")


def test_one_that_is_killed_each_time_stops_the_run(boxes: Sandbox) -> None:
    with pytest.raises(EvaluationError, match="killed from outside, perhaps because memory is short, in 3 attempts"):
        compilers(boxes).compile(b"kills")
