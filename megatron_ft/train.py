"""`python -m megatron_ft.train CONFIG.toml [section.field=value ...]`, under torchrun, srun or alone.

Imports stay inside the functions: --help and a refused config need no torch.
"""

from __future__ import annotations

import argparse
import faulthandler
import functools
import os
import warnings
from pathlib import Path

from megatron_ft import cli


def main() -> int:
    """Parse the command line, check everything, train; the exit code says whether the run is done or to be queued again."""
    from megatron_ft import config, log
    from megatron_ft.runtime import dead_rank, device
    from megatron_ft.training.ending import Ending, Signals, process_age

    faulthandler.enable()  # a crash in C says where it was in Python
    fields = "\n".join(f"  {name} = {default!r}\n      {text}" for name, (default, text) in config.fields().items())
    parser = argparse.ArgumentParser(prog="python -m megatron_ft.train", description="Fine-tune a model.",
                                     epilog=f"fields of CONFIG, each can be overridden:\n{fields}",
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", metavar="CONFIG.toml")
    parser.add_argument("overrides", nargs="*", metavar="section.field=value")
    arguments = parser.parse_args()
    process = device.process_of(dict(os.environ))
    signals = Signals(speaks=process.rank == 0)
    signals.listen()  # before the imports that take seconds: a signal is heard from the start
    log.setup(rank=process.rank)
    warnings.filterwarnings("ignore", module=r"megatron\.core|torch")

    settings = config.read(arguments.config, arguments.overrides)
    from megatron_ft.training import attempt_record, setup

    with attempt_record.recorded(settings, process) as attempt:
        checked = setup.prepare(settings, process)
        chosen = device.prepare(settings.runtime, process)
        from megatron_ft.training import loop

        ending = Ending(signals, limit_s=60 * settings.run.max_minutes, age_s=process_age(), keeps_time=process.rank == 0)
        guard = functools.partial(dead_rank.watch, address=process.address, silence_s=settings.runtime.dead_rank_seconds,
                                  timeout_s=60 * settings.runtime.timeout_minutes, folder=Path(settings.run.dir) / "errors",
                                  note=attempt.failed)
        end = loop.train(checked, chosen, ending=ending, guard=guard)
    signals.stop_listening()
    return end.exit_code


if __name__ == "__main__":
    cli.main(main)
