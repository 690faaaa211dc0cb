"""What the worker processes of the checkpoint tests run; each is called on every rank with its Process first."""

from __future__ import annotations

import contextlib
import itertools
import resource
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from megatron_ft.config import Memory, Model, Parallel, parse
from megatron_ft.errors import CheckpointError
from megatron_ft.runtime.device import Process


def weights_that_differ(process: Process, *, hf: str, checkpoint: str, cases: list[dict[str, Any]]) -> list[str]:
    """Weights whose bits differ between the Hugging Face folder loaded as it is and its conversion loaded, in any case.

    Args:
        cases: of "parallel" and "precision".
    """
    from megatron.core import parallel_state

    from megatron_ft.runtime import groups
    from megatron_ft.training import base_model

    direct, converted = base_model.find(hf), base_model.find(checkpoint)
    assert direct.architecture == converted.architecture
    base_model.check(direct)
    found = []
    with groups.start(process, "cpu", Parallel(), timeout_minutes=2):
        for case in cases:
            parallel_state.destroy_model_parallel()
            with groups.layout(Parallel(**case["parallel"]), "cpu"):
                found += [f"{case}: {name}" for name in _differing(direct, converted, **case)]
    return found


def _differing(direct: Any, converted: Any, *, parallel: dict[str, Any], precision: str) -> list[str]:
    import torch

    from megatron_ft.training import hf_weights, model
    from megatron_ft.training.checkpoint import load_model

    sides = []
    for base in (direct, converted):
        chunks = model.build(base.architecture, parallel=Parallel(**parallel), device="cpu", memory=Memory(),
                             model=Model(precision=precision, vocabulary_multiple=8))
        with torch.no_grad():
            for chunk in chunks:
                for parameter in chunk.parameters():
                    parameter.fill_(float("nan"))
        if base is direct:
            hf_weights.load(chunks, base.folder, base.architecture)
        else:
            load_model(chunks, base.folder)
        sides.append([(name, parameter) for chunk in chunks for name, parameter in chunk.named_parameters()])
    return [name for (name, left), (_, right) in zip(*sides, strict=True) if not torch.equal(left, right)]


def train(process: Process, *, config: dict[str, Any], writes_wait_until: int | None = None,
          cannot_write: list[int] | None = None, free_bytes: dict[int, int] | None = None,
          own_disks: bool = False) -> dict[str, Any]:
    """A whole run with trouble; what `latest` said before each step, and the error that ended it with its cause.

    Args:
        writes_wait_until: the first save's files are written only once this step (counted from 0) begins.
        cannot_write: [rank, step]: the checkpoint of that step cannot be written by that rank, beyond 100 kB a file.
        own_disks: other ranks' files are not there for rank 0.
        free_bytes: step -> what the disk is said to have free from then on.
    """
    from megatron_ft.runtime import checkpoint_files
    from megatron_ft.training import loop, setup

    checked = setup.prepare(parse(config), process)
    pointer, seen = checked.checkpoints / "latest_checkpointed_iteration.txt", []
    gate, free = threading.Event(), [2**50]

    def before(number: int) -> None:
        seen.append(pointer.read_text().strip() if pointer.is_file() else None)
        if number == writes_wait_until:
            gate.set()
        free[0] = (free_bytes or {}).get(number, free[0])

    write = checkpoint_files.SummedFile.write

    def write_late(stream: Any, data: Any) -> int:
        assert writes_wait_until is None or gate.wait(timeout=60)
        if cannot_write and process.rank == cannot_write[0] and f"iter_{cannot_write[1]:07d}" in str(stream.path):
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        return write(stream, data)

    record = checkpoint_files.SummedFile.record

    def record_elsewhere(stream: Any) -> Any:
        if own_disks and process.rank:
            stream.path.unlink()
        return record(stream)

    try:
        with (_hooked(before), _replaced(checkpoint_files.SummedFile, "write", write_late),
              _replaced(checkpoint_files.SummedFile, "record", record_elsewhere),
              _replaced(checkpoint_files, "free_bytes", lambda _: free[0])):
            loop.train(checked, "cpu")
    except CheckpointError as error:
        return {"latest": seen, "error": str(error), "cause": type(error.__cause__).__name__}
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return {"latest": seen}


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    original = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, original)


@contextlib.contextmanager
def _hooked(before: Callable[[int], None]) -> Iterator[None]:
    """Within it `before` is called with its number before each training step."""
    from megatron_ft.training import step

    original, numbers = step.train_step, itertools.count()

    def hooked(*arguments: Any, **named: Any) -> Any:
        before(next(numbers))
        return original(*arguments, **named)

    with _replaced(step, "train_step", hooked):
        yield


def choose(process: Process, *, roots: list[str]) -> list[tuple[str, str]]:
    """For each checkpoint root, the name of the folder that is resumed, or the error; and what was warned of."""
    import logging

    from megatron_ft import log
    from megatron_ft.runtime import checkpoint_layout, groups
    from megatron_ft.training import resume

    found = []
    with groups.start(process, "cpu", Parallel(), timeout_minutes=2):
        for root in roots:
            said: list[str] = []
            handler = logging.Handler()
            handler.emit = lambda record, said=said: said.append(record.getMessage())
            log.get().addHandler(handler)
            try:
                chosen = resume.choose(checkpoint_layout.to_resume(Path(root))[0])
                found.append((chosen.name if chosen else "", "; ".join(said)))
            except CheckpointError as error:
                found.append((str(error), "; ".join(said)))
            finally:
                log.get().removeHandler(handler)
    return found
