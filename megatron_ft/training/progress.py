"""Where a run stands, as every checkpoint carries it, and what follows from it. Torch-free."""

from __future__ import annotations

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Progress:
    """All that a resumed run's data order, learning rate, dropout and decisions follow from."""

    step: int
    """Optimizer steps done, skipped ones included."""
    rows: int
    """Packed rows consumed, over all ranks."""
    skipped: int = 0
    """Steps whose loss or gradient was not finite: they changed no weight."""
    failures_in_row: int = 0
    """Of the last steps, those skipped for another reason than a loss scale that was too high."""
    validated: int = -1
    """Step of the last validation that was finished; -1: none."""
    best_loss: float | None = None
    """The best validation loss so far."""
    best_step: int = -1
    """Step whose weights had it."""
    worse_in_row: int = 0
    """Validations since then."""

    def after_step(self, *, rows: int, updated: bool, loss: float, loss_scale: float) -> Progress:
        """After one more step.

        fp16 finds its loss scale by overflows: a step whose gradients overflowed while the scale was above 1 is skipped as
        any other, but is no failure.

        Args:
            rows: consumed so far.
            updated: False where the step was skipped.
        """
        is_scaling = math.isfinite(loss) and loss_scale > 1
        failures = 0 if updated else self.failures_in_row + (not is_scaling)
        return dataclasses.replace(self, step=self.step + 1, rows=rows, skipped=self.skipped + (not updated),
                                   failures_in_row=failures)

    def after_validation(self, loss: float) -> Progress:
        """After a validation of the weights as they are.

        >>> start = Progress(step=0, rows=0)
        >>> [state.worse_in_row for state in (start.after_validation(2.0), start.after_validation(2.0).after_validation(2.0))]
        [0, 1]
        """
        if math.isfinite(loss) and (self.best_loss is None or loss < self.best_loss):
            return dataclasses.replace(self, validated=self.step, best_loss=loss, best_step=self.step, worse_in_row=0)
        return dataclasses.replace(self, validated=self.step, worse_in_row=self.worse_in_row + 1)
