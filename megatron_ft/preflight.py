"""Whether a run can work, before hours are queued for nothing: `python -m megatron_ft.preflight CONFIG.toml [overrides]`.

On a login node it checks config, data, model, run.dir, room for checkpoints, packages and, with --gpu, memory, for as many GPUs
as are named. Started as the job's ranks (`srun`, one task per GPU, or torchrun) it compares all nodes and ranks too: files,
versions, GPUs, clocks, and all-reduces between them with their bandwidth. Rank 0 prints one table.

Exit codes, the same on all ranks: 0 nothing is in the way (there may be warnings), 1 a check says no, 2 the config or the
command line cannot be read.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_ft import cli, config, log
from megatron_ft.config import Config
from megatron_ft.errors import ConfigError, TrainingError
from megatron_ft.runtime.device import Process

if TYPE_CHECKING:
    from megatron_ft.training.gpus import Gpu
    from megatron_ft.training.preflight_check import Check
    from megatron_ft.training.preflight_ranks import Limits, Meeting

NODE_GPUS = 8


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m megatron_ft.preflight", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", metavar="CONFIG.toml")
    parser.add_argument("overrides", nargs="*", metavar="section.field=value")
    parser.add_argument("--gpus", type=int, metavar="N", help="on a login node: GPUs of the run, one process each")
    parser.add_argument("--nodes", type=int, metavar="N", help="in place of --gpus: nodes of the run")
    parser.add_argument("--tasks-per-node", type=int, metavar="N", help=f"with --nodes: GPUs of each (default: {NODE_GPUS})")
    parser.add_argument("--gpu", metavar="NAME", help="on a login node: which GPUs, e.g. a100-80g; their memory is compared")
    parser.add_argument("--min-bandwidth", type=float, metavar="GB/S", help="bus bandwidth of an all-reduce of all ranks, "
                        "below which the answer is no")
    parser.add_argument("--max-skew", type=float, default=2.0, metavar="SECONDS", help="how far clocks may be apart "
                        "(default: %(default)g)")
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="how long to wait for a rank, and for the all-reduces "
                        "(default: runtime.timeout_minutes)")
    parser.add_argument("--json", action="store_true", help="the table as JSON")
    return parser.parse_intermixed_args(given)


def main() -> int:
    """Parse, check, print."""
    options = arguments()
    process = _process(options)
    log.setup(rank=process.rank, level="ERROR")  # what is worth a warning is in the table
    settings = config.read(options.config, options.overrides)
    for name in ("min_bandwidth", "max_skew", "timeout"):
        value = getattr(options, name)
        if value is not None and value <= 0:
            raise ConfigError(f"--{name.replace('_', '-')}: {value:g} is not above 0")
    return _together(options, settings, process) if _in_job(options) else _alone(options, settings, process)


def _in_job(options: argparse.Namespace) -> bool:
    return not (options.gpus or options.nodes) and ("RANK" in os.environ or "SLURM_PROCID" in os.environ)


def _process(options: argparse.Namespace) -> Process:
    """This process among the run's; on a login node the first of as many as the command line, or SLURM, says."""
    from megatron_ft.runtime import device

    for name in ("gpus", "nodes", "tasks_per_node"):
        value = getattr(options, name)
        if value is not None and value <= 0:
            raise ConfigError(f"--{name.replace('_', '-')}: {value} is not above 0")
    if options.tasks_per_node and not options.nodes:
        raise ConfigError(f"--tasks-per-node: {options.tasks_per_node} on how many nodes? add --nodes N, or give --gpus alone")
    if _in_job(options):
        return device.process_of(dict(os.environ))
    each = options.tasks_per_node or NODE_GPUS
    size = options.gpus or (options.nodes or 0) * each or int(os.environ.get("SLURM_NTASKS", "1"))
    if options.gpus and options.nodes and options.gpus != options.nodes * each:
        raise ConfigError(f"--gpus: {options.gpus}, but --nodes {options.nodes} x --tasks-per-node {each} are "
                          f"{options.nodes * each}; give one of them")
    return Process(0, size, 0, min(size, each), "127.0.0.1", 0)


def _alone(options: argparse.Namespace, settings: Config, process: Process) -> int:
    from megatron_ft.training import gpus, preflight_ranks

    checks = _by_one(settings, process, gpus.find(options.gpu) if options.gpu else None)
    many = f"{process.size} GPUs" if process.size > 1 else "1 GPU (--gpus N for more)"
    _print(options, checks, f"for {many}, on this machine alone")
    return preflight_ranks.exit_code(checks)


def _together(options: argparse.Namespace, settings: Config, process: Process) -> int:
    from megatron_ft.training import preflight_ranks
    from megatron_ft.training.preflight_check import Check

    limits = preflight_ranks.Limits(options.timeout or 60 * settings.runtime.timeout_minutes, options.max_skew,
                                    options.min_bandwidth and options.min_bandwidth * 1e9)
    first = process.rank == 0
    checks = _by_one(settings, process, None) if first else []
    title = f"by {process.size} rank{'s' if process.size > 1 else ''}"
    try:
        meeting = preflight_ranks.Meeting(process, limits)
        code = _lead(options, settings, meeting, checks, limits, title) if first else preflight_ranks.follow(meeting, settings)
    except (TrainingError, OSError, RuntimeError) as error:  # torch's store raises RuntimeErrors where its other end is gone
        if first:
            _print(options, [*checks, Check("rendezvous", "fail", str(error), "look at what those ranks printed")], title)
        else:
            sys.stderr.write(f"error: preflight of rank {process.rank}: {error}\n")
            time.sleep(preflight_ranks.LINGER_S)  # srun may end all ranks with the first: rank 0 has a table to print
        return cli.EXIT_CHECK_FAILED
    meeting.leave(code)
    if meeting.is_stuck:
        sys.stdout.flush()
        os._exit(code)
    return code


def _by_one(settings: Config, process: Process, gpu: Gpu | None) -> list[Check]:
    from megatron_ft.training import preflight_packages, preflight_run

    return [preflight_packages.check(preflight_packages.versions(), preflight_packages.requirements()),
            *preflight_run.checks(settings, process, gpu)]


def _lead(options: argparse.Namespace, settings: Config, meeting: Meeting, checks: list[Check], limits: Limits,
          title: str) -> int:
    from megatron_ft.training import base_model, preflight_compare, preflight_files, preflight_ranks, preflight_run, resume
    from megatron_ft.training.preflight_check import attempt

    architecture, _ = attempt("", lambda: base_model.find(settings.load.base).architecture)
    paths = preflight_files.of(settings, Path(options.config))
    found, facts = preflight_ranks.lead(meeting, settings, paths, limits,
                                        checkpoint_bytes=resume.bytes_of_one(settings, architecture) if architecture else None)
    checks += found
    gpu = preflight_compare.gpu_of(facts)
    if gpu is not None and architecture is not None:
        fits, wrong = attempt("layout", lambda: preflight_run.memory(settings, architecture, gpu, processes=len(facts)))
        checks += wrong or [fits]
    _print(options, checks, title)
    return preflight_ranks.exit_code(checks)


def _print(options: argparse.Namespace, checks: list[Check], title: str) -> None:
    from megatron_ft.training import preflight_check

    if options.json:
        sys.stdout.write(json.dumps({"config": options.config, "ok": not preflight_check.failed(checks),
                                     "checks": preflight_check.facts(checks)}, indent=1) + "\n")
    else:
        preflight_check.show(f"preflight of {options.config} {title}", checks)
        wrong = sum(check.verdict == "fail" for check in checks)
        sys.stdout.write(f"{wrong} of {len(checks)} checks say no\n" if wrong else "nothing is in the way\n")
    sys.stdout.flush()


if __name__ == "__main__":
    cli.main(main)
