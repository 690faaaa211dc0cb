"""The quickstart's data and models, each made once per run by the examples' own scripts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from examples import make_data, make_model

ROOT = Path(__file__).parents[2]
DATA = ROOT / "examples" / "data"


@pytest.fixture(scope="session")
def training_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data.jsonl as examples/quickstart.sh makes it."""
    path = tmp_path_factory.mktemp("quickstart") / "data.jsonl"
    pairs = [make_data.pair(problem) for problem in make_data.read_rows(DATA / "problems.jsonl")]
    make_data.write_rows(path, pairs + make_data.read_rows(DATA / "questions.jsonl"))
    return path


@pytest.fixture(scope="session")
def base_models(training_rows: Path) -> Callable[[str], Path]:
    """family -> Hugging Face folder of the quickstart's base model."""
    made: dict[str, Path] = {}

    def base(family: str) -> Path:
        if family not in made:
            made[family] = training_rows.parent / family
            make_model.make(family, [training_rows], made[family], seed=1)
        return made[family]

    return base
