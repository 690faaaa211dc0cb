"""Hostile programs: none passes, none outlives its run, none leaves a trace outside its box, and the evaluator goes on.

Each kind of attack in each language that can try it (`hostile/`), as root and as an ordinary user, in boxes by bubblewrap and
by unshare; then some of them by the command itself. The programs of one configuration are judged by one process.
"""

from __future__ import annotations

import functools
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.evaluation.hostile import __main__ as listed
from tests.evaluation.hostile import evaluated, world
from tests.evaluation.hostile.judge import NOTHING
from tests.evaluation.hostile.kinds import OF_BOXES, WORK_UNBOXED
from tests.evaluation.hostile.outside import REPOSITORY, gone, processes
from tests.evaluation.hostile.tables import PROGRAMS

JUDGE = "tests.evaluation.hostile.judge"
CONFIGURATIONS = [(language, user, "bubblewrap") for language in PROGRAMS for user in world.USERS]
CONFIGURATIONS += [(language, user, "unshare") for language in ("python", "rust") for user in world.USERS]


def kinds(configuration: tuple[str, str, str]) -> list[str]:
    """What is tried in a configuration."""
    language, _, tool = configuration
    return [kind for kind in PROGRAMS[language].kinds if tool == "bubblewrap" or kind in OF_BOXES]


def named(value: object) -> str:
    """A configuration or a kind, as pytest shows it."""
    return " as ".join(value[:2]) + f" by {value[2]}" if isinstance(value, tuple) else str(value)


@functools.cache
def told(command: tuple[str, ...], user: str, folder: Path, cache: Path) -> dict:
    """What a command that looks around (`judge.py`, `evaluated.py`) has seen."""
    missing = world.missing(user)
    if missing:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(missing)
    done = world.run([sys.executable, "-m", *command], user=user, folder=folder, cache_folder=cache)
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(done.stdout)
    assert seen["user"] == world.USERS[user]
    return seen


@pytest.fixture(scope="session")
def cache(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of toolchains that an ordinary user may read."""
    built.mkdir(parents=True, exist_ok=True)
    if all(place.stat().st_mode & 0o005 == 0o005 for place in (built, built / "toolchains") if place.exists()):
        return built
    own = tmp_path_factory.mktemp("cache")
    own.chmod(0o755)
    return own


@pytest.fixture(scope="session")
def build(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], None]:
    """Builds what a language needs once, so that an ordinary user finds it."""
    def built(language: str, tool: str) -> None:
        folder = tmp_path_factory.getbasetemp() / f"built-{language}-{tool}"
        told((JUDGE, language, tool, NOTHING), world.BUILDER, folder, cache)
    return built


@pytest.fixture(scope="module")
def seen(request: pytest.FixtureRequest, build: Callable, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What came of the programs of a configuration."""
    language, user, tool = request.param
    build(language, tool)
    folder = tmp_path_factory.getbasetemp() / "-".join(request.param).replace(" ", "-")
    return told((JUDGE, language, tool, *kinds(request.param)), user, folder, cache)


@pytest.mark.parametrize(("seen", "kind"), [(each, kind) for each in CONFIGURATIONS for kind in kinds(each)],
                         indirect=["seen"], ids=named)
def test_a_hostile_program_gains_nothing(seen: dict, kind: str, request: pytest.FixtureRequest) -> None:
    language = request.node.callspec.params["seen"][0]
    verdict = seen["verdicts"][kind]
    assert verdict["status"] in PROGRAMS[language].allowed(kind) - {"passed"}, verdict
    assert verdict["tried"], verdict
    assert not verdict["leaked"], verdict
    assert not verdict["alive"], verdict


@pytest.mark.parametrize("seen", CONFIGURATIONS, indirect=True, ids=named)
def test_nothing_is_left_and_right_programs_pass_afterwards(seen: dict) -> None:
    assert not seen["left"]
    assert not seen["alive"]
    assert len(seen["right"]) >= 5
    assert [after for after in seen["right"] if after["status"] != "passed"] == []


def test_there_are_forty_kinds_and_more_in_every_language() -> None:
    assert min(len(programs.kinds) for programs in PROGRAMS.values()) >= 40
    assert (REPOSITORY / "docs" / "hostile-programs.md").read_text() == listed.page()


@pytest.mark.parametrize("language", PROGRAMS)
def test_without_a_box_the_same_programs_succeed(language: str, build: Callable, cache: Path,
                                                 tmp_path_factory: pytest.TempPathFactory) -> None:
    """So it is the box that holds them."""
    build(language, "none")
    wanted = [kind for kind in WORK_UNBOXED if kind in PROGRAMS[language].kinds]
    seen = told((JUDGE, language, "none", *wanted), world.ORDINARY, tmp_path_factory.mktemp("unboxed") / language, cache)
    assert {kind: verdict["status"] for kind, verdict in seen["verdicts"].items()} == dict.fromkeys(wanted, "passed")
    reached = {"a connection to tcp", "a connection to a socket"}
    assert any(line in seen["left"] for line in reached)
    assert any("/anybody/hostile-" in line for line in seen["left"])


@pytest.mark.parametrize(("mode", "user"), [("fixed", world.ORDINARY), ("compat", world.ROOT)])
def test_a_run_goes_on_among_hostile_programs(mode: str, user: str, build: Callable, cache: Path,
                                              tmp_path_factory: pytest.TempPathFactory) -> None:
    for language in PROGRAMS:
        build(language, "bubblewrap")
    seen = told(("tests.evaluation.hostile.evaluated", mode), user, tmp_path_factory.mktemp("run") / mode, cache)
    assert seen["exit code"] == 0, seen["said"]
    assert not seen["left"] and not seen["alive"] and not seen["leaked"]
    for language, verdicts in seen["verdicts"].items():
        assert list(verdicts) == ["right", *evaluated.kinds(mode), "right again"]
        assert "compile error" not in {status for status, _ in verdicts.values()}, (language, verdicts)  # all were tried
        passed = {kind for kind, (status, _) in verdicts.items() if status == "passed"}
        assert {"right", "right again"} <= passed, (language, verdicts)
        if mode == "fixed":  # in the other one, programs and tests share a process, and a program can lie
            assert passed == {"right", "right again"}, (language, verdicts)


@pytest.mark.parametrize(("language", "tool"), sorted({(language, tool) for language, _, tool in CONFIGURATIONS}))
def test_boxes_die_with_a_killed_evaluator(language: str, tool: str) -> None:
    marker = f"{secrets.randbits(60)}"
    script = (
        "from megatron_ft.evaluation import languages, sandbox\nfrom tests.evaluation.hostile.tables import PROGRAMS\n"
        f"programs = PROGRAMS['{language}']\njudge = languages.get('{language}')(sandbox.find(tools=('{tool}',)))\n"
        f"text = programs.text('leaves an orphan', {{'MARKER': '{marker}', 'PAUSE_MS': '3600000'}})\n"
        "judge.judge(programs.problem, programs.base, text)")
    with subprocess.Popen([sys.executable, "-c", script], cwd=REPOSITORY) as evaluator:
        while not any(line.endswith(f": sleep 3600.{marker}") for line in processes(marker)):
            assert evaluator.poll() is None
            time.sleep(0.05)
        evaluator.kill()
    assert not gone(marker)


def test_what_is_left_is_found(tmp_path: Path, cache: Path) -> None:
    """The watchers see: a file changed, one made in /tmp, a connection, shared memory, a process that stays."""
    script = (
        "import os, socket, subprocess, sys\nfrom pathlib import Path\n"
        "from tests.evaluation.hostile import outside as module\nmodule.DEATH_S = 0\n"
        "outside = module.Outside(Path.cwd().parent)\nwords = outside.words\nassert outside.left('m') == [] == module.gone()\n"
        "open(words['KEPT'], 'w').write('gone')\nopen(os.environ['HOME'] + '/more', 'w')\nopen('/tmp/hostile-m', 'w')\n"
        "socket.create_connection(('127.0.0.1', int(words['PORT'])))\n"
        "socket.socket(socket.AF_UNIX).connect('\\0' + words['SOCKET'])\n"
        "__import__('ctypes').CDLL(None).shmget(7, 4096, 0o1600)\nsubprocess.Popen(['sleep', '3600'])\n"
        "import json\nprint(json.dumps([outside.left('m'), module.gone()]))")
    if world.missing("root"):
        pytest.skip(world.missing("root"))
    done = world.run([sys.executable, "-c", script], user="an ordinary user", folder=tmp_path / "world", cache_folder=cache)
    left, alive = json.loads(done.stdout)
    for expected in ("anybody/kept: ", "home/more: None before", "/tmp/hostile-m: None before", "/tmp/hostile-m: made",
                     "a connection to tcp", "a connection to a socket", "System V shm: 1"):
        assert any(expected in line for line in left), (expected, left)
    assert [line.partition(": ")[2] for line in alive] == ["sleep 3600"]
