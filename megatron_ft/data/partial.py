"""An output that grows in a hidden folder beside its place, and goes on there when the command is started again."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from megatron_ft import cli
from megatron_ft.data.indexed import with_suffix

SUFFIXES = (".bin", ".idx", ".json")  # the manifest comes last: it says that the dataset is whole
STATE = "state.json"


class Partial:
    """The folder `.NAME.partial` beside an output prefix; one process at a time has it."""

    def __init__(self, output: Path) -> None:
        self.output = output
        self.folder = output.with_name(f".{output.name}.partial")
        self.prefix = self.folder / output.name

    def state(self) -> dict[str, Any] | None:
        """What `save` was given last; None if nothing was."""
        path = self.folder / STATE
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def save(self, state: dict[str, Any]) -> None:
        """Remember how far the work has come; what it rests on must be on disk already."""
        cli.write_text_atomically(self.folder / STATE, json.dumps(state))

    def clear(self) -> None:
        """Begin anew."""
        for path in self.folder.iterdir():
            if path.name != LOCK:
                path.unlink()

    def publish(self) -> None:
        """Move the finished files to their place. Started again after a kill in between, it moves the rest."""
        self.save({FINISHED: True})
        for suffix in SUFFIXES:
            source = with_suffix(self.prefix, suffix)
            if source.exists():
                source.rename(with_suffix(self.output, suffix))
        shutil.rmtree(self.folder)

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left to do but `publish`."""
        state = self.state()
        return state is not None and FINISHED in state


LOCK = "lock"
FINISHED = "finished"


@contextlib.contextmanager
def partial_output(output: Path) -> Iterator[Partial]:
    """The partial folder of an output, to be had by one process at a time.

    When the block fails, the folder stays if it holds a saved state to go on from, and goes if it does not. ConfigError
    if the output exists or another process is writing it.
    """
    partial = Partial(output)
    if not partial.is_finished:
        for suffix in SUFFIXES:
            cli.require_absent(with_suffix(output, suffix), option="--output")
    partial.folder.mkdir(parents=True, exist_ok=True)
    with open(partial.folder / LOCK, "a", encoding="utf-8") as lock:
        cli.hold(lock, partial.output)
        try:
            yield partial
        finally:
            if partial.folder.exists() and partial.state() is None:
                shutil.rmtree(partial.folder, ignore_errors=True)
