"""A process that dies between two of the renames with which a dataset is published."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def killed_before_the_index_is_moved() -> Iterator[None]:
    """What runs inside must come to that rename, and comes no further."""
    rename = Path.rename

    def killed(path, target):
        if str(target).endswith(".idx"):
            raise KeyboardInterrupt
        return rename(path, target)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "rename", killed)
        yield
