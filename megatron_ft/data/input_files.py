"""Input files as streams of chunks: about a megabyte of rows each, with the place where it ends.

A chunk is read by one process and parsed by another, so it is bytes: whole lines of JSON, or an Arrow stream.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import gzip
import hashlib
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Literal

import zstandard

from megatron_ft.errors import DataError

CHUNK_BYTES = 1 << 20
LONGEST_ROW_BYTES = 64 << 20
"""A longer line is a bad row, and never in memory as a whole."""

GZIP_MAGIC, ZSTD_MAGIC = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
OVERSIZED = b"\0oversized: "
"""With the number of its bytes, what a line of more than LONGEST_ROW_BYTES is replaced by. No JSON begins like this."""


@dataclasses.dataclass(frozen=True)
class Position:
    """A place between two rows of a file."""

    row: int = 0
    """Rows before it."""
    offset: int = 0
    """Bytes of decompressed text before it; of a table the same as `row`."""


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Some rows of an input file."""

    path: str
    first: int
    """The number of its first row, from 1: in a text file the number of its line."""
    data: bytes
    is_table: bool
    input_bytes: int
    """Bytes on disk that it stands for; of compressed files roughly."""
    end: Position
    digest: str
    """sha256 of what its part holds up to its end."""


class InputFile(abc.ABC):
    """A file of rows, or what counts as one."""

    path: str
    """As the user named it."""
    bytes: int
    """On disk."""
    is_table: bool
    identity: object
    """Equal for two names of one file."""

    @abc.abstractmethod
    def cut(self, offset: int) -> Position:
        """The first place between two rows that is not before `offset` bytes on disk (if compressed: that share)."""

    @abc.abstractmethod
    def chunks(self, begin: Position, end: Position | None, digest: Any) -> Iterator[Chunk]:
        """The rows between two places (None: the end of the file); `digest`, of hashlib, is fed with what they hold."""

    @abc.abstractmethod
    def digest(self, begin: Position, end: Position) -> Any:
        """The digest that `chunks` had at `end` if it started at `begin`."""


@dataclasses.dataclass(frozen=True)
class Part:
    """A stretch of an input file; `end` None: to its end."""

    file: InputFile
    begin: Position = Position()
    end: Position | None = None

    def chunks(self, *, after: Position | None = None, digest: Any = None) -> Iterator[Chunk]:
        """Its rows; or those after a place where an earlier reading stopped, with the digest of what is before it."""
        start = self.begin if after is None else after
        yield from self.file.chunks(start, self.end, hashlib.sha256() if digest is None else digest)


class TextFile(InputFile):
    """JSONL, plain or compressed: a line is a row, and a blank line is one too."""

    is_table = False

    def __init__(self, path: Path, packed: Literal["gzip", "zstd"] | None = None) -> None:
        status = path.stat()
        self.path, self.bytes, self.identity = str(path), status.st_size, (status.st_dev, status.st_ino)
        self._packed = packed

    def cut(self, offset: int) -> Position:
        if self._packed:
            with self._open() as (stream, _):
                whole = sum(map(len, _blocks(stream)))
            offset = whole * offset // max(1, self.bytes)
        if offset == 0:
            return Position()
        with self._open() as (stream, _):
            row = sum(block.count(b"\n") for block in _blocks(stream, offset - 1))
            rest = stream.readline()  # from the byte before the offset, which may itself be the line break
        return Position(row + bool(rest), offset - 1 + len(rest))

    def digest(self, begin: Position, end: Position) -> Any:
        digest = hashlib.sha256()
        with self._open() as (stream, _):
            _skip(stream, begin.offset)
            for block in _blocks(stream, end.offset - begin.offset):
                digest.update(block)
        return digest

    def chunks(self, begin: Position, end: Position | None, digest: Any) -> Iterator[Chunk]:
        row, offset = begin.row, begin.offset
        with self._open() as (stream, disk):
            _skip(stream, offset)
            disk_at = disk.tell()
            while end is None or offset < end.offset:
                data = stream.read(CHUNK_BYTES if end is None else min(CHUNK_BYTES, end.offset - offset))
                if not data:
                    break
                if not data.endswith(b"\n"):
                    data += stream.readline(LONGEST_ROW_BYTES)
                digest.update(data)
                offset += len(data)
                if not data.endswith(b"\n") and len(data) > LONGEST_ROW_BYTES:
                    start = data.rfind(b"\n") + 1
                    rest = _read_line(stream, digest)
                    offset += rest
                    data = b"%b%b%d\n" % (data[:start], OVERSIZED, len(data) - start + rest)
                first, row = row + 1, row + data.count(b"\n") + (not data.endswith(b"\n"))
                disk_before, disk_at = disk_at, disk.tell()
                yield Chunk(self.path, first, data, False, disk_at - disk_before, Position(row, offset),
                            digest.copy().hexdigest())

    @contextlib.contextmanager
    def _open(self) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
        """The text, and the file on disk that it comes from."""
        with open(self.path, "rb") as disk:
            stream: Any = disk
            if self._packed == "gzip":
                stream = gzip.GzipFile(fileobj=disk)
            elif self._packed == "zstd":
                stream = io.BufferedReader(_Zstd(disk), CHUNK_BYTES)
            try:
                yield stream, disk
            except (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError) as error:
                raise DataError(f"{self.path}: its compressed data is damaged or cut off at byte {disk.tell()} of "
                                f"{self.bytes} ({error}); copy it again") from error


class _Zstd(io.RawIOBase):
    """A zstd file, frame after frame; EOFError where the last one is not whole (zstandard's own reader just ends)."""

    def __init__(self, disk: IO[bytes]) -> None:
        self._disk = disk
        self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._is_between = True  # frames
        self._left = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._left:
            packed = (self._frame.unused_data if self._frame.eof else b"") or self._disk.read(1 << 16)
            if not packed and self._is_between:
                return 0
            if not packed:
                raise EOFError("the last frame is not whole")
            if self._frame.eof:
                self._frame = zstandard.ZstdDecompressor().decompressobj()
            self._left = self._frame.decompress(packed)
            self._is_between = self._frame.eof and not self._frame.unused_data
        count = min(len(buffer), len(self._left))
        buffer[:count], self._left = self._left[:count], self._left[count:]
        return count


def _blocks(stream: IO[bytes], limit: int | None = None) -> Iterator[bytes]:
    """The next `limit` bytes (None: all), a chunk at a time."""
    while limit is None or limit > 0:
        block = stream.read(CHUNK_BYTES if limit is None else min(CHUNK_BYTES, limit))
        if not block:
            return
        limit = None if limit is None else limit - len(block)
        yield block


def _skip(stream: IO[bytes], count: int) -> None:
    if isinstance(stream, io.BufferedReader) and stream.seekable():
        stream.seek(count)
    else:
        for _ in _blocks(stream, count):
            pass


def _read_line(stream: IO[bytes], digest: Any) -> int:
    """Read to the end of a line without keeping it; how many bytes that was."""
    size = 0
    while piece := stream.readline(CHUNK_BYTES):
        digest.update(piece)
        size += len(piece)
        if piece.endswith(b"\n"):
            break
    return size
