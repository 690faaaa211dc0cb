"""`python -m megatron_ft.evaluate doctor`: whether programs of each language can be judged here, and what to install."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

from megatron_ft import cli, log
from megatron_ft.errors import EvaluationError
from megatron_ft.evaluation import calibration, languages, sandbox


def command(argv: Sequence[str] | None = None) -> int:
    """Judge a right and a wrong program of each language; exit code 1 if one of them cannot be judged."""
    parser = argparse.ArgumentParser(prog="python -m megatron_ft.evaluate doctor", description=(
        "Check the sandbox and every toolchain by running a program that must pass and one that must fail."))
    parser.add_argument("--language", default="all", help="languages to check, separated by commas (default: all)")
    chosen = parser.parse_args(argv).language
    names = list(languages.LANGUAGES) if chosen == "all" else [name.strip() for name in chosen.split(",")]
    kinds = {name: languages.get(name) for name in names}
    box = sandbox.find()
    log.get().info(f"sandbox: {box.described()}; this machine takes {calibration.slowness(cli.cores()):.1f} times the "
                   "reference's time")
    rows = []
    for name, kind in kinds.items():
        begun = time.monotonic()
        try:
            versions = kind(box).check()
            said = ", ".join(f"{tool} {version}" for tool, version in versions.items())
            rows.append([name, "works", said, f"{time.monotonic() - begun:.1f}"])
        except EvaluationError as error:
            rows.append([name, "does not", str(error), f"{time.monotonic() - begun:.1f}"])
    log.table("toolchains", ["language", "state", "what was found", "seconds"], rows)
    return cli.EXIT_OK if all(row[1] == "works" for row in rows) else cli.EXIT_CHECK_FAILED
