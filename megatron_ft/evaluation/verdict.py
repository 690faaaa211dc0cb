"""What executing a program gave."""

from __future__ import annotations

from dataclasses import dataclass

STATUSES = ("passed", "failed", "timeout", "compile error", "refused")


@dataclass(frozen=True)
class Verdict:
    """The result of one program against the tests of one problem."""

    status: str
    """passed, failed, timeout, compile error, or refused (it broke a rule of the box or was not run at all)."""
    reason: str
    """Why it did not pass; empty when it did."""
    seconds: float
    """Wall time of its boxes."""
    output: str
    """The end of what the program wrote to stdout and stderr."""

    @property
    def passed(self) -> bool:
        """Whether it counts for pass@k."""
        return self.status == "passed"
