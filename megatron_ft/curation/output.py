"""What a curation command leaves: files of rows and a report, whole or absent."""

from __future__ import annotations

import contextlib
import gzip
import importlib.metadata
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import zstandard

from megatron_ft import cli
from megatron_ft.data.manifest import describe_file, versions
from megatron_ft.errors import ConfigError

SUFFIXES = tuple(f".{name}{packed}" for name in ("jsonl", "ndjson") for packed in ("", ".gz", ".zst"))
GZIP_LEVEL, ZSTD_LEVEL = 6, 3


def beside(output: Path, ending: str) -> Path:
    """The file that goes with an output.

    >>> str(beside(Path("data/kept.jsonl.gz"), "report.json"))
    'data/kept.jsonl.gz.report.json'
    """
    return output.with_name(f"{output.name}.{ending}")


def require_writable(*outputs: tuple[str, Path]) -> None:
    """ConfigError for an output that is there already or whose name is not that of JSONL; (option, path) each."""
    for option, path in outputs:
        if not path.name.endswith((*SUFFIXES, ".json")):
            raise ConfigError(f"{option}: {path}: JSONL is what is written; end the name in {', '.join(SUFFIXES[:3])}")
        cli.require_absent(path, option=option)


@contextlib.contextmanager
def writing(*finals: Path) -> Iterator[list[IO[bytes]]]:
    """Streams to temporary files that become `finals` when the block ends well and vanish when it does not.

    What is written is compressed as the final name says; the same content gives the same bytes.
    """
    partials: list[Path] = []
    try:
        with contextlib.ExitStack() as stack:
            streams = []
            for final in finals:
                final.parent.mkdir(parents=True, exist_ok=True)
                descriptor, name = tempfile.mkstemp(prefix=f".{final.name}.", suffix=".partial", dir=final.parent)
                partials.append(Path(name))
                disk = stack.enter_context(os.fdopen(descriptor, "wb", buffering=1 << 20))
                stack.callback(_sync, disk)
                streams.append(stack.enter_context(_compressed(disk, final)))
            yield streams
        for partial, final in zip(partials, finals, strict=True):
            cli.require_absent(final, option="--output")
            partial.chmod(0o644)
            partial.rename(final)
    finally:
        for partial in partials:
            partial.unlink(missing_ok=True)


def write_report(output: Path, *, command: str, inputs: list[dict[str, Any]], counts: dict[str, int],
                 packages: Sequence[str] = (), **more: Any) -> dict[str, Any]:
    """Write OUTPUT.report.json, the last of a command's files: where it is, the others are whole.

    Args:
        packages: whose versions count, besides those that always do.
        more: what is particular to the command.
    """
    report = {"command": command, "inputs": inputs, "counts": counts} | more | {
        "output": {"path": str(output)} | describe_file(output),
        "versions": versions() | {name: importlib.metadata.version(name) for name in packages}}
    text = json.dumps(report, indent=2)
    cli.write_text_atomically(beside(output, "report.json"), text + "\n")
    return json.loads(text)


def share(rows: int, total: int) -> str:
    """A part of the rows, for a table.

    >>> share(1, 8), share(0, 0)
    ('12.5%', '-')
    """
    return f"{rows / total:.1%}" if total else "-"


def short(source: str) -> str:
    """A row's source, for a table.

    >>> short("/data/commits/go.jsonl:17")
    'go.jsonl:17'
    """
    return source.rpartition("/")[2]


def show_counts(report: dict[str, Any]) -> None:
    """Print how many rows there were and stayed, and the bad ones by reason."""
    counts = report["counts"]
    rest = ", ".join(f"{number:,} {name}" for name, number in counts.items() if name not in ("rows", "kept") and number)
    lines = [f"{report['output']['path']}: {counts['kept']:,} of {counts['rows']:,} rows kept "
             f"({share(counts['kept'], counts['rows'])})" + (f"; {rest}" if rest else "")]
    lines += [f"  {entry['rows']:,} bad rows: {reason} (first: {', '.join(entry['first'])})"
              for reason, entry in report["bad_rows"].items()]
    sys.stdout.write("\n".join(lines) + "\n")


def json_line(value: Any) -> bytes:
    """A line of JSONL; what UTF-8 cannot hold (lone surrogates) is escaped."""
    try:
        return json.dumps(value, ensure_ascii=False, default=str).encode("utf-8") + b"\n"
    except UnicodeEncodeError:
        return json.dumps(value, default=str).encode("ascii") + b"\n"


@contextlib.contextmanager
def _compressed(disk: IO[bytes], final: Path) -> Iterator[IO[bytes]]:
    if final.suffix == ".gz":
        with gzip.GzipFile(filename="", mode="wb", compresslevel=GZIP_LEVEL, fileobj=disk, mtime=0) as stream:
            yield stream
    elif final.suffix == ".zst":
        with zstandard.ZstdCompressor(level=ZSTD_LEVEL).stream_writer(disk, closefd=False) as stream:
            yield stream
    else:
        yield disk


def _sync(disk: IO[bytes]) -> None:
    disk.flush()
    os.fsync(disk.fileno())
