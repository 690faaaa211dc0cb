"""megatron-core's IndexedDataset on disk, read and written with numpy alone (preprocessing needs no torch).

PREFIX.bin is the token ids of all sequences, one after the other. PREFIX.idx says where each begins:

    9 bytes  b"MMIDIDX" + two zeros     u64 version 1     u8 dtype code     u64 sequences N     u64 documents + 1
    i32[N] tokens per sequence     i64[N] byte offset of each in .bin
    i64[documents + 1] first sequence of each document
    i8[N] mode per sequence (present only in datasets written with modes)

Here a document is one record and a sequence is one of its segments; its mode is INPUT (no loss) or OUTPUT (loss).
"""

from __future__ import annotations

import dataclasses
import struct
from pathlib import Path
from typing import Any

import numpy as np

from megatron_ft.data.manifest import Manifest, file_sha256
from megatron_ft.errors import DataError

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
HEADER = struct.Struct("<9sQBQQ")
DTYPES = {1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 6: np.float64, 7: np.float32, 8: np.uint16}
CODES = {np.dtype(dtype): code for code, dtype in DTYPES.items()}
U16_VOCABULARY = 65500  # megatron-core's own limit for 2-byte ids

INPUT = 0
OUTPUT = 1


def dtype_for(vocabulary: int) -> np.dtype:
    """The type that ids below `vocabulary` are stored in.

    >>> dtype_for(49152), dtype_for(128256)
    (dtype('uint16'), dtype('int32'))
    """
    return np.dtype(np.uint16 if vocabulary < U16_VOCABULARY else np.int32)


@dataclasses.dataclass(frozen=True)
class Index:
    """What an .idx file holds, checked against itself."""

    dtype: np.dtype
    lengths: np.ndarray
    """int32 [sequences]."""
    starts: np.ndarray
    """int64 [documents + 1]: document i is sequences starts[i]:starts[i + 1]."""
    modes: np.ndarray
    """int8 [sequences]."""

    @property
    def bin_bytes(self) -> int:
        """How long the .bin must be."""
        return int(self.lengths.sum(dtype=np.int64)) * self.dtype.itemsize


def read_index(path: str | Path, *, mode: int | None = None) -> Index:
    """Read and check an .idx; DataError says what is wrong with it.

    Args:
        mode: what every sequence is, for an index without modes; None: the index must hold a mode for each.
    """
    path = Path(path)
    size = path.stat().st_size
    with open(path, "rb") as stream:
        head = stream.read(HEADER.size)
    if head[:len(MAGIC)] != MAGIC:
        raise DataError(f"{path}: is no index (first bytes {head[:len(MAGIC)]!r}, an index has {MAGIC!r}); "
                        "name the prefix that preprocess/tokenize_sft.py wrote")
    if len(head) < HEADER.size:
        raise DataError(f"{path}: is truncated: {size} bytes, its header alone has {HEADER.size}; "
                        "make the dataset again")
    _, version, code, sequences, document_starts = HEADER.unpack(head)
    if version != VERSION or code not in DTYPES or np.dtype(DTYPES[code]).kind not in "iu":
        raise DataError(f"{path}: has version {version} and dtype code {code}; "
                        f"version {VERSION} and an integer type are read; make the dataset again")
    dtype = np.dtype(DTYPES[code])
    without_modes = HEADER.size + 12 * sequences + 8 * document_starts
    if mode is None and size == without_modes and sequences:
        raise DataError(f"{path}: has no mode per segment, so nothing says which tokens are answers; "
                        "write the dataset with preprocess/tokenize_sft.py")
    expected = without_modes + (sequences if mode is None else 0)
    if size != expected:
        raise DataError(f"{path}: has {size} bytes where {sequences} sequences in {document_starts - 1} documents take "
                        f"{expected}; it is truncated or damaged: make the dataset again")
    lengths, offsets, starts, *modes = _arrays(path, sequences, document_starts, modes=mode is None)
    return _checked(path, dtype, lengths, offsets, starts, modes[0] if modes else np.full(sequences, mode, np.int8))


def _arrays(path: Path, sequences: int, document_starts: int, *, modes: bool) -> list[np.ndarray]:
    arrays, at = [], HEADER.size
    whole = np.memmap(path, mode="r", dtype=np.uint8)
    parts = ((np.int32, sequences), (np.int64, sequences), (np.int64, document_starts), (np.int8, sequences))
    for dtype, count in parts[:4 if modes else 3]:
        end = at + count * np.dtype(dtype).itemsize
        arrays.append(np.frombuffer(whole[at:end].tobytes(), dtype=dtype))
        at = end
    return arrays


def _checked(path: Path, dtype: np.dtype, lengths: np.ndarray, offsets: np.ndarray, starts: np.ndarray,
             modes: np.ndarray) -> Index:
    faults = {
        "a sequence without tokens": (lengths <= 0).any(),
        "byte offsets that are not the running sum of the lengths":
            not np.array_equal(offsets, _offsets(lengths, dtype.itemsize)),
        "document starts that do not rise from 0 to the number of sequences":
            len(starts) == 0 or starts[0] != 0 or starts[-1] != len(lengths) or (np.diff(starts) <= 0).any(),
        f"a mode other than {INPUT} (input) and {OUTPUT} (output)": not np.isin(modes, (INPUT, OUTPUT)).all(),
    }
    for fault, present in faults.items():
        if present:
            raise DataError(f"{path}: has {fault}; it is damaged or of another kind: make the dataset again")
    return Index(dtype=dtype, lengths=lengths, starts=starts, modes=modes)


def _offsets(lengths: np.ndarray, itemsize: int) -> np.ndarray:
    ends = np.cumsum(lengths, dtype=np.int64) * itemsize
    return np.concatenate([np.zeros(min(1, len(ends)), np.int64), ends[:-1]])


class Dataset:
    """A finished dataset, opened for reading; the ids stay on disk until a document is asked for."""

    def __init__(self, prefix: Path, index: Index, tokens: np.ndarray, manifest: Manifest) -> None:
        self.prefix = prefix
        self.manifest = manifest
        self._index = index
        self._tokens = tokens
        token_ends = np.concatenate([[0], np.cumsum(index.lengths, dtype=np.int64)])
        self._begins = token_ends[index.starts]
        is_output = (index.modes == OUTPUT).astype(np.int64)
        supervised_ends = np.concatenate([[0], np.cumsum(index.lengths * is_output)])
        self.documents = len(index.starts) - 1
        self.lengths = np.diff(self._begins).astype(np.int32)
        """int32 [documents]: tokens of each."""
        first_is_output = is_output[index.starts[:-1]]  # nothing predicts a document's first token
        self.supervised = (np.diff(supervised_ends[index.starts]) - first_is_output).astype(np.int32)
        """int32 [documents]: tokens of each that a loss is taken on."""

    @property
    def content(self) -> str:
        """Hash of the ids: the same for a copy under another name."""
        return self.manifest.bin_file["sha256"]

    @property
    def hashes(self) -> tuple[str, ...]:
        """Of everything that documents are made from."""
        return self.manifest.bin_file["sha256"], self.manifest.idx_file["sha256"]

    @property
    def tokenizer(self) -> dict[str, Any] | None:
        """{"fingerprint", "vocabulary", "end_of_text"} of the tokenizer that made the ids; None where nobody knows it."""
        return self.manifest.tokenizer

    @property
    def vocabulary(self) -> int:
        """No id is this or more."""
        return self.manifest.tokenizer["vocabulary"]

    @property
    def end_of_text(self) -> int:
        """The id that closes an answer."""
        return self.manifest.tokenizer["end_of_text"]

    def document(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """One document: its ids, int32 [n], and which of them are supervised, bool [n]."""
        ids = self._tokens[self._begins[number]:self._begins[number + 1]].astype(np.int32)
        segments = slice(self._index.starts[number], self._index.starts[number + 1])
        return ids, np.repeat(self._index.modes[segments] == OUTPUT, self._index.lengths[segments])


def open_dataset(prefix: str | Path) -> Dataset:
    """Open PREFIX.bin, .idx and .json, checked against one another; DataError says what does not fit.

    The .idx is compared with its hash in the manifest, the .bin (it may have terabytes) with its size.
    """
    prefix = Path(prefix)
    manifest_path, index_path, bin_path = (with_suffix(prefix, suffix) for suffix in (".json", ".idx", ".bin"))
    for path in (bin_path, index_path):
        if not path.is_file():
            raise DataError(f"{path}: there is no such file; "
                            f"'{prefix}' must be the --output of preprocess/tokenize_sft.py, or what comes before "
                            "_inputs_document and _targets_document in the names of a dataset pair")
    index = read_index(index_path)
    tokens = map_tokens(bin_path, index)
    manifest = Manifest.read(manifest_path)
    if manifest.idx_file["sha256"] != file_sha256(index_path) or manifest.bin_file["bytes"] != index.bin_bytes:
        raise DataError(f"{manifest_path}: was written for another {index_path.name} or {bin_path.name} "
                        f"(their hash or size differs); make the dataset again")
    return Dataset(prefix, index, tokens, manifest)


def map_tokens(path: Path, index: Index) -> np.ndarray:
    """The ids of a .bin, left on disk, int [tokens]; DataError if it is not as long as its index says."""
    size = path.stat().st_size
    if size != index.bin_bytes:
        raise DataError(f"{path}: has {size} bytes where its index asks for {index.bin_bytes}; "
                        "it is truncated or of another dataset: make the dataset again")
    empty = index.bin_bytes == 0  # numpy maps no empty file
    return np.empty(0, index.dtype) if empty else np.memmap(path, mode="r", dtype=index.dtype)


def with_suffix(prefix: Path, suffix: str) -> Path:
    """PREFIX.bin and so on, also where the prefix itself has a dot.

    >>> with_suffix(Path("data/mix.v2"), ".bin").as_posix()
    'data/mix.v2.bin'
    """
    return prefix.with_name(prefix.name + suffix)


