"""PREFIX.json: what a dataset was made from and what is in it. Written last, so a dataset that has one is whole."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import platform
from pathlib import Path
from typing import Any

from megatron_ft import cli
from megatron_ft.errors import DataError

FORMAT = 2


@dataclasses.dataclass(frozen=True)
class Manifest:
    """Counts and fingerprints of a dataset."""

    recipe: dict[str, Any]
    """What it was asked for: the arguments of preprocess/tokenize_sft.py."""
    template: str
    template_fingerprint: str
    """Changes with anything that changes the template's wording."""
    tokenizer: dict[str, Any]
    """{"fingerprint": str, "vocabulary": int, "end_of_text": int}."""
    counts: dict[str, int]
    """{"rows", "documents", "tokens", "supervised", "truncated"}: rows read from the input, documents written."""
    kinds: dict[str, int]
    """Rows of each kind; "text as PSM" and "text as SPM" are texts that were cut for fill-in-the-middle."""
    dropped: dict[str, dict[str, Any]]
    """Reason -> {"rows": how many, "first": where the first ones were}."""
    inputs: list[dict[str, Any]]
    """Of each input file: {"path", "bytes", "sha256", "rows"}: what was read of it is rows[0]:rows[1], and the sha256 is
    that of their text, decompressed (so of a plain file that was read whole, the file's own); of a table, the file's."""
    bin_file: dict[str, Any]
    """{"bytes", "sha256"} of PREFIX.bin."""
    idx_file: dict[str, Any]
    """{"bytes", "sha256"} of PREFIX.idx."""
    versions: dict[str, str]
    format: int = FORMAT

    def write(self, path: Path) -> None:
        """Write it whole or not at all."""
        cli.write_text_atomically(path, json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False) + "\n")

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Read one back; DataError if it is missing, damaged or of another format."""
        if not path.is_file():
            raise DataError(f"{path}: is missing, so the dataset was never finished; run preprocess/tokenize_sft.py again "
                            "(if it says that the .bin or .idx exists, remove them first)")
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            found = fields.get("format")
        except (ValueError, AttributeError) as error:
            raise DataError(f"{path}: is no manifest ({error}); make the dataset again") from error
        if found != FORMAT:
            raise DataError(f"{path}: has format {found}, this version reads {FORMAT}; make the dataset again")
        names = {field.name for field in dataclasses.fields(cls)}
        if set(fields) != names:
            different = ", ".join(sorted(set(fields) ^ names))
            raise DataError(f"{path}: is no manifest (missing or unknown: {different}); make the dataset again")
        return cls(**fields)


def describe_file(path: Path) -> dict[str, Any]:
    """{"bytes", "sha256"} of a file."""
    return {"bytes": path.stat().st_size, "sha256": file_sha256(path)}


def file_sha256(path: Path) -> str:
    """The hash of a file's content."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """What the ids in a dataset may depend on."""
    packages = ("megatron_ft", "tokenizers", "sentencepiece", "gigatoken", "numpy")
    return {"python": platform.python_version()} | {name: _version(name) for name in packages}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"
