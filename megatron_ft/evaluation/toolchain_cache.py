"""What a language builds once and uses for every program: precompiled headers, archives, our halves of the wire."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from megatron_ft.evaluation.scratch import Scratch

VARIABLE = "MEGATRON_FT_CACHE"


def root() -> Path:
    """Where it lies: $MEGATRON_FT_CACHE, else megatron_ft in $XDG_CACHE_HOME or ~/.cache."""
    if os.environ.get(VARIABLE):
        return Path(os.environ[VARIABLE])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "megatron_ft"


def digest(text: str) -> str:
    """The SHA-256 of a text, in hexadecimal digits; a model's text may hold half a character."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def cached_folder(name: str, key: Sequence[str], make: Callable[[Path], None]) -> Path:
    """The folder that `make` fills, made once for a name and a key; processes that make it at the same time agree on one.

    Args:
        name: of what it is for, such as "cpp".
        key: everything that its content depends on: versions, options, the text of our own sources.
        make: fills an empty folder; what it raises is raised, and nothing stays.
    """
    place = root() / "toolchains" / f"{name}-{digest(chr(0).join(key))[:16]}"
    if place.is_dir():
        return place
    place.parent.mkdir(parents=True, exist_ok=True)
    fresh = Scratch(f".{name}", place.parent)
    try:
        make(fresh.path)
        fresh.path.chmod(0o755)  # programs run under other users' ids
        try:
            fresh.path.rename(place)
        except OSError:
            if not place.is_dir():  # another process was quicker, which is as good
                raise
    finally:
        fresh.close()
    return place
