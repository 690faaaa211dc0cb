"""Runs the command again and again and kills it, until it is through: `python killed.py PLACES ARGUMENTS...`.

PLACES is a JSON list: the n-th process is killed with SIGKILL as soon as the unfinished folder has that many rows. Every
process is a fork of this one, which has imported what is slow to import and has computed nothing. Prints how many were killed.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from megatron_ft import cli, evaluate
from megatron_ft.evaluation import generation, statistics  # noqa: F401 - once for all forks

LONGEST_S = 120


def rows(folder: Path) -> int:
    """Whole rows of samples and results."""
    return sum((folder / name).read_bytes().count(b"\n") for name in ("samples.jsonl", "results.jsonl")
               if (folder / name).exists())


def killed_at(place: int | None, folder: Path, delay_s: float) -> bool:
    """Run the command in a fork and kill it at that many rows; whether it was killed."""
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)
        cli.main(evaluate.command)
    end = time.monotonic() + LONGEST_S
    while time.monotonic() < end:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            if status:
                raise SystemExit(f"the command ended with {os.waitstatus_to_exitcode(status)}")
            return False
        if place is not None and rows(folder) >= place:
            time.sleep(delay_s)
            os.kill(child, signal.SIGKILL)
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    raise SystemExit(f"not over after {LONGEST_S} s")


def main() -> None:
    """Kill, then let it end."""
    places, sys.argv = json.loads(sys.argv[1]), ["evaluate", *sys.argv[2:]]
    output = Path(sys.argv[sys.argv.index("--output") + 1])
    draw = random.Random(len(places))
    count = sum(killed_at(place, output.parent / f".{output.name}.partial", draw.uniform(0, 0.05)) for place in places)
    killed_at(None, output, 0.0)
    sys.stdout.write(f"killed {count}\n")


if __name__ == "__main__":
    main()
