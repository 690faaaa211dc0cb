"""The cluster that the tests of SLURM scripts share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster import slurm


@pytest.fixture(scope="session")
def cluster() -> Iterator[slurm.Cluster]:
    """Two nodes of 16 cores that are all on this machine."""
    slurm.require()
    with slurm.running() as started:
        yield started
