"""The built tests of a problem serve later runs, and never in place of others."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from megatron_ft.evaluation import toolchain_cache
from megatron_ft.evaluation.built_tests import KEPT_S, BuiltTests
from megatron_ft.evaluation.languages.base import Language
from megatron_ft.evaluation.languages.compiled import Compiled
from tests.evaluation.judges import OF

COMPILED = [name for name in OF if name not in ("python", "js")]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv(toolchain_cache.VARIABLE, str(tmp_path))
    return tmp_path / "tests"


def test_what_is_kept_depends_on_source_language_and_toolchain(place: Path) -> None:
    BuiltTests("cpp", ["13.1", "g++"]).put("a", b"built")
    assert BuiltTests("cpp", ["13.1", "g++"]).get("a") == b"built"
    others = [("cpp", ["13.1", "g++"], "b"), ("cpp", ["13.2", "g++"], "a"), ("cpp", ["13.1g++"], "a"),
              ("go", ["13.1", "g++"], "a")]
    assert [BuiltTests(language, made_by).get(source) for language, made_by, source in others] == [None] * 4


@pytest.mark.parametrize("damage", [lambda data: data[:-3], lambda data: data[:20] + b"x" + data[21:], lambda data: b""])
def test_what_is_damaged_is_not_used(place: Path, damage: Callable[[bytes], bytes]) -> None:
    kept = BuiltTests("cpp", [])
    kept.put("a", os.urandom(100))
    file, = kept.folder.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    assert kept.get("a") is None
    kept.put("a", b"again")
    assert kept.get("a") == b"again"


def test_a_folder_that_cannot_be_written_keeps_nothing(place: Path) -> None:
    place.write_text("a file where the folder should be")
    kept = BuiltTests("cpp", [])
    kept.put("a", b"built")
    assert kept.get("a") is None


def test_those_of_another_toolchain_go_when_they_were_not_used_for_long(place: Path) -> None:
    old, used, other = BuiltTests("cpp", ["12"]), BuiltTests("cpp", ["13"]), BuiltTests("go", ["1"])
    for each in (old, used, other):
        each.put("a", b"built")
        os.utime(each.folder, (time.time() - 2 * KEPT_S,) * 2)
    BuiltTests("cpp", ["13"])  # uses it
    BuiltTests("cpp", ["14"]).put("a", b"built")
    assert [each.folder.is_dir() for each in (old, used, other)] == [False, True, True]


@pytest.mark.parametrize("name", COMPILED)
def test_a_later_run_builds_only_programs(judges: Callable[[str], Language], monkeypatch: pytest.MonkeyPatch,
                                          name: str) -> None:
    first, own = judges(name), OF[name]
    problem = replace(own.problem, test=f"{own.problem.test}\n// of this test alone\n")
    built = []

    def noted(judge: Compiled, half: str, source: str) -> object:
        built.append(half)
        return build(judge, half, source)

    build = type(first)._build
    monkeypatch.setattr(type(first), "_build", noted)
    monkeypatch.setattr(BuiltTests, "get", lambda kept, source: None)
    assert type(first)(first.sandbox, first.limits).judge(problem, "", own.right).passed
    monkeypatch.undo()
    monkeypatch.setattr(type(first), "_build", noted)
    later = type(first)(first.sandbox, first.limits)
    assert later.judge(problem, "", own.right).passed
    assert later.judge(problem, "", own.wrong[0]).status == "failed"
    assert sorted(built) == ["program", "program", "program", "tests"]


def test_without_a_sandbox_none_are_used(judges: Callable[[str], Language]) -> None:
    """A program could have written them."""
    go = judges("go")
    assert go._built_tests is not None
    assert type(go)(replace(go.sandbox, tool="none"))._built_tests is None
