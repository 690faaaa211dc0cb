"""What tests share: the worker pool, and small base models with their checkpoints, each made once per run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from megatron_ft import log
from tests.processes import Pool

# How long an example takes says nothing where others use the machine too.
settings.register_profile("tests", deadline=None)
settings.load_profile("tests")

Bases = Callable[[str, str], tuple[Path, Path]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with the most slow tests first: where files run side by side, one that begins last should be a short one."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(autouse=True)
def same_log() -> Iterator[None]:
    """The project's logger as each test finds it: a command called in this process sets it for a process of its own."""
    logger = log.get()
    level, propagate, handlers = logger.level, logger.propagate, logger.handlers[:]
    yield
    logger.setLevel(level)
    logger.propagate = propagate
    logger.handlers[:] = handlers


@pytest.fixture(scope="session")
def pool() -> Iterator[Pool]:
    """Four worker processes for runs of one, two or four ranks."""
    workers = Pool(4)
    yield workers
    workers.close()


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Bases:
    """(family, variant) -> (Hugging Face folder, checkpoint root) of a small random model of tests.small_models."""
    made: dict[tuple[str, str], tuple[Path, Path]] = {}

    def base(family: str, variant: str) -> tuple[Path, Path]:
        if (family, variant) not in made:
            from megatron_ft.conversion import hf_to_megatron
            from tests.small_models import make_hf_model

            root = tmp_path_factory.mktemp(f"{family}_{variant}")
            hf = make_hf_model(family, variant, root / "hf")
            made[family, variant] = hf, hf_to_megatron.convert(hf, root / "checkpoint")
        return made[family, variant]

    return base


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prefix of 200 random prompt-answer documents of 2 to 34 tokens, ids below 200."""
    import numpy as np

    from tests.data.small_datasets import write_dataset

    random = np.random.RandomState(0)
    documents = [[(random.randint(1, 200, random.randint(1, 15)).tolist(), False),
                  (random.randint(1, 200, random.randint(1, 20)).tolist() + [0], True)] for _ in range(200)]
    return write_dataset(tmp_path_factory.mktemp("dataset") / "documents", documents, vocabulary=200)
