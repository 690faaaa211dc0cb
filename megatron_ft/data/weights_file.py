"""OctoPack's weights files: which datasets a run reads, in groups `NAME: WEIGHT START:END PREFIX, WEIGHT START:END PREFIX`.

    "train: 0.7 0:0.95 data/commits, 0.3 0:0.95 data/oasst"
    "valid: 0.7 0.95:1 data/commits, 0.3 0.95:1 data/oasst"

Theirs are two files of one quoted line each, ended by a newline. Here a group may also stand without quotes, go on in the
next line, and share a file with others; blank lines and what follows a # are skipped. A relative PREFIX is relative to the
working directory, as it was there.

A validation group's NAME is the tag of its loss; there may be several, named valid_SOMETHING or validation_SOMETHING.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from megatron_ft import log
from megatron_ft.data.source import parse_entry
from megatron_ft.errors import ConfigError

NAMES = {"train": "train", "valid": "valid", "validation": "valid", "test": "test"}
HEADER = r"[ \t]*([A-Za-z_][\w-]*)[ \t]*:"
FORM = "NAME: WEIGHT START:END PREFIX, WEIGHT START:END PREFIX"


@dataclasses.dataclass(frozen=True)
class Group:
    """A group of a weights file."""

    role: str
    """One of the values of NAMES."""
    name: str
    """As it is written."""
    where: str
    """FILE:LINE of its beginning."""
    entries: list[str]
    """As `source.parse_entry` reads them."""


def read(paths: Sequence[str | Path]) -> tuple[list[str], list[str]]:
    """The training and the validation entries of some weights files; ConfigError names the file and line of a fault.

    Validation reads every document once, so the weights there are left out; a test group is not used. Both are logged.
    """
    found: dict[str, Group] = {}
    for group in [group for path in paths for group in _groups(Path(path))]:
        key = NAMES.get(group.name.lower(), group.name.lower())
        if key in found:
            raise ConfigError(f"{group.where}: is a second {key} group, the first is in {found[key].where}; "
                              "write one group with all of its datasets")
        found[key] = group
    if "train" not in found:
        raise ConfigError(f"data.weights_files: no train group in {', '.join(map(str, paths))}; "
                          "write one such as 'train: 1.0 0:0.95 PREFIX'")
    if "test" in found:
        log.get().info("data: %s: the test group is not used: nothing is trained or validated on it", found["test"].where)
    valid = [group for group in found.values() if group.role == "valid"]
    for group in valid:
        if len(group.entries) > 1:
            log.get().info("data: %s: weights are not used: validation reads every document once", group.where)
    return found["train"].entries, [f"{group.name}= {entry.partition(' ')[2]}" for group in valid for entry in group.entries]


def _groups(path: Path) -> Iterator[Group]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"data.weights_files: {path} cannot be read ({error}); name a text file of lines '{FORM}'") from error
    text = re.sub(r"(?m)(?:^|(?<=\s))#.*$", "", text)
    pieces = text.split('"')
    if len(pieces) % 2 == 0:
        raise ConfigError(f"{path}:{_line(text, text.rindex(chr(34)))}: a quote is opened and never closed; close or remove it")
    at = 0
    for number, piece in enumerate(pieces):
        quoted = number % 2 == 1
        begins = [0] if quoted else [0, *(match.start() for match in re.finditer(rf"(?m)^{HEADER}", piece))]
        for begin, end in zip(begins, [*begins[1:], len(piece)], strict=True):
            if piece[begin:end].strip():
                yield _group(path, text, at + begin, at + end)
        at += len(piece) + 1


def _group(path: Path, text: str, begin: int, end: int) -> Group:
    """The group in text[begin:end]."""
    begin += len(text[begin:end]) - len(text[begin:end].lstrip())
    where = f"{path}:{_line(text, begin)}"
    header = re.compile(HEADER).match(text, begin, end)
    if header is None:
        raise ConfigError(f"{where}: '{text[begin:end].strip()}' belongs to no group; write {FORM}")
    name = header[1].lower()
    role = "valid" if re.match(r"valid(ation)?_", name) else NAMES.get(name)
    if role is None:
        raise ConfigError(f"{where}: group '{header[1]}' is unknown; name it one of {', '.join(NAMES)}, valid_SOMETHING")
    entries, at = [], header.end()
    for part in text[header.end():end].split(","):
        inside = at + len(part) - len(part.lstrip())
        entries.append(_entry(part.strip(), where=f"{path}:{_line(text, min(inside, end - 1))}"))
        at += len(part) + 1
    return Group(role, header[1], where, entries)


def _entry(text: str, *, where: str) -> str:
    """An entry that was checked: exactly three words, so that a comma that was forgotten is seen."""
    words = text.split()
    if len(words) != 3 or ":" not in words[1]:
        raise ConfigError(f"{where}: '{text}' is not WEIGHT START:END PREFIX; separate entries with commas, as in '{FORM}'")
    try:
        entry = parse_entry(" ".join(words))
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    if entry.prefix != words[2] or entry.tag:
        raise ConfigError(f"{where}: '{text}': '{words[0]}' must be a number and '{words[1]}' two with a colon between them, "
                          "as in '0.7 0:0.95 PREFIX'")
    return " ".join(words)


def _line(text: str, at: int) -> int:
    """Number of the line that position `at` is in, from 1."""
    return text.count("\n", 0, at) + 1
