"""What executing a program gave."""

from __future__ import annotations

from dataclasses import asdict, dataclass

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
    base: str = ""
    """The status by the base tests alone, of problems that have such."""

    def row(self) -> dict[str, str | float]:
        """What results.jsonl has of it."""
        return {name: value for name, value in asdict(self).items() if value or name != "base"}

    @property
    def passed(self) -> bool:
        """Whether it counts for pass@k."""
        return self.status == "passed"
