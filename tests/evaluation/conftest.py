"""Boxes and problems for the evaluator's tests."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from megatron_ft.evaluation import sandbox, toolchain_cache, verdict_cache
from megatron_ft.evaluation.benchmark import Problem
from megatron_ft.evaluation.languages.base import Language
from megatron_ft.evaluation.languages.python import Python
from megatron_ft.evaluation.sandbox import Limits, Sandbox

SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "humanevalpack"


def sandbox_or_skip(tool: str) -> Sandbox:
    """Boxes by that tool; where it does not work the test is skipped, or fails under CI=true."""
    as_root = os.geteuid() == 0
    problem = sandbox.try_out(Sandbox(tool, as_root))
    if problem is not None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"{tool}: {problem}")
    return Sandbox(tool, as_root)


@pytest.fixture(autouse=True)
def verdicts(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where verdicts are kept: none of another test or of the user's own runs is used."""
    folder = tmp_path_factory.mktemp("verdicts")
    monkeypatch.setenv(verdict_cache.VARIABLE, str(folder))
    return folder


@pytest.fixture(params=sandbox.TOOLS)
def boxes(request: pytest.FixtureRequest) -> Sandbox:
    """A sandbox by each of the tools."""
    return sandbox_or_skip(request.param)


@pytest.fixture(scope="session")
def built() -> Path:
    """The cache of toolchains. Its keys are the texts that build them, so what is tested is built by what is tested."""
    return toolchain_cache.root()


@pytest.fixture(scope="session")
def judges() -> Callable[[str], Language]:
    """The judge of a language by its name: one for a session, so that the tests of a problem are built once."""
    from tests.evaluation.judges import JUDGES  # which takes its boxes from here
    return functools.cache(lambda name: JUDGES[name]())


@pytest.fixture
def python() -> Python:
    """The python executor in the first sandbox that works."""
    return Python(sandbox_or_skip(sandbox.TOOLS[0]), Limits(cpu_s=5, wall_s=60))


@pytest.fixture
def write_benchmark(tmp_path: Path):
    """Writes problems to a JSONL file and returns its path."""
    def write(*problems: Problem) -> Path:
        path = tmp_path / "benchmark.jsonl"
        path.write_text("".join(json.dumps(asdict(problem)) + "\n" for problem in problems))
        return path
    return write


@pytest.fixture(scope="session")
def humanevalpack() -> Path:
    """HumanEvalPack's python file; skipped where it is absent."""
    path = SHARED / "python.jsonl"
    if not path.is_file():
        pytest.skip(f"{path.name} of HumanEvalPack is not beside the project (shared/data/humanevalpack)")
    return path


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Threads that wait for each other on a busy machine make tiny models a hundred times slower."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
