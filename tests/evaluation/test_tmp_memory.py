"""What a program has in /tmp counts as memory that it uses; so do names, of which a million take a gigabyte of the kernel's."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from megatron_ft.evaluation import sandbox
from megatron_ft.evaluation.box import Box, Limits
from megatron_ft.evaluation.sandbox import Sandbox
from megatron_ft.evaluation.supervise import family, started
from megatron_ft.evaluation.tmp_memory import NAME_BYTES, held_bytes
from tests.evaluation.hostile import world

LIMITS = Limits(cpu_s=60, wall_s=300, memory_bytes=200 * 2**20)
FILL = "i=0; while [ $i -lt 2000 ]; do : >/tmp/$i; i=$((i+1)); done; head -c 999000 /dev/zero >/tmp/full; echo made; sleep 60"
ENDLESS = "import os\nfor number in range(10**8):\n    os.mkdir(f'/tmp/{number}')\n"
JUDGE = ("from megatron_ft.evaluation import sandbox\nfrom megatron_ft.evaluation.languages.python import Python\n"
         "from tests.evaluation.problems import make_problem\nfrom tests.evaluation.test_tmp_memory import ENDLESS, LIMITS\n"
         "print(Python(sandbox.find(tools=('TOOL',)), LIMITS).judge(make_problem(), '', ENDLESS).reason)")


def test_files_and_their_names_are_seen(boxes: Sandbox) -> None:
    with started(boxes, Box(limits=LIMITS), ["/bin/sh", "-c", FILL]) as running:
        while b"made" not in running.output.tail:
            running.output.read()
        seen = held_bytes(family(running.pid)[-1])
    pages = -(-999_000 // os.sysconf("SC_PAGE_SIZE")) * os.sysconf("SC_PAGE_SIZE")
    assert seen - 2002 * NAME_BYTES == pages  # 2000 empty files, a full one, and the folder


def test_the_machine_s_own_tmp_is_not_the_box_s() -> None:
    assert held_bytes(os.getpid()) == 0
    assert held_bytes(2**22 + 1) == 0  # there is no such process


@pytest.mark.parametrize("tool", sandbox.TOOLS)
@pytest.mark.parametrize("user", world.USERS)
def test_names_without_end_are_too_much_memory(user: str, tool: str, tmp_path: Path) -> None:
    if world.missing(user):
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(world.missing(user))
    done = world.run([sys.executable, "-c", JUDGE.replace("TOOL", tool)], user=user, folder=tmp_path / "world",
                     cache_folder=tmp_path)
    assert done.stdout.strip() == f"its processes used more than {LIMITS.memory_bytes} bytes together", done.stderr
