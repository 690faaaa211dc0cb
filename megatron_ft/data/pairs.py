"""Dataset pairs as OctoPack's Megatron wrote them: P_inputs_document.bin/.idx and P_targets_document.bin/.idx.

Both are MMIDIDX files without modes, one sequence per document; document i of the one belongs to document i of the other.
Read as one dataset, a document is the inputs (no loss), the targets (loss) and the end-of-text token (loss), which their
preprocessing did not write. A pair has no manifest, so what ours says about itself is found out here, by reading each .bin
once from end to end: the hash of its ids and the highest of them.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from megatron_ft import log
from megatron_ft.data.indexed import INPUT, OUTPUT, Index, map_tokens, read_index, with_suffix
from megatron_ft.data.manifest import file_sha256
from megatron_ft.errors import DataError

INPUTS, TARGETS = "_inputs_document", "_targets_document"
SCAN_TOKENS = 1 << 24
SAID_FROM_BYTES = 1 << 30


class Half:
    """One of the two datasets; document i is tokens begins[i]:begins[i + 1]."""

    def __init__(self, prefix: Path, *, mode: int) -> None:
        path = with_suffix(prefix, ".idx")
        index = read_index(path, mode=mode)
        _require_one_sequence_each(path, index)
        self.documents = len(index.lengths)
        self.begins = np.concatenate([[0], np.cumsum(index.lengths, dtype=np.int64)])
        self.tokens = map_tokens(with_suffix(prefix, ".bin"), index)
        self.bin_sha256, self.vocabulary = _scan(with_suffix(prefix, ".bin"), self.tokens)
        self.idx_sha256 = file_sha256(path)

    def document(self, number: int) -> np.ndarray:
        """The ids of one document, int32 [n]."""
        return self.tokens[self.begins[number]:self.begins[number + 1]].astype(np.int32)


class Pair:
    """A dataset pair, opened for reading, with everything that `indexed.Dataset` has but a manifest."""

    tokenizer = None  # a pair does not say what made its ids

    def __init__(self, prefix: Path, inputs: Half, targets: Half, *, end_of_text: int) -> None:
        self.prefix = prefix
        self.end_of_text = end_of_text
        self._inputs, self._targets = inputs, targets
        last_ids = targets.tokens[targets.begins[1:] - 1]
        self._closed = last_ids == end_of_text
        self.documents = inputs.documents
        self.supervised = (np.diff(targets.begins) + ~self._closed).astype(np.int32)
        """int32 [documents]: tokens of each that a loss is taken on."""
        self.lengths = (np.diff(inputs.begins) + self.supervised).astype(np.int32)
        """int32 [documents]: tokens of each."""
        self.vocabulary = max(inputs.vocabulary, targets.vocabulary, end_of_text + 1)
        self.content = hashlib.sha256(f"{inputs.bin_sha256} {targets.bin_sha256}".encode()).hexdigest()
        self.hashes = (inputs.bin_sha256, inputs.idx_sha256, targets.bin_sha256, targets.idx_sha256, f"ends in {end_of_text}")

    def document(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """One document: its ids, int32 [n], and which of them are supervised, bool [n]."""
        inputs, targets = self._inputs.document(number), self._targets.document(number)
        end = [] if self._closed[number] else [self.end_of_text]
        ids = np.concatenate([inputs, targets, np.array(end, dtype=np.int32)])
        return ids, np.arange(len(ids)) >= len(inputs)


def is_pair(prefix: str | Path) -> bool:
    """Whether `prefix` names a dataset pair: no dataset of that name, and at least one of the pair's four files."""
    prefix = Path(prefix)
    ours = [with_suffix(prefix, suffix) for suffix in (".bin", ".idx")]
    return not any(path.exists() for path in ours) and any(path.exists() for path in _files(prefix))


def pair_of_half(prefix: str | Path) -> Path | None:
    """The pair's name where `prefix` names one half of it, else None.

    >>> pair_of_half("data/mix_inputs_document"), pair_of_half("data/mix")
    (PosixPath('data/mix'), None)
    """
    prefix = Path(prefix)
    stems = [prefix.name.removesuffix(half) for half in (INPUTS, TARGETS) if prefix.name.endswith(half)]
    return prefix.with_name(stems[0]) if stems and stems[0] else None


def open_pair(prefix: str | Path, *, end_of_text: int) -> Pair:
    """Open the four files of a pair, checked against one another; DataError says what does not fit."""
    prefix = Path(prefix)
    for path in _files(prefix):
        if not path.is_file():
            raise DataError(f"{path}: there is no such file, but others of the pair '{prefix}' are there; "
                            "copy all four or make the pair again")
    inputs, targets = (Half(prefix.with_name(prefix.name + half), mode=mode)
                       for half, mode in ((INPUTS, INPUT), (TARGETS, OUTPUT)))
    if inputs.documents != targets.documents:
        raise DataError(f"{prefix}{INPUTS} has {inputs.documents} documents and {prefix.name}{TARGETS} {targets.documents}: "
                        "where a side was empty, only the other was written, and every pair after it is shifted; leave rows "
                        "with an empty side out of the JSONL and make both again (or use preprocess/tokenize_sft.py)")
    return Pair(prefix, inputs, targets, end_of_text=end_of_text)


def _files(prefix: Path) -> list[Path]:
    return [prefix.with_name(prefix.name + half + suffix) for half in (INPUTS, TARGETS) for suffix in (".bin", ".idx")]


def _require_one_sequence_each(path: Path, index: Index) -> None:
    if not np.array_equal(index.starts, np.arange(len(index.lengths) + 1)):
        raise DataError(f"{path}: has {len(index.lengths)} sequences in {len(index.starts) - 1} documents; in a pair every "
                        "document must be one sequence, else nothing says which belong together: write it without "
                        "splitting documents into sentences")


def _scan(path: Path, tokens: np.ndarray) -> tuple[str, int]:
    """The hash of all ids' bytes and the highest id + 1."""
    if tokens.nbytes >= SAID_FROM_BYTES:
        log.get().info("data: %s is read once from end to end (%.1f GB), for its hash and its highest id", path,
                       tokens.nbytes / 1e9)
    digest, highest = hashlib.sha256(), -1
    for at in range(0, len(tokens), SCAN_TOKENS):
        block = np.ascontiguousarray(tokens[at:at + SCAN_TOKENS])
        digest.update(block.data)
        if block.min() < 0:
            raise DataError(f"{path}: holds the id {block.min()}, and no id is below 0; it is damaged: make the pair again")
        highest = max(highest, int(block.max()))
    return digest.hexdigest(), highest + 1
