"""Dataset pairs for tests, written by megatron-core's own builder as OctoPack's preprocessing wrote them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

from megatron_ft.data.indexed import Dataset
from megatron_ft.data.pairs import INPUTS, TARGETS


def write_half(prefix: Path, documents: Iterable[Sequence[int]], *, dtype: type = np.uint16) -> None:
    """A dataset of one sequence a document, without modes."""
    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=dtype)
    for ids in documents:
        builder.add_item(torch.tensor(list(ids), dtype=torch.int32))
        builder.end_document()
    builder.finalize(f"{prefix}.idx")


def write_pair(prefix: Path, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], *, dtype: type = np.uint16) -> Path:
    """Both halves of (inputs, targets) pairs."""
    write_half(Path(f"{prefix}{INPUTS}"), [inputs for inputs, _ in pairs], dtype=dtype)
    write_half(Path(f"{prefix}{TARGETS}"), [targets for _, targets in pairs], dtype=dtype)
    return prefix


def pairs_of(dataset: Dataset, *, with_end: bool) -> list[tuple[np.ndarray, np.ndarray]]:
    """The documents of a native dataset as (inputs, targets), the closing end-of-text token kept or left to the reader."""
    pairs = []
    for number in range(dataset.documents):
        ids, supervised = dataset.document(number)
        targets = ids[supervised]
        if targets[-1] == dataset.end_of_text and not with_end:
            targets = targets[:-1]
        pairs.append((ids[~supervised], targets))
    return pairs
