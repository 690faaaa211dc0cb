"""`python -m megatron_ft.report RUN_DIR ... [--output FILE]`: a run's curves, config, events and checkpoints as one web page.

It needs no torch and no network, and reads a run that is going on as well as one that was killed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from megatron_ft import cli, log
from megatron_ft.errors import ConfigError


def main() -> None:
    """Parse the command line, write the page, print its path."""
    from megatron_ft.training import report_page, run_record

    parser = argparse.ArgumentParser(prog="python -m megatron_ft.report", description=__doc__.partition("\n\n")[0])
    parser.add_argument("runs", metavar="RUN_DIR", nargs="+", help="run.dir of a training run; several are shown side by side")
    parser.add_argument("--output", metavar="FILE",
                        help="the page (default: report.html in the first RUN_DIR); an older one is replaced")
    arguments = parser.parse_args()
    records = [run_record.read(folder) for folder in arguments.runs]
    output = Path(arguments.output or Path(arguments.runs[0]) / "report.html")
    if output.suffix != ".html":
        raise ConfigError(f"--output: {output} ends in '{output.suffix}'; end it in .html")
    output.parent.mkdir(parents=True, exist_ok=True)
    cli.write_text_atomically(output, report_page.page(records))
    log.get().info("%s: the report of %s", output, ", ".join(record.name for record in records))
    sys.stdout.write(f"{output}\n")


if __name__ == "__main__":
    cli.main(main)
