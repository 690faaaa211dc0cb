"""One place for what the user sees: log lines, progress bars, tables. Everything goes to stderr but results."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterable
from typing import TypeVar

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from tqdm import tqdm

T = TypeVar("T")

LOG_FORMAT = "%(asctime)s %(levelname).1s %(message)s"
WIDTH_OF_FILES = 200  # a table in a pipe or a file; it is as wide as it needs to be
BATCH_REFRESH_S = 30.0  # a batch job's log gets a progress line this often, a terminal ten a second


class _AboveTheBar(logging.Handler):
    """Writes a line without tearing a progress bar that is being drawn."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)
        sys.stderr.flush()


def setup(*, rank: int = 0, level: str | None = None) -> logging.Logger:
    """The project's logger; rank 0 writes INFO and up, other ranks only warnings, each with its rank in front.

    The environment variable MEGATRON_FT_LOG (DEBUG, INFO, WARNING, ERROR) overrides the level of rank 0.
    """
    logger = logging.getLogger("megatron_ft")
    logger.handlers.clear()
    handler = _AboveTheBar()
    prefix = "" if rank == 0 else f"[rank {rank}] "
    handler.setFormatter(logging.Formatter(prefix + LOG_FORMAT, datefmt="%H:%M:%S"))
    logger.addHandler(handler)
    logger.propagate = False
    chosen = level or os.environ.get("MEGATRON_FT_LOG", "INFO")
    logger.setLevel(chosen if rank == 0 else "WARNING")
    return logger


def get() -> logging.Logger:
    """The project's logger, set up for rank 0 if nobody has yet."""
    logger = logging.getLogger("megatron_ft")
    return logger if logger.handlers else setup()


def progress(items: Iterable[T] | None = None, *, total: float | None = None, unit: str, label: str,
             enabled: bool = True, initial: float = 0, scale: bool = False) -> tqdm:
    """A progress bar with rate and ETA on stderr; in a batch log (no terminal) a line every half minute.

    Args:
        total: how many `unit`s there will be; None where unknown.
        scale: print large counts with k, M, G.
    """
    terminal = sys.stderr.isatty()
    return tqdm(items, total=total, unit=unit, desc=label, disable=not enabled, initial=initial, unit_scale=scale,
                mininterval=0.1 if terminal else BATCH_REFRESH_S, dynamic_ncols=terminal, file=sys.stderr,
                ascii=None if terminal else True, leave=True)


def table(title: str, columns: list[str], rows: list[list[object]]) -> None:
    """Print a table of results to stdout, never cut off: whole where it goes to a file; numbers are right-aligned."""
    drawn = Table(title=title or None, title_justify="left")
    for index, name in enumerate(columns):
        numeric = all(_is_number(row[index]) for row in rows) and bool(rows)
        drawn.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*[f"{cell:.4g}" if isinstance(cell, float) else escape(str(cell)) for cell in row])
    Console(file=sys.stdout, soft_wrap=True, width=None if sys.stdout.isatty() else WIDTH_OF_FILES).print(drawn)


def _is_number(cell: object) -> bool:
    """Whether a cell is a number, also as text: 1,234 or 5.6%."""
    return isinstance(cell, int | float) or re.fullmatch(r"-?[\d,.]+%?", str(cell)) is not None
