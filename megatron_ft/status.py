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
import os
import sys
from pathlib import Path

from megatron_ft import cli
from megatron_ft.errors import ConfigError


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m megatron_ft.status", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN_DIR", help="run.dir of a training run, or its CONFIG.toml")
    parser.add_argument("overrides", nargs="*", metavar="section.field=value", help="after CONFIG.toml")
    parser.add_argument("--may-requeue", action="store_true", help="whether a job should start the run again (above)")
    parser.add_argument("--exit-code", type=int, metavar="CODE", help="of --may-requeue: what training or srun ended with")
    parser.add_argument("--most", type=int, default=3, metavar="N",
                        help="of --may-requeue: attempts in a row that may save nothing (default: %(default)s)")
    return parser.parse_intermixed_args(given)


def main() -> int:
    """Parse, read, print."""
    from megatron_ft.training import attempts

    options = arguments()
    folder = run_folder_of(options.run, options.overrides)
    if options.most < 1:
        raise ConfigError(f"--most: {options.most} attempts; give 1 or more")
    granted, why = attempts.ask_requeue(folder, job=os.environ.get("SLURM_JOB_ID"), exit_code=options.exit_code,
                                        most=options.most)
    sys.stdout.write(f"{'requeue' if granted else 'no requeue'}: {why}\n")
    return cli.EXIT_OK if granted else cli.EXIT_CHECK_FAILED


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
