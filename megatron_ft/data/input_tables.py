"""Parquet files and Hugging Face datasets, as streams of Arrow record batches."""

from __future__ import annotations

import abc
import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from megatron_ft import log
from megatron_ft.data import input_files
from megatron_ft.data.input_files import Chunk, InputFile, Position
from megatron_ft.data.manifest import file_sha256
from megatron_ft.errors import ConfigError, DataError

ROWS_AT_ONCE = 256


class Table(InputFile):
    """Rows in columns; chunks are cut by size where rows are small and by number where they are not."""

    is_table = True
    rows: int

    def cut(self, offset: int) -> Position:
        row = -(-self.rows * offset // max(1, self.bytes))
        return Position(row, row)

    def digest(self, begin: Position, end: Position) -> Any:
        return _Constant(self.sha256)

    def chunks(self, begin: Position, end: Position | None, digest: Any) -> Iterator[Chunk]:
        last = self.rows if end is None else end.row
        row = begin.row
        for batch in self.batches(begin.row, last):
            at_once = max(1, batch.num_rows * input_files.CHUNK_BYTES // max(batch.nbytes, 1))
            for at in range(0, batch.num_rows, at_once):
                piece = batch.slice(at, at_once)
                first, row = row + 1, row + piece.num_rows
                share = self.bytes * row // self.rows - self.bytes * (first - 1) // self.rows
                yield Chunk(self.path, first, _serialize(piece), True, share, Position(row, row), self.sha256)

    @property
    @abc.abstractmethod
    def sha256(self) -> str:
        """Of all that it is read from."""

    @abc.abstractmethod
    def batches(self, first: int, last: int) -> Iterator[pyarrow.RecordBatch]:
        """Rows first:last."""


class ParquetFile(Table):
    """One Parquet file; a row group's columns are read page by page."""

    def __init__(self, path: Path) -> None:
        status = path.stat()
        self.path, self.bytes, self.identity = str(path), status.st_size, (status.st_dev, status.st_ino)
        self._sha256 = ""
        try:
            self.rows = pyarrow.parquet.read_metadata(path).num_rows
        except pyarrow.ArrowException as error:
            raise DataError(f"{path}: is no whole Parquet file ({error}); copy it again") from error

    @property
    def sha256(self) -> str:
        self._sha256 = self._sha256 or file_sha256(Path(self.path))
        return self._sha256

    def batches(self, first: int, last: int) -> Iterator[pyarrow.RecordBatch]:
        try:
            with pyarrow.parquet.ParquetFile(self.path, pre_buffer=False, buffer_size=input_files.CHUNK_BYTES) as file:
                sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
                at = 0
                for group, rows in enumerate(sizes):
                    if at < last and at + rows > first:
                        for batch in file.iter_batches(ROWS_AT_ONCE, row_groups=[group], use_threads=False):
                            begin, end = max(first - at, 0), min(last - at, batch.num_rows)
                            if begin < end:
                                yield batch.slice(begin, end - begin)
                            at += batch.num_rows
                    else:
                        at += rows
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"{self.path}: cannot be read as Parquet ({error}); copy it again") from error


class HuggingFaceDataset(Table):
    """One split of a `datasets` dataset."""

    def __init__(self, name: str, dataset: Any) -> None:
        self.path, self.identity, self.rows = name, name, len(dataset)
        self._dataset = dataset.with_format("arrow")
        self._files = sorted({entry["filename"] for entry in dataset.cache_files})
        self.bytes = sum(Path(file).stat().st_size for file in self._files) or dataset.dataset_size or self.rows
        self._sha256 = ""

    @property
    def sha256(self) -> str:
        if not self._sha256:
            self._sha256 = hashlib.sha256("".join(file_sha256(Path(file)) for file in self._files).encode()).hexdigest()
        return self._sha256

    def batches(self, first: int, last: int) -> Iterator[pyarrow.RecordBatch]:
        for at in range(first, last, ROWS_AT_ONCE):
            yield from self._dataset[at:min(at + ROWS_AT_ONCE, last)].to_batches()


def saved_dataset(folder: Path, split: str) -> HuggingFaceDataset:
    """A folder that `datasets`' save_to_disk wrote."""
    import datasets  # two seconds, and only for these

    try:
        loaded = datasets.load_from_disk(str(folder))
    except Exception as error:  # whatever the library raises of a damaged folder
        raise DataError(f"--input: {folder} looks like a saved dataset and cannot be read as one ({error}); save it "
                        "again with save_to_disk") from error
    if isinstance(loaded, datasets.DatasetDict):
        if split not in loaded:
            raise ConfigError(f"--split: {folder} has no split '{split}'; it has {', '.join(loaded)}")
        return HuggingFaceDataset(f"{folder}[{split}]", loaded[split])
    return HuggingFaceDataset(str(folder), loaded)


def hub_dataset(name: str, configuration: str | None, split: str) -> HuggingFaceDataset:
    """A dataset of the Hugging Face hub, downloaded or from its cache."""
    import datasets

    log.get().info("--input: %s is no file here; asking the Hugging Face hub for a dataset of that name", name)
    called = name if configuration is None else f"{name}:{configuration}"
    try:
        return HuggingFaceDataset(f"{called}[{split}]", datasets.load_dataset(name, configuration, split=split))
    except Exception as error:  # no network, no such dataset, no such split: the library's own words say which
        raise DataError(f"--input: {called} is no file or folder, and the Hugging Face hub gives no split '{split}' of a "
                        f"dataset of that name ({error}); on a node without network name a local copy") from error


def parse_table(data: bytes) -> list[dict[str, Any]]:
    """The rows of a chunk."""
    return pyarrow.ipc.open_stream(data).read_all().to_pylist()


def _serialize(batch: pyarrow.RecordBatch) -> bytes:
    sink = io.BytesIO()
    with pyarrow.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


class _Constant:
    """A digest that is known already."""

    def __init__(self, value: str) -> None:
        self._value = value

    def hexdigest(self) -> str:
        return self._value
