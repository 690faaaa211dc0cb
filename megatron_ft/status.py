"""How a run stands: `python -m megatron_ft.status RUN_DIR`, while it runs and after it has ended, without SLURM.

Exit codes: 0 done, running, or ended so that the same command goes on; 1 failed, silent, or not to be tried again; 2 not a run.

For a job script, after training has ended with CODE (srun's exit code):

    python -m megatron_ft.status RUN_DIR --may-requeue --exit-code CODE [--most 3] && scontrol requeue "$SLURM_JOB_ID"

ends with 0 if the same job should start the command again, with 1 if not, and says why in one line on stdout. No after CODE 0
(done), 2 (a user's error) and 130 (Ctrl-C). Yes after 75 (told to end, time is up), 1 and what kills and node failures leave,
unless the last 3 (--most) attempts of this job in a row have saved no new step.

The attempt's own record counts too: a run that is done is not started again because a rank was killed at its very end. Without
--exit-code the record alone decides, and an attempt without one was killed. Each question is noted in events.jsonl, so ask once
per attempt: attempts that end before training can write anything are counted by it. CONFIG.toml [section.field=value ...] may
stand in place of RUN_DIR, as for `megatron_ft.train`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_ft import cli, log
from megatron_ft.errors import ConfigError

if TYPE_CHECKING:
    from megatron_ft.training.status_facts import Status


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m megatron_ft.status", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN_DIR", help="run.dir of a training run, or its CONFIG.toml")
    parser.add_argument("overrides", nargs="*", metavar="section.field=value", help="after CONFIG.toml")
    parser.add_argument("--json", action="store_true", help="everything that is known as JSON")
    parser.add_argument("--watch", type=float, metavar="SECONDS", help="look again every so often, until it ends or Ctrl-C")
    parser.add_argument("--may-requeue", action="store_true", help="whether a job should start the run again (above)")
    parser.add_argument("--exit-code", type=int, metavar="CODE", help="of --may-requeue: what training or srun ended with")
    parser.add_argument("--most", type=int, default=3, metavar="N",
                        help="of --may-requeue: attempts in a row that may save nothing (default: %(default)s)")
    return parser.parse_intermixed_args(given)


def main() -> int:
    """Parse, read, print."""
    options = arguments()
    folder = run_folder_of(options.run, options.overrides)
    if options.may_requeue:
        return may_requeue(folder, options)
    if options.exit_code is not None:
        raise ConfigError(f"--exit-code: {options.exit_code} is for --may-requeue; add it, or leave the code out")
    if options.watch is None:
        return show(folder, as_json=options.json)
    if options.json or options.watch <= 0:
        raise ConfigError(f"--watch: {options.watch:g} {'with --json' if options.json else 'seconds'}; give a number above 0, "
                          "and no --json")
    return watch(folder, every_s=options.watch)


def may_requeue(folder: Path, options: argparse.Namespace) -> int:
    """Answer a job script."""
    from megatron_ft.training import attempts

    if options.most < 1:
        raise ConfigError(f"--most: {options.most} attempts; give 1 or more")
    granted, why = attempts.ask_requeue(folder, job=os.environ.get("SLURM_JOB_ID"), exit_code=options.exit_code,
                                        most=options.most)
    sys.stdout.write(f"{'requeue' if granted else 'no requeue'}: {why}\n")
    return cli.EXIT_OK if granted else cli.EXIT_CHECK_FAILED


def read(folder: Path) -> Status:
    """The run's status now."""
    from megatron_ft.training import run_record, status_facts

    return status_facts.of(run_record.read(folder))


def show(folder: Path, *, as_json: bool) -> int:
    """Print it once."""
    from rich.console import Console

    from megatron_ft.training import status_text

    status = read(folder)
    if as_json:
        sys.stdout.write(json.dumps(status_text.facts(status), indent=1) + "\n")
    else:
        Console(soft_wrap=not sys.stdout.isatty(), highlight=False,
                width=None if sys.stdout.isatty() else log.WIDTH_OF_FILES).print(status_text.drawn(status))
    return cli.EXIT_OK if status.is_well else cli.EXIT_CHECK_FAILED


def watch(folder: Path, *, every_s: float) -> int:
    """Draw it again and again until the run ends; without a terminal a line each time."""
    from rich.console import Console
    from rich.live import Live

    from megatron_ft.training import status_facts, status_text

    status = read(folder)
    console = Console(highlight=False)
    if not console.is_terminal:
        while True:
            sys.stdout.write(status_text.sign(status) + "\n")
            sys.stdout.flush()
            if status.state not in status_facts.GOING:
                return show(folder, as_json=False)
            time.sleep(every_s)
            status = read(folder)
    with Live(status_text.drawn(status), console=console, auto_refresh=False) as live:
        while status.state in status_facts.GOING:
            time.sleep(every_s)
            status = read(folder)
            live.update(status_text.drawn(status), refresh=True)
    return cli.EXIT_OK if status.is_well else cli.EXIT_CHECK_FAILED


def run_folder_of(named: str, overrides: list[str]) -> Path:
    """The run's folder, which must exist; ConfigError where there is none."""
    folder = Path(named)
    if named.endswith(".toml"):
        from megatron_ft import config

        folder = Path(config.read(named, overrides).run.dir)
    elif overrides:
        raise ConfigError(f"{overrides[0]}: overrides follow a CONFIG.toml, but {named} is none; leave them out")
    if not folder.is_dir():
        raise ConfigError(f"RUN_DIR: {folder} is no folder; name the run.dir of a training run that has started")
    return folder


if __name__ == "__main__":
    cli.main(main)
