"""Which code runs: the checkout's commit, and a sum of the package's files that tells two copies apart. Torch-free."""

from __future__ import annotations

import subprocess
from pathlib import Path

from megatron_ft.runtime import sums

PACKAGE = Path(__file__).parents[1]
GIT_TIMEOUT_S = 10.0


def commit(package: Path = PACKAGE) -> str | None:
    """The commit of the checkout that the package is in, with "-dirty" where files differ from it; None outside of one."""
    if not (package.parent / ".git").exists():  # installed, perhaps below somebody else's checkout
        return None
    try:
        asked = subprocess.run(["git", "-C", str(package), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
                               capture_output=True, text=True, timeout=GIT_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):  # no git in a container, or a file system that is slow today
        return None
    return asked.stdout.strip() or None if asked.returncode == 0 else None


def fingerprint(package: Path = PACKAGE) -> str:
    """A sum over names and contents of all Python files of a package."""
    total = 0
    for path in sorted(package.rglob("*.py")):
        total = sums.crc32(path.relative_to(package).as_posix().encode(), total)
        total = sums.crc32(path.read_bytes(), total)
    return sums.text(total)
