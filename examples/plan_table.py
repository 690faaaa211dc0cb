"""Write what megatron_ft.plan says of every example config into docs/training.md, between its two marks.

    python examples/plan_table.py            # rewrite the table
    python examples/plan_table.py --print    # only show it
"""

import argparse
import re
import shlex
import sys
from pathlib import Path

from megatron_ft import plan
from megatron_ft.training.estimate import Estimate, estimate
from megatron_ft.training.gpus import GIB

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "training.md"
BEGIN, END = "<!-- made by examples/plan_table.py -->\n", "<!-- end -->\n"
MFU = 0.45


def commands(path: Path) -> list[list[str]]:
    """The arguments of the plan commands in a config's first lines."""
    found = re.findall(r"^# +python -m megatron_ft\.plan (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return [shlex.split(line) for line in found]


def planned(path: Path, command: list[str]) -> Estimate:
    """What a config's own command estimates."""
    options = plan.arguments([str(path), *command[1:]])
    config = plan.read(options.config, options.overrides)
    architecture, _ = plan.model_of(config, options.model)
    return estimate(config, architecture, plan.machine(options), processes=options.gpus)


def row(path: Path, one: Estimate) -> str:
    """A config as a line of the table."""
    split, parallel = one.split, one.config.parallel
    pieces = f", {parallel.virtual_stages} pieces" if parallel.virtual_stages > 1 else ""
    hours = 1000 * one.flops_per_step / (one.peak_flops * MFU) / 3600
    return (f"| {path.stem} | {split.processes} x {one.gpu.name} | {split.tp} x {split.pp} x {split.dp}{pieces} | "
            f"{split.rows_per_micro_batch} x {split.micro_batches} of {split.row_tokens} | {one.fullest.total / GIB:.1f} of "
            f"{one.gpu.memory_bytes / GIB:.1f} | {one.flops_per_step / 1e15:,.0f} | {hours:.1f} |")


def table() -> str:
    """The whole table in Markdown."""
    columns = ["config", "GPUs", "tp x pp x dp", "rows x micro-batches", "GiB on the fullest GPU", "PFLOP/step",
               "hours per 1,000 steps"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for path in sorted((HERE / "configs").glob("*.toml"), key=lambda path: path.stem.partition("-a100")):
        lines += [row(path, planned(path, command)) for command in commands(path)]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write or show the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--print", action="store_true", help="do not write it")
    if parser.parse_args().print:
        sys.stdout.write(table())
        return
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    PAGE.write_text(before + BEGIN + table() + END + rest.split(END)[1], encoding="utf-8")


if __name__ == "__main__":
    main()
