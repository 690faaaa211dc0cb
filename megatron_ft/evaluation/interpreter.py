"""The interpreter that runs this evaluation, as boxes show it: python's programs run by it, others are started by it."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

INSIDE = "/box/inside"
SCRIPTS = Path(__file__).parent / "languages" / "python_inside"
ENVIRONMENT = {"PYTHONHASHSEED": "0", "PYTHONUTF8": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1",
               "LD_BIND_NOW": "1"}  # else every fork looks the same symbols up


def argv(script: str) -> list[str]:
    """The command of one of our scripts, without what a machine adds to every interpreter: a fork would copy it."""
    return [interpreter(), "-S", "-s", "-B", "-m", f"{SCRIPTS.name}.{script}"]


def environment(places: list[str]) -> dict[str, str]:
    """What it finds in its environment, to import from these folders."""
    libraries = os.environ.get("LD_LIBRARY_PATH")
    return {**ENVIRONMENT, "PYTHONPATH": ":".join(places), **({"LD_LIBRARY_PATH": libraries} if libraries else {})}


@cache
def interpreter() -> str:
    """The interpreter itself, not a virtual environment's link to it."""
    return str(Path(sys.executable).resolve())


@cache
def shown() -> dict[str, str]:
    """Folders outside -> their places in a box: our scripts, the interpreter, and its libraries."""
    real = str(Path(interpreter()).parents[1])  # another path than base_prefix where one of the two is a link
    places = {str(SCRIPTS): f"{INSIDE}/{SCRIPTS.name}", sys.base_prefix: sys.base_prefix, real: real}
    libraries = {str(Path(path).parent) for path in _loaded_libraries()}
    return {**places, **{folder: folder for folder in sorted(libraries) if not folder.startswith(sys.base_prefix)}}


def _loaded_libraries() -> list[str]:
    """Shared libraries of this interpreter that lie outside the system's folders (a module system's, conda's)."""
    probe = "import ssl, hashlib, ctypes, decimal, zlib\nprint(open('/proc/self/maps').read())"
    done = subprocess.run([interpreter(), "-s", "-c", probe], capture_output=True, text=True, check=False)
    paths = {line.split(None, 5)[5] for line in done.stdout.splitlines() if len(line.split(None, 5)) == 6}
    return sorted(path for path in paths if ".so" in path and not path.startswith(("/usr/", "/lib")))
