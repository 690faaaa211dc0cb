"""`megatron_ft.train` whose rank 1 fails in its third step: for a launcher, which starts it by path."""

from __future__ import annotations

import os
from typing import Any

from megatron_ft import cli, train
from megatron_ft.errors import DataError


def main() -> int:
    """Train; the others are in a collective when rank 1 fails."""
    from megatron_ft.training import progress

    after_step = progress.Progress.after_step

    def failing(self: progress.Progress, **named: Any) -> progress.Progress:
        if os.environ["RANK"] == "1" and self.step == 2:
            raise DataError("the third step is too much for me")
        return after_step(self, **named)

    progress.Progress.after_step = failing  # type: ignore[method-assign]
    return train.main()


if __name__ == "__main__":
    cli.main(main)
