"""CRC-32 of files and of parts of them. Torch-free.

isal computes zlib's CRC-32 with the processor's carry-less multiplication, several times faster than zlib, and joins the sums
of two neighbouring pieces, so that pieces may be written in any order. CRC-32 finds damage, not malice.
"""

from __future__ import annotations

from collections.abc import Iterable

from isal.isal_zlib import crc32, crc32_combine

__all__ = ["crc32", "joined", "text"]


def text(crc: int) -> str:
    """A sum as manifests hold it: 8 hexadecimal digits."""
    return f"{crc:08x}"


def joined(pieces: Iterable[tuple[int, int]]) -> int:
    """The sum of pieces that follow one another.

    Args:
        pieces: (sum, bytes) of each, in order.

    >>> joined([(crc32(b"conver"), 6), (crc32(b""), 0), (crc32(b"sion"), 4)]) == crc32(b"conversion")
    True
    """
    whole = 0
    for crc, size in pieces:
        whole = crc32_combine(whole, crc, size)
    return whole
