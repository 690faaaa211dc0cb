"""One line of the preflight: what was looked at, what was found, whether a run can live with it, what to do. Torch-free."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar

from megatron_ft import log
from megatron_ft.errors import MegatronFTError

T = TypeVar("T")
NAMED, LISTED = 8, 5
"""Ranks or nodes that a line names, and findings that a cell lists; of more it says how many."""


@dataclasses.dataclass(frozen=True)
class Check:
    """A line of the table."""

    name: str
    verdict: Literal["ok", "warn", "fail"]
    found: str
    advice: str = ""


def attempt(name: str, work: Callable[[], T]) -> tuple[T | None, list[Check]]:
    """What `work` gives, or the line that says why it failed, with what its error advises."""
    try:
        return work(), []
    except (MegatronFTError, OSError) as error:
        found, _, advice = str(error).rpartition("; ") if "; " in str(error) else (str(error), "", "")
        return None, [Check(name, "fail", found, advice)]


def failed(checks: Iterable[Check]) -> bool:
    """Whether any line says no."""
    return any(check.verdict == "fail" for check in checks)


def show(title: str, checks: Sequence[Check]) -> None:
    """Print the table, what is wrong last: it stays on the screen."""
    ordered = sorted(checks, key=lambda check: ("ok", "warn", "fail").index(check.verdict))
    rows: list[list[object]] = [[each.name, each.verdict, each.found, each.advice] for each in ordered]
    log.table(title, ["check", "", "found", "what to do"], rows)


def facts(checks: Sequence[Check]) -> list[dict[str, Any]]:
    """The table as JSON."""
    return [dataclasses.asdict(check) for check in checks]


def odd_ones(values: Mapping[str, Hashable]) -> tuple[Hashable, dict[str, Hashable]]:
    """The value that most have, and who has another.

    >>> odd_ones({"n1": "2.13", "n2": "2.12", "n3": "2.13"})
    ('2.13', {'n2': '2.12'})
    """
    [(usual, _)] = Counter(values.values()).most_common(1)
    return usual, {who: value for who, value in values.items() if value != usual}


def named(who: Sequence[str]) -> str:
    """Names in words, not more than fit a line.

    >>> named(["n1", "n2"]), named([f"n{number}" for number in range(12)])
    ('n1, n2', 'n0, n1, n2, n3, n4, n5, n6, n7 and 4 more')
    """
    more = f" and {len(who) - NAMED} more" if len(who) > NAMED else ""
    return ", ".join(who[:NAMED]) + more


def listed(findings: Sequence[str]) -> str:
    """Findings, one a line, not more than fit a cell."""
    more = [f"and {len(findings) - LISTED} more"] if len(findings) > LISTED else []
    return "\n".join([*findings[:LISTED], *more])
