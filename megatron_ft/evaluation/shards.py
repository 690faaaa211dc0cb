"""The order of a run's tasks, and which of them one of several processes does."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from megatron_ft.errors import ConfigError

SHARD = re.compile(r"(\d{1,6})/(\d{1,6})")
TOGETHER = {"explaindescribe": "explain", "explainsynthesize": "explain"}
"""Scenarios of which one asks with the answer to the other."""


class Place(NamedTuple):
    """One task of a run."""

    language: str
    scenario: str
    task_id: str


@dataclass(frozen=True)
class Shard:
    """One of `count` parts of a run."""

    index: int = 0
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read `i/n`, i from 0; nothing is the whole run.

        >>> Shard.parse("2/4"), Shard.parse("").count
        (Shard(index=2, count=4), 1)
        """
        match = SHARD.fullmatch(text.strip() or "0/1")
        shard = cls(int(match[1]), int(match[2])) if match else cls(1, 1)
        if shard.index >= shard.count:
            raise ConfigError(f"--shard: '{text}' is no shard; write i/n with i from 0 to n - 1, as in 0/4 to 3/4")
        return shard

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def places(task_ids: Mapping[str, Sequence[str]], scenarios: Sequence[str]) -> list[Place]:
    """Every task of a run, in the order of its files.

    Args:
        task_ids: of each language.
    """
    return [Place(language, scenario, task_id) for language, ids in task_ids.items() for scenario in scenarios
            for task_id in ids]


def part(whole: Sequence[Place], shard: Shard) -> list[Place]:
    """Every n-th task with all its samples, so that each shard has long and short ones of everything.

    The two scenarios of one explanation count as one. ConfigError when nothing is left for the last shard.

    >>> whole = places({"go": ["a", "b"]}, ["explaindescribe", "explainsynthesize"])
    >>> [place[1:] for place in part(whole, Shard(1, 2))]
    [('explaindescribe', 'b'), ('explainsynthesize', 'b')]
    """
    units = [(place.language, TOGETHER.get(place.scenario, place.scenario), place.task_id) for place in whole]
    numbers = {unit: number for number, unit in enumerate(dict.fromkeys(units))}
    if shard.count > len(numbers):
        raise ConfigError(f"--shard: {shard} cuts a run of {len(numbers)} tasks into {shard.count} parts, so that some have "
                          f"none; use at most {len(numbers)}")
    return [place for place, unit in zip(whole, units, strict=True) if numbers[unit] % shard.count == shard.index]
