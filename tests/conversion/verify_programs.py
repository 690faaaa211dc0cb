"""What processes of the verify tests run: those of a pool, and those that the tool starts itself; light to import."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from pathlib import Path
from typing import Any

from megatron_ft.errors import CheckpointError
from megatron_ft.runtime.device import Process


def verified(process: Process, *, settings: Any) -> Any:
    """The report of a rank that was started by somebody else."""
    from megatron_ft.conversion import verify

    return verify.verify(settings, process)


def verified_with_gate_and_up_swapped(process: Process, *, settings: Any) -> Any:
    """The report where conversion and comparison use one wrong weight rule."""
    from megatron_ft.conversion import hf_to_megatron, verify
    from megatron_ft.families import rules

    right = rules.Gated.blocks

    def wrong(rule: rules.Gated, architecture: Any) -> list[rules.Block]:
        first, second = right(rule, architecture)
        return [dataclasses.replace(first, part=1), dataclasses.replace(second, part=0)]

    rules.Gated.blocks = wrong
    try:
        hf_to_megatron.convert(settings.hf, settings.checkpoint)
        return verify.verify(settings, process)
    finally:
        rules.Gated.blocks = right


def ranks(process: Process, factor: int) -> int:
    return factor * (process.rank + 1) * process.size


def refuse_on_last(process: Process) -> None:
    if process.rank == process.size - 1:
        raise CheckpointError("the weights are another model's")
    time.sleep(600)


def echo_before_the_cause(process: Process) -> None:
    """Rank 0 sees the connection end before rank 1 says why it ended."""
    if process.rank == 0:
        raise RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer")
    time.sleep(1)
    raise ZeroDivisionError("the cause")


def killed(process: Process) -> None:
    if process.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(600)


def sleep_noted(process: Process, folder: str) -> None:
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(600)
