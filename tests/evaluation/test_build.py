"""What a compiler's box makes of a source, and what is no source's doing: it is tried again, and never scored."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from megatron_ft.errors import EvaluationError
from megatron_ft.evaluation import build as building
from megatron_ft.evaluation import supervise
from megatron_ft.evaluation.box import Box, Limits
from megatron_ft.evaluation.build import build
from megatron_ft.evaluation.case import STARTS
from megatron_ft.evaluation.sandbox import Sandbox
from megatron_ft.evaluation.supervise import Running
from tests.evaluation.conftest import sandbox_or_skip
from tests.evaluation.faulty import ANNOUNCED_AND_KILLED, DOWN, faulty

BOX = Box(limits=Limits(cpu_s=2, wall_s=90))
UPPER = "tr a-z A-Z"
# g++ 12, its linker's driver, go 1.19: each leaves with 1 or 2 itself.
KILLED_PARTS = ("g++: fatal error: Killed signal terminated program cc1plus",
                "collect2: fatal error: ld terminated with signal 9 [Killed]",
                "go build x: /usr/lib/go/pkg/tool/compile: signal: killed")


@pytest.fixture
def first() -> Sandbox:
    """The first tool's sandbox."""
    return sandbox_or_skip("bubblewrap")


def test_what_is_built_is_what_the_script_wrote_to_stdout(boxes: Sandbox) -> None:
    built = build(boxes, BOX, f"echo note >&2; {UPPER}", b"so\x00urce\n")
    assert (built.data, built.status, built.output) == (b"SO\x00URCE\n", "", "note\n")


def test_so_is_it_without_a_sandbox() -> None:
    assert build(Sandbox("none", as_root=False, locked=False, filtered=False), BOX, UPPER, b"source").data == b"SOURCE"


def test_a_source_that_does_not_compile_is_tried_once(first: Sandbox) -> None:
    boxes = faulty(first)
    built = build(boxes, BOX, "echo 'x:1: error: no' >&2; exit 1", b"")
    assert (built.status, built.reason, boxes.attempts) == ("compile error", "x:1: error: no", 1)


def test_an_artifact_as_large_as_a_file_may_be_is_whole(first: Sandbox) -> None:
    limits = Limits(cpu_s=2, wall_s=90, file_bytes=2**20)
    assert build(first, Box(limits=limits), f"head -c {2**20} /dev/zero", b"").data == bytes(2**20)
    assert build(first, Box(limits=limits), f"head -c {2**20 + 1} /dev/zero", b"").status == "refused"


@pytest.mark.parametrize("trouble", [DOWN, ANNOUNCED_AND_KILLED])
def test_a_box_that_is_in_trouble_twice_is_tried_a_third_time(boxes: Sandbox, trouble: str) -> None:
    twice = faulty(boxes, trouble, trouble)
    assert build(twice, BOX, UPPER, b"source").data == b"SOURCE"
    assert twice.attempts == 3


def test_a_box_that_never_comes_up_stops_the_run(first: Sandbox) -> None:
    with pytest.raises(EvaluationError, match="a compiler's box did not come up in 3 attempts.*It said: no room"):
        build(faulty(first, *[DOWN] * STARTS), BOX, UPPER, b"source")


def test_a_compiler_that_is_killed_each_time_stops_the_run_and_says_what_may_help(boxes: Sandbox) -> None:
    with pytest.raises(EvaluationError, match="killed from outside, perhaps because memory is short, in 3 attempts.*of the "
                                              "2147483648 bytes.*Give the job more memory, or run fewer programs at a time"):
        build(boxes, BOX, "kill -9 $$", b"source")


def test_a_compiler_that_is_killed_when_a_source_made_it_large_refuses_the_source(first: Sandbox,
                                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a program that no machine can compile would stop every run."""
    look = supervise.over_memory

    def look_and_kill(guarded: Running) -> bool:
        look(guarded)
        if guarded.peak_bytes > most / 2:
            os.killpg(guarded.pid, signal.SIGKILL)
        return False

    most = 96 * 2**20
    monkeypatch.setattr(supervise, "over_memory", look_and_kill)
    limits = Limits(cpu_s=20, wall_s=90, memory_bytes=most, address_space=False)
    # A variable of 60 MB, which the shell holds in the size of several.
    built = build(first, Box(limits=limits), "x=$(head -c 60000000 /dev/zero | tr '\\0' x); sleep 80", b"")
    assert built.status == "refused"
    assert "killed from outside, perhaps because memory is short, in 3 attempts, when it used " in built.reason


@pytest.mark.parametrize("said", KILLED_PARTS)
def test_a_driver_whose_part_was_killed_is_believed_if_the_kernel_has_killed_something(
        first: Sandbox, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = iter(range(100))
    monkeypatch.setattr(building, "oom_kills", lambda: next(counts))
    boxes = faulty(first)
    with pytest.raises(EvaluationError, match="killed from outside"):
        build(boxes, BOX, f"echo '{said}' >&2; exit 1", b"")
    assert boxes.attempts == STARTS


@pytest.mark.parametrize("said", KILLED_PARTS)
def test_a_source_that_makes_a_driver_say_so_is_not_believed(first: Sandbox, said: str) -> None:
    boxes = faulty(first)
    assert building.oom_kills() == building.oom_kills()  # or this test would not hold
    built = build(boxes, BOX, f"echo '{said}' >&2; exit 1", b"")
    assert (built.status, built.reason, boxes.attempts) == ("compile error", said, 1)


@pytest.fixture
def little_memory() -> Iterator[Path]:
    """A control group of 60 MB; what writes its id into the file that this gives is in it."""
    for place, limit in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")):
        group = Path(place) / f"megatron_ft-{os.getpid()}"
        try:
            group.mkdir()
            (group / limit).write_text(str(60 * 2**20))
        except OSError:
            if group.is_dir():
                group.rmdir()
            continue
        yield group / "cgroup.procs"
        while True:  # what was in it may still be leaving
            try:
                return group.rmdir()
            except OSError:
                time.sleep(0.1)
    pytest.skip("no control group with a limit on memory can be made here")


def test_a_real_compiler_that_the_kernel_kills_for_memory_stops_the_run(little_memory: Path) -> None:
    """g++ leaves with 1 and says that its part was killed: no word of it is in the program's score."""
    script = ("from megatron_ft.evaluation import build, sandbox\n"
              "build.build(sandbox.find(), sandbox.Box(), 'g++ -x c++ - -o half && cat half',\n"
              "            b'#include <bits/stdc++.h>\\nint main(){}\\n')")
    enter = f'echo $$ >{little_memory} && exec "$@"'
    done = subprocess.run(["/bin/sh", "-c", enter, "sh", sys.executable, "-c", script], cwd=Path(__file__).parents[2],
                          capture_output=True, text=True, timeout=300, check=False)
    assert "EvaluationError: a compiler was killed from outside, perhaps because memory is short, in 3 attempts" in done.stderr
    assert "Killed signal terminated program cc1plus" in done.stderr


def test_a_compiler_that_holds_the_signal_for_its_cpu_time_has_timed_out(boxes: Sandbox) -> None:
    """Go's runtime does: the SIGKILL that comes a second later is no outsider's."""
    begun = time.monotonic()
    built = build(boxes, Box(limits=Limits(cpu_s=1, wall_s=500)), "trap '' XCPU; while true; do :; done", b"")
    assert built.status == "timeout"
    assert "1 s of cpu time" in built.reason
    assert built.seconds <= time.monotonic() - begun


def test_two_threads_use_their_cpu_time_up_before_that_time_has_passed() -> None:
    """What counts is the time that was used, not the time that went by."""
    from megatron_ft.evaluation.case import out_of_cpu
    running = Running.__new__(Running)
    running.cpu_s, running.started = 9.9, time.monotonic() - 5
    assert out_of_cpu(running, 137, Limits(cpu_s=10))
    running.cpu_s, running.started = 0.5, time.monotonic() - 50
    assert not out_of_cpu(running, 137, Limits(cpu_s=10))
