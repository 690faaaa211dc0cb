"""Boxes: found by trying, refused when absent, the same for root and for an ordinary user."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Collection, Sequence

import pytest

from megatron_ft.errors import EvaluationError
from megatron_ft.evaluation import sandbox
from megatron_ft.evaluation.box import unprivileged_uid
from megatron_ft.evaluation.languages.python import Python
from megatron_ft.evaluation.sandbox import Box, Limits, Sandbox
from tests.evaluation import ordinary_user
from tests.evaluation.problems import make_problem

LOOK = ("id -u; ls / | tr '\\n' ' '; echo; touch /usr/x /x 2>/dev/null && echo writable; "
        "unshare --user true 2>/dev/null && echo namespace; "
        "ls /sys /proc /root /home 2>/dev/null | wc -l; prlimit --nproc -o SOFT --noheadings")


def test_the_first_tool_that_works_is_taken(boxes: Sandbox) -> None:
    assert sandbox.find(tools=(boxes.tool,)) == boxes


@pytest.mark.parametrize("tool", sandbox.TOOLS)
def test_a_box_of_an_ordinary_user_holds_as_well(tool: str) -> None:
    done = ordinary_user.run("import subprocess, sys\nfrom megatron_ft.evaluation.sandbox import Box, Sandbox\n"
                             "command = Sandbox(sys.argv[1], as_root=False).command(Box(), ['/bin/sh', '-c', sys.argv[2]])\n"
                             "subprocess.run(command, timeout=60, check=True)", arguments=[tool, LOOK])
    if done.returncode:
        give_up = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        give_up(f"{tool} as an ordinary user: {done.stderr.strip()}")
    uid, names, found, processes = done.stdout.splitlines()
    assert uid == "65534"
    assert set(names.split()) <= {"bin", "dev", "etc", "lib", "lib32", "lib64", "sbin", "tmp", "usr"}
    assert found == "0"
    assert processes.strip() == str(Limits().processes)


def test_a_box_shows_what_it_is_given_and_no_more(boxes: Sandbox, tmp_path) -> None:
    (tmp_path / "given").write_text("shown")
    (tmp_path / "kept").write_text("hidden")
    box = Box({str(tmp_path / "given"): "/box/given"}, {"NAME": "value"})
    script = f"cat /box/given; echo $NAME; ls {tmp_path} 2>/dev/null; echo x 2>/dev/null > /box/given"
    done = subprocess.run(boxes.command(box, ["/bin/sh", "-c", script]), capture_output=True, text=True, check=False)
    assert done.stdout == "shownvalue\n"
    assert (tmp_path / "given").read_text() == "shown"


def test_every_box_of_root_has_a_user_id_of_its_own() -> None:
    given = [unprivileged_uid() for _ in range(1000)]
    assert len(set(given)) == len(given)


def test_evaluators_that_do_not_see_each_other_give_other_user_ids() -> None:
    """In two containers of a machine processes have the same numbers, so that no id may follow from them."""
    script = "from megatron_ft.evaluation.box import unprivileged_uid\nprint(unprivileged_uid())"
    alone = ["unshare", "--pid", "--fork", "--", sys.executable, "-c", script]
    if os.geteuid():
        pytest.skip("an ordinary user's boxes keep the user's id")
    first, second = (int(subprocess.run(alone, cwd=ordinary_user.REPOSITORY, capture_output=True, text=True, check=True).stdout)
                     for _ in range(2))
    assert abs(first - second) > 1000


def test_without_a_sandbox_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(EvaluationError, match="no sandbox works here.*install util-linux, and bubblewrap.*no bwrap and no"):
        sandbox.find()


def test_a_tool_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "PROBE", "echo out of order >&2; false")
    with pytest.raises(EvaluationError, match="bubblewrap: out of order"):
        sandbox.find()


def test_what_a_sandbox_lacks_is_part_of_its_description() -> None:
    assert Sandbox("unshare", as_root=True).described() == "unshare, as root"
    assert Sandbox("bubblewrap", as_root=False, locked=False, filtered=False).described() == (
        "bubblewrap, as an ordinary user; no lock against further user namespaces and no filter of system calls, which this "
        "kernel or machine lacks")
    assert "unsafe" in Sandbox("none", as_root=False).described()


def test_unsafe_runs_without_a_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    found = sandbox.find(unsafe=True)
    assert found.tool == "none"
    python = Python(found, Limits(cpu_s=5, wall_s=60))
    assert python.judge(make_problem(), "", "def double(x):\n    return x * 2\n").passed
    assert python.judge(make_problem(), "", "import time\ndef double(x):\n    return x\n").status == "failed"


def test_a_box_that_cannot_be_started_stops_the_run() -> None:
    class Gone(Sandbox):
        def command(self, box: Box, argv: Sequence[str], keep: Collection[int] = (), folder: str = "/tmp") -> list[str]:
            return ["/no/such/tool"]

    with pytest.raises(EvaluationError, match="a box could not be started.*no/such/tool"):
        Python(Gone("none", as_root=False), Limits()).judge(make_problem(), "", "")


def test_boxes_that_do_not_come_up_stop_the_run() -> None:
    class Down(Sandbox):
        def command(self, box: Box, argv: Sequence[str], keep: Collection[int] = (), folder: str = "/tmp") -> list[str]:
            return ["/bin/sh", "-c", "echo no room; exit 1"]

    with pytest.raises(EvaluationError, match="did not come up in 3 attempts; they said: no room"):
        Python(Down("none", as_root=False), Limits()).judge(make_problem(), "", "")
