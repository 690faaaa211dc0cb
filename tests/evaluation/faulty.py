"""Boxes of which the first ones go wrong, and others that count how often they were asked for."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass

from megatron_ft.evaluation.box import Box
from megatron_ft.evaluation.sandbox import Sandbox

DOWN = "echo no room >&2; exit 1"
ANNOUNCED_AND_KILLED = r"printf '\001up\n'; kill -9 $$"


@dataclass(frozen=True)
class Faulty(Sandbox):
    """A sandbox whose first boxes are these shell commands instead; in `made` is what each box was."""

    first: tuple[str, ...] = ()
    made: tuple[list, ...] = ()

    def command(self, box: Box, argv: Sequence[str], keep: Collection[int] = (), folder: str = "/tmp") -> list[str]:
        """The next of `first`, while there are any."""
        made = self.made[0]
        made.append(argv)
        if len(made) <= len(self.first):
            return ["/bin/sh", "-c", self.first[len(made) - 1]]
        return super().command(box, argv, keep, folder)

    @property
    def attempts(self) -> int:
        """How many boxes were asked for."""
        return len(self.made[0])


def faulty(boxes: Sandbox, *first: str) -> Faulty:
    """The same sandbox, but for its first boxes."""
    return Faulty(**asdict(boxes), first=first, made=([],))
