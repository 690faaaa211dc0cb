"""The evaluator within a container such as Apptainer makes: it works, or says why not and what to do.

What such a container is: a user namespace that maps the caller alone, to itself or (--fakeroot) to root; mounts of its own; no
new privileges; the machine's /proc, some of it hidden. It is made here by unshare, which is what Apptainer does by itself.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys

import pytest

from megatron_ft.evaluation import obstacles
from tests.evaluation import ordinary_user

JUDGES = """
import sys
from megatron_ft.errors import EvaluationError
from megatron_ft.evaluation import sandbox
from megatron_ft.evaluation.languages.python import Python
from tests.evaluation.problems import make_problem
try:
    box = sandbox.find(tools=tuple(sys.argv[1:]))
except EvaluationError as error:
    sys.exit(f"refused: {error}")
programs = [f"def double(x):\\n    return x * {factor}\\n" for factor in (2, 3)]
print(box.as_root, box.locked, box.filtered, *(Python(box).judge(make_problem(), "", each).status for each in programs))
"""
PROC = {
    "whole": [],
    "masked": ["for name in kcore keys version; do [ ! -e /proc/$name ] || mount --bind /dev/null /proc/$name; done",
               "mount -t tmpfs tmpfs /proc/tty", "mount --bind /proc/sys /proc/sys",
               "mount -o remount,bind,ro,nosuid,nodev,noexec /proc/sys"],
    "absent": ["mount -t tmpfs tmpfs /proc"],
}
FORBID = "echo 0 >/proc/sys/user/max_user_namespaces"
DROP = {"itself": ["setpriv", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all", "--"],
        "root": ["setpriv", "--no-new-privs", "--"]}
MAP = {"itself": [f"--map-user={ordinary_user.UID}", f"--map-group={ordinary_user.UID}", "--keep-caps"],
       "root": ["--map-root-user"]}
NESTED = "APPTAINER_CONTAINER=/images/any.sif"


def container(user: str, *, nested: bool = True, proc: str = "whole", more: tuple[str, ...] = ()) -> list[str]:
    """The command that runs what follows in a container in which the caller is itself, or root."""
    script = "; ".join(["set -e", *([] if nested else [FORBID]), *PROC[proc], f'exec {shlex.join(DROP[user])} "$@"'])
    return ["unshare", "--user", *MAP[user], "--mount", *more, "--", "/bin/sh", "-c", script, "sh", "env", NESTED]


def within(inside: list[str], *tools: str) -> subprocess.CompletedProcess:
    """Judge a right and a wrong program in there, as an ordinary user; skipped where not even the container can be made."""
    probe = ordinary_user.run("print('made')", inside=inside)
    if probe.stdout != "made\n":
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"no such container here: {probe.stderr.strip()}")
    return ordinary_user.run(JUDGES, inside=inside, arguments=tools)


@pytest.mark.parametrize("tool", ["bubblewrap", "unshare"])
@pytest.mark.parametrize("proc", ["whole", "masked"])
@pytest.mark.parametrize("user", ["itself", "root"])
def test_programs_are_judged_in_a_container_that_allows_namespaces(user: str, proc: str, tool: str) -> None:
    done = within(container(user, proc=proc), tool)
    assert done.stdout.split() == ["False", "True", "True", "passed", "failed"], done.stderr


@pytest.mark.parametrize("tool", ["bubblewrap", "unshare"])
def test_root_of_a_container_needs_no_further_user_namespace(tool: str) -> None:
    """It has the rights that making a box takes; as no namespace can be made, there is none to lock."""
    done = within(container("root", nested=False), tool)
    assert done.stdout.split() == ["True", "False", "True", "passed", "failed"], done.stderr


def test_without_further_namespaces_the_error_names_the_setting_and_what_to_do() -> None:
    done = within(container("itself", nested=False), "bubblewrap", "unshare")
    assert done.returncode == 1
    assert "refused: no sandbox works here" in done.stderr
    assert "user.max_user_namespaces is 0: no user namespace may be made here" in done.stderr
    assert "`sysctl user.max_user_namespaces=15000`" in done.stderr
    assert "This is an Apptainer container" in done.stderr
    assert "run the evaluator outside of it" in done.stderr
    assert "`--generations` scores there what was generated elsewhere" in done.stderr


@pytest.mark.parametrize("user", ["itself", "root"])
def test_without_proc_the_error_says_what_it_is_for_and_how_to_have_it(user: str) -> None:
    done = within(container(user, proc="absent"), "bubblewrap", "unshare")
    assert "the memory of boxes is looked up in /proc, which is not there" in done.stderr.lower()
    assert "leave out `--no-mount proc`" in done.stderr


def test_the_proc_of_another_pid_namespace_is_no_proc() -> None:
    done = within(container("root", more=("--pid", "--fork")), "bubblewrap", "unshare")
    assert "/proc is of another pid namespace" in done.stderr


def as_root(inside: list[str], *tools: str) -> subprocess.CompletedProcess:
    """The same as root, by this interpreter."""
    if os.geteuid():
        pytest.skip("this test is root's")
    return subprocess.run([*inside, sys.executable, "-c", JUDGES, *tools], cwd=ordinary_user.REPOSITORY, capture_output=True,
                          text=True, timeout=120, check=False)


@pytest.mark.parametrize("tool", ["bubblewrap", "unshare"])
def test_programs_are_judged_in_a_container_of_root(tool: str) -> None:
    done = as_root(["unshare", "--mount", "--", "setpriv", "--no-new-privs", "--"], tool)
    assert done.stdout.split() == ["True", "True", "True", "passed", "failed"], done.stderr


def test_a_container_that_maps_nobody_but_root_s_root_is_refused() -> None:
    """The kernel holds that user to no number of processes, whatever namespace it is in."""
    done = as_root(["unshare", "--user", "--map-root-user", "--mount", "--"], "bubblewrap", "unshare")
    assert "its limit on processes does not hold" in done.stderr
    assert "No user id but root's is mapped here" in done.stderr
    assert "run the evaluator as an ordinary user" in done.stderr


@pytest.mark.parametrize(("name", "value"), [("user/max_user_namespaces", "0"), ("kernel/unprivileged_userns_clone", "0"),
                                             ("kernel/apparmor_restrict_unprivileged_userns", "1")])
def test_every_setting_that_forbids_namespaces_is_named(name: str, value: str, tmp_path) -> None:
    setting = tmp_path / name
    setting.parent.mkdir()
    dotted = name.replace("/", ".")
    setting.write_text(f"{value}\n")
    assert any(f"{dotted} is {value}: " in sentence for sentence in obstacles.found(tmp_path))
    setting.write_text("7\n")
    assert not any(dotted in sentence for sentence in obstacles.found(tmp_path))


def test_a_kernel_that_does_not_list_children_is_named(tmp_path) -> None:
    (tmp_path / "self").symlink_to(str(os.getpid()))
    assert "CONFIG_PROC_CHILDREN" in obstacles.of_proc(tmp_path)
    assert obstacles.of_proc() is None
