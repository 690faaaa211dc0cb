"""Datasets for tests: finished ones on disk, from documents given as [(ids, supervised), ...]."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from megatron_ft.data.indexed import with_suffix
from megatron_ft.data.manifest import Manifest, describe_file
from megatron_ft.data.writer import Writer

END_OF_TEXT = 0
VOCABULARY = 1000

Segments = Sequence[tuple[Sequence[int], bool]]


def write_dataset(prefix: Path, documents: Sequence[Segments], *, tokenizer: str = "test",
                  vocabulary: int = VOCABULARY) -> Path:
    """Write a finished dataset; each document is its segments."""
    writer = Writer(prefix, vocabulary=vocabulary)
    for segments in documents:
        writer.add(np.array([token for ids, _ in segments for token in ids]),
                   np.array([len(ids) for ids, _ in segments]), np.array([int(mode) for _, mode in segments]))
    writer.finish()
    Manifest(recipe={}, template="octocoder", template_fingerprint="", counts={}, kinds={}, dropped={}, inputs=[], versions={},
             tokenizer={"fingerprint": tokenizer, "vocabulary": vocabulary, "end_of_text": END_OF_TEXT},
             bin_file=describe_file(with_suffix(prefix, ".bin")), idx_file=describe_file(with_suffix(prefix, ".idx")),
             ).write(with_suffix(prefix, ".json"))
    return prefix


def random_documents(count: int, *, seed: int, longest: int = 40) -> list[Segments]:
    """Prompt-answer documents whose ids tell which document they are of (id = 10 + number, one per document)."""
    random = np.random.RandomState(seed)
    sizes = random.randint(1, longest // 2, size=(count, 2))
    return [[([10 + number] * prompt, False), ([10 + number] * answer, True)]
            for number, (prompt, answer) in enumerate(sizes)]
