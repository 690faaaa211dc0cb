"""Which files an --input names, and how they are dealt out to the shards of a job array."""

from __future__ import annotations

import dataclasses
import glob
import re
from collections.abc import Sequence
from pathlib import Path

from megatron_ft import log
from megatron_ft.data.input_files import GZIP_MAGIC, ZSTD_MAGIC, InputFile, Part, Position, TextFile
from megatron_ft.errors import ConfigError, DataError

PARQUET_MAGIC = b"PAR1"
SUFFIXES = tuple(f".{name}{packed}" for name in ("jsonl", "ndjson") for packed in ("", ".gz", ".zst")) + (".parquet",)
"""What is read of a folder; a file that is named itself may have any name."""
HUB_ID = re.compile(r"([\w.-]+/[\w.-]+)(?::([\w.-]+))?")
"""`owner/name`, or `owner/name:configuration`."""
SHARD = re.compile(r"(\d+)/(\d+)")


@dataclasses.dataclass(frozen=True)
class Shard:
    """One of `count` stretches of the input, of about equal size on disk; merged in order they are the whole."""

    index: int = 0
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read `i/n`, i from 0.

        >>> Shard.parse("2/4")
        Shard(index=2, count=4)
        """
        match = SHARD.fullmatch(text.strip())
        shard = cls(int(match[1]), int(match[2])) if match else cls(1, 1)
        if shard.index >= shard.count:
            raise ConfigError(f"--shard: '{text}' is no shard; write i/n with i from 0 to n - 1, as in 0/4 to 3/4")
        return shard


def find(inputs: Sequence[str], *, split: str = "train") -> list[InputFile]:
    """The files that some --input arguments name: files, folders, globs, saved `datasets` folders, hub ids.

    Folders and globs give their files in the order of their names. DataError where an argument names nothing, ConfigError
    where a file is named twice.

    Args:
        split: which split of a saved or hub dataset.
    """
    files = [file for text in inputs for file in _find_one(text, split)]
    seen: dict[object, str] = {}
    for file in files:
        if file.identity in seen:
            raise ConfigError(f"--input: names {file.path} twice, so its rows would be in the dataset twice; name each "
                              "file once")
        seen[file.identity] = file.path
    return files


def parts(files: Sequence[InputFile], shard: Shard = Shard()) -> list[Part]:  # noqa: B008 - frozen
    """What a shard reads: contiguous stretches, cut where a row begins."""
    total = sum(file.bytes for file in files)
    begin, end = (total * index // shard.count for index in (shard.index, shard.index + 1))
    found, at = [], 0
    for file in files:
        first, last = max(begin - at, 0), min(end - at, file.bytes)
        at += file.bytes
        if first < last or (file.bytes == 0 and shard.index == 0):
            begin_at = file.cut(first) if first else Position()
            end_at = file.cut(last) if last < file.bytes else None
            if begin_at != end_at:
                found.append(Part(file, begin_at, end_at))
    return found


def _find_one(text: str, split: str) -> list[InputFile]:
    path = Path(text)
    if path.is_dir():
        return _in_folder(path, split)
    if path.is_file():
        return [_open(path)]
    if glob.has_magic(text):
        found = sorted(name for name in glob.glob(text, recursive=True) if Path(name).is_file())  # noqa: PTH207 - absolute patterns
        if not found:
            raise DataError(f"--input: no file matches '{text}'; quote the pattern and check where it is relative to "
                            f"({Path.cwd()})")
        return [_open(Path(name)) for name in found]
    hub_id = HUB_ID.fullmatch(text)
    if hub_id and not text.endswith((*SUFFIXES, ".json")) and not path.parent.is_dir():
        from megatron_ft.data.input_tables import hub_dataset  # `datasets` takes two seconds to import

        return [hub_dataset(hub_id[1], hub_id[2], split)]
    raise DataError(f"--input: {text} is no file, folder or glob; name JSONL (.gz, .zst) or Parquet files, a folder of "
                    "them, or a folder that datasets' save_to_disk wrote")


def _in_folder(folder: Path, split: str) -> list[InputFile]:
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        from megatron_ft.data.input_tables import saved_dataset

        return [saved_dataset(folder, split)]
    present = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    chosen = [path for path in present if path.name.endswith(SUFFIXES)]
    if not chosen:
        names = ", ".join(path.name for path in present[:5]) or "nothing"
        raise DataError(f"--input: {folder} holds no {', '.join(SUFFIXES)} file (it holds {names}); name the files "
                        "themselves, or a glob such as 'folder/**/*.jsonl' for folders inside")
    if len(chosen) < len(present):
        left = [path.name for path in present if path not in chosen]
        log.get().info("--input: of %s, %d files are not read: %s", folder, len(left), ", ".join(left[:5]))
    return [_open(path) for path in chosen]


def _open(path: Path) -> InputFile:
    """By content, whatever the name."""
    with open(path, "rb") as stream:
        head = stream.read(4)
    if head == PARQUET_MAGIC:
        from megatron_ft.data.input_tables import ParquetFile

        return ParquetFile(path)
    if head[:1] == b"[":
        raise DataError(f"{path}: is one JSON array, which cannot be read as a stream; make it JSONL, one object a line: "
                        f"jq -c '.[]' {path} > {path.with_suffix('.jsonl')}")
    packed = "gzip" if head[:2] == GZIP_MAGIC else "zstd" if head == ZSTD_MAGIC else None
    if packed is None and path.suffix in (".gz", ".zst", ".parquet") and head:
        raise DataError(f"{path}: is no {path.suffix} file, it begins with {head!r}; copy it again or rename it")
    return TextFile(path, packed)
