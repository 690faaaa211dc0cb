"""Bare texts for tests, and what their documents must be when they are cut for fill-in-the-middle."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from megatron_ft.data.fim import FAMILIES, Fim, Tokens
from megatron_ft.data.tokenizer import Tokenizer

STAR = FAMILIES["StarCoder"]


def texts(count: int) -> list[str]:
    """Different texts of different lengths."""
    return [f"def f{number}(x):\n" + f"    x += {number}  # ½ é 😀\n" * (number * 37 % 23) + "    return x\n"
            for number in range(count)]


def write_texts(path: Path, made: list[str]) -> Path:
    """Rows of bare texts, under either key."""
    rows = [{"content" if number % 2 else "text": text} for number, text in enumerate(made)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def published(ids_of: Callable[[str], list[int]], special: Callable[[str], int], text: str, fim: Fim) -> list[int]:
    """A text's document without its end, as the StarCoder training put it together (bigcode-project/Megatron-LM, `permute`)."""
    filling = fim.cut(text)
    if filling is None:
        return ids_of(text)
    prefix, middle, suffix = (ids_of(part) for part in (filling.prefix, filling.middle, filling.suffix))
    if filling.order == "SPM":
        return [special(STAR.prefix), special(STAR.suffix), *suffix, special(STAR.middle), *prefix, *middle]
    return [special(STAR.prefix), *prefix, special(STAR.suffix), *suffix, special(STAR.middle), *middle]


def read_back(ids: list[int], ours: Tokenizer, tokens: Tokens = STAR) -> tuple[str, str]:
    """The text that a document was cut from, found by the marks in it alone, and what is between PREFIX and SUFFIX."""
    prefix, middle, suffix = (ours.special(name) for name in tokens.names[:3])
    if ids[0] != prefix:
        return ours.decode(ids), ""
    at_suffix, at_middle = ids.index(suffix), ids.index(middle)
    before, after, last = ids[1:at_suffix], ids[at_suffix + 1:at_middle], ids[at_middle + 1:]
    return ours.decode(before) + ours.decode(last) + ours.decode(after), ours.decode(before)
