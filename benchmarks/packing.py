"""How full are packed rows, and how fast is packing? Best fit against next fit and against one document a row.

    python benchmarks/packing.py --input FILE.jsonl --tokenizer DIR [--repeat 10]
    python benchmarks/packing.py --input PREFIX

Fill is the share of the rows' positions that hold a document; one of n tokens takes n - 1 positions. Documents that are
longer than a row are left out of all three and counted.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from megatron_ft import cli, log
from megatron_ft.data.indexed import open_dataset, with_suffix
from megatron_ft.data.pack import Packing
from megatron_ft.errors import ConfigError

FILL_TARGETS = {8192: 0.99, 2048: 0.97}
MANY, MANY_SECONDS = 1_000_000, 10.0


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", required=True, type=Path, help="JSONL of instruction rows, or the prefix of a dataset")
    parser.add_argument("--tokenizer", type=Path, help="Hugging Face folder of a tokenizer; needed for a JSONL")
    parser.add_argument("--repeat", type=int, default=10, help="how often the documents are taken, one time after the other")
    return parser.parse_args()


def positions_of(source: Path, tokenizer: Path | None) -> np.ndarray:
    """Row positions of each document, int64 [documents]."""
    if with_suffix(source, ".bin").is_file():
        return open_dataset(source).lengths.astype(np.int64) - 1
    if tokenizer is None:
        raise ConfigError(f"--tokenizer: is needed to tokenize {source}; name a Hugging Face folder")
    with tempfile.TemporaryDirectory() as folder:
        prefix = Path(folder) / "rows"
        subprocess.run([sys.executable, "preprocess/tokenize_sft.py", "--input", source, "--output", prefix, "--tokenizer",
                        tokenizer, "--template", "octocoder"], check=True, stdout=sys.stderr)
        return open_dataset(prefix).lengths.astype(np.int64) - 1


def next_fit_rows(lengths: np.ndarray, row: int) -> int:
    """Rows when documents are taken in their order and a row is closed as soon as one does not fit.

    >>> next_fit_rows(np.array([3, 3, 1, 4]), row=5)
    3
    """
    rows, room = 0, 0
    for length in lengths.tolist():
        if length > room:
            rows, room = rows + 1, row
        room -= length
    return rows


def fills(positions: np.ndarray, row: int) -> tuple[dict[str, float], int]:
    """The fill of each way to make rows, and how many documents are longer than a row."""
    fitting = positions[positions <= row]
    rows = {"best fit": Packing(fitting, row).rows, "next fit": next_fit_rows(fitting, row), "one a row": len(fitting)}
    return {name: float(fitting.sum() / (count * row)) for name, count in rows.items()}, len(positions) - len(fitting)


def seconds_for_many(positions: np.ndarray, row: int) -> float:
    """Seconds to pack a million documents with lengths drawn from the real ones, and to plan one epoch."""
    lengths = np.random.RandomState(1).choice(positions[positions <= row], size=MANY)
    started = time.perf_counter()
    Packing(lengths, row).epoch(seed=0, epoch=0)
    return time.perf_counter() - started


def main() -> int:
    """Print a table and the figures; 1 where one does not hold."""
    given = arguments()
    positions = np.tile(positions_of(given.input, given.tokenizer), given.repeat)
    figures, table = [], []
    for row, target in FILL_TARGETS.items():
        filled, longer = fills(positions, row)
        seconds = seconds_for_many(positions, row)
        for name, fill in filled.items():
            own_target = target if name == "best fit" else None
            figures.append((f"fill, row {row}, {name}", fill, "", own_target, own_target is None or fill >= own_target))
        figures.append((f"documents longer than a row, row {row}", longer, "documents", None, True))
        figures.append((f"time to pack {MANY:,} documents, row {row}", seconds, "s", MANY_SECONDS, seconds < MANY_SECONDS))
        table.append([row, *(f"{fill:.2%}" for fill in filled.values()), longer, f"{seconds:.2f}"])
    log.table(f"{len(positions):,} documents ({given.repeat} times those of {given.input})",
              ["row", "best fit", "next fit", "one a row", "left out: longer", "s for a million"], table)
    for figure, value, unit, target, holds in figures:
        sys.stdout.write(json.dumps({"benchmark": "packing", "figure": figure, "value": value, "unit": unit,
                                     "target": target, "holds": holds}) + "\n")
    return 0 if all(figure[-1] for figure in figures) else 1


if __name__ == "__main__":
    cli.main(main)
