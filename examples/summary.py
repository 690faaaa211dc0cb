"""Print what a quickstart gave and write it to FOLDER/quickstart.json; exit code 1 when something was not learnt.

    python examples/summary.py runs/quickstart-starcoder

FOLDER holds stages.jsonl (examples/measured.py) and the evaluations before, after and held_out.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from megatron_ft import cli, log
from megatron_ft.errors import DataError

EVALUATIONS = (("before", "memorised problems, before training"), ("after", "memorised problems, after training"),
               ("held_out", "held-out problems, after training"))


def collect(folder: Path) -> dict[str, Any]:
    """Scores, stages and totals of a quickstart's folder."""
    try:
        stages = [json.loads(line) for line in (folder / "stages.jsonl").read_text(encoding="utf-8").splitlines()]
        scores = {name: json.loads((folder / name / "summary.json").read_text(encoding="utf-8"))["scores"][0]
                  for name, _ in EVALUATIONS}
    except (OSError, ValueError, LookupError) as error:
        raise DataError(f"{folder}: is not the folder of a finished quickstart: {error}") from error
    return {"pass@1": {name: score["pass@k"]["1"] for name, score in scores.items()},
            "problems": {name: score["problems"] for name, score in scores.items()},
            "seconds": round(sum(stage["seconds"] for stage in stages), 1),
            "peak_bytes": max(stage["peak_bytes"] for stage in stages), "stages": stages}


def show(found: dict[str, Any]) -> None:
    """Two tables on stdout: how long it took and what came out."""
    stages = [[stage["stage"], f"{stage['seconds']:.1f}", f"{stage['peak_bytes'] / 2**20:,.0f}"]
              for stage in found["stages"]]
    total = ["all, and the largest", f"{found['seconds']:.1f}", f"{found['peak_bytes'] / 2**20:,.0f}"]
    log.table("stages", ["stage", "seconds", "peak memory, MiB"], [*stages, total])
    log.table("results", ["evaluated on", "problems", "pass@1"],
              [[words, str(found["problems"][name]), f"{found['pass@1'][name]:.2f}"] for name, words in EVALUATIONS])


def main() -> int:
    """Collect, write, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="what examples/quickstart.sh wrote")
    folder = parser.parse_args().folder
    found = collect(folder)
    cli.write_text_atomically(folder / "quickstart.json", json.dumps(found, indent=2) + "\n")
    show(found)
    if found["pass@1"]["after"] == 1.0:
        return cli.EXIT_OK
    log.get().error("pass@1 on the memorised problems is %.2f after training, expected 1.00; what failed is in %s",
                    found["pass@1"]["after"], folder / "after" / "results.jsonl")
    return cli.EXIT_CHECK_FAILED


if __name__ == "__main__":
    cli.main(main)
