"""`python -m megatron_ft.train CONFIG.toml [section.field=value ...]`, under torchrun, srun or alone.

Imports stay inside the functions: --help and a refused config need no torch.
"""

from __future__ import annotations

import argparse
import os
import warnings

from megatron_ft import cli


def main() -> None:
    """Parse the command line, check everything, train."""
    from megatron_ft import config, log
    from megatron_ft.runtime import device

    fields = "\n".join(f"  {name} = {default!r}\n      {text}" for name, (default, text) in config.fields().items())
    parser = argparse.ArgumentParser(prog="python -m megatron_ft.train", description="Fine-tune a model.",
                                     epilog=f"fields of CONFIG, each can be overridden:\n{fields}",
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", metavar="CONFIG.toml")
    parser.add_argument("overrides", nargs="*", metavar="section.field=value")
    arguments = parser.parse_args()
    process = device.process_of(dict(os.environ))
    log.setup(rank=process.rank)
    warnings.filterwarnings("ignore", module=r"megatron\.core|torch")

    settings = config.read(arguments.config, arguments.overrides)
    from megatron_ft.training import setup

    checked = setup.prepare(settings, process)
    chosen = device.prepare(settings.runtime, process)
    from megatron_ft.training import loop

    loop.train(checked, chosen)


if __name__ == "__main__":
    cli.main(main)
