"""`python -m megatron_ft.evaluate`: a model's pass@k on a benchmark in HumanEvalPack's format."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence

from megatron_ft import cli
from megatron_ft.evaluation import compare, doctor, merge, report, selftest, settings
from megatron_ft.evaluation.run import evaluate

COMMANDS: Mapping[str, Callable[[Sequence[str]], int | None]] = {
    "compare": compare.command, "doctor": doctor.command, "merge": merge.command, "report": report.command,
    "selftest": selftest.command}
"""First argument -> what the rest is for; without one of these it is a run."""
ABOUT = """other commands (each with its own --help):
  compare RUN_A RUN_B        what changed between two runs, and whether it may be chance
  doctor                     whether programs of each language can be judged here, and what to install
  merge --output OUT PART... join the folders of all shards of a run
  selftest --benchmark DIR   the benchmark's own solutions through every rule, as a table
  report FOLDER              write summary, tables and page of a finished run again"""


def command() -> int | None:
    """Read the command line and do what it says."""
    cli.clean_up_after_sigterm()
    argv = sys.argv[1:]
    if argv and argv[0] in COMMANDS:
        return COMMANDS[argv[0]](argv[1:])
    evaluate(settings.parse(argv, epilog=ABOUT))
    return None


if __name__ == "__main__":
    cli.main(command)
