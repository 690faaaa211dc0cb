"""Python: how a completion becomes a program, how it runs, and how it is judged.

`case` runs a program and its tests in two boxes; the scripts of both are in `python_inside`.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import threading
from functools import cache, cached_property
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

from megatron_ft.errors import EvaluationError
from megatron_ft.evaluation import alone, build, case
from megatron_ft.evaluation.benchmark import Problem
from megatron_ft.evaluation.build import Built
from megatron_ft.evaluation.case import Side
from megatron_ft.evaluation.languages import python_answers
from megatron_ft.evaluation.languages.base import Language
from megatron_ft.evaluation.nursery import Nursery
from megatron_ft.evaluation.sandbox import Box, Limits, Sandbox
from megatron_ft.evaluation.verdict import Verdict

INSIDE = "/box/inside"
PACKAGES = "/box/packages"
CARRIED_PACKAGES = ("numpy", "numpy.libs")
SCRIPTS = Path(__file__).parent / "python_inside"
PROGRAM_BYTES = 2**20
ENVIRONMENT = {"PYTHONHASHSEED": "0", "PYTHONUTF8": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
SELF_CHECK = Problem("self-check", "def f(x):\n", "def f(x):\n", "", "", "", "", "f", "", "", "",
                     "def check(f):\n    assert f(2) == [4]\ncheck(f)", "")


class Python(Language):
    """Python, by the interpreter that runs this evaluation."""

    name = "python"
    title = "Python"
    tools: ClassVar = {"python3": "python3"}

    def __init__(self, sandbox: Sandbox, limits: Limits | None = None) -> None:
        super().__init__(sandbox, limits)
        self._mine = threading.local()

    @staticmethod
    def assemble(problem: Problem, base: str, completion: str) -> str:
        """The program of a completion; see `python_answers`."""
        return python_answers.assemble(base, completion, problem.entry_point, quoted=problem.buggy_solution)

    @staticmethod
    def is_complete(completion: str, entry_point: str) -> bool:
        """Whether the body has ended, or the fence behind an answer written anew; see `python_answers`."""
        return python_answers.is_complete(completion, entry_point)

    def check(self) -> dict[str, str]:
        """Judge a right, a wrong and a numpy program; versions of what ran them."""
        right = "import numpy\n\ndef f(x):\n    return numpy.array([x * 2]).tolist()\n"
        self.require_verdicts(SELF_CHECK, right, "def f(x):\n    return [x]\n")
        return {"python": sys.version.split()[0], "numpy": version("numpy")}

    def judge(self, problem: Problem, base: str, program: str) -> Verdict:
        """Run the program in one box and the problem's tests in another; see the module's text."""
        source = program.encode("utf-8", "surrogatepass")
        if len(source) > PROGRAM_BYTES:
            return Verdict("refused", f"a program of {len(source)} bytes; at most {PROGRAM_BYTES} are run", 0.0, "")

        def tests(token: str) -> Side:
            job = {"test": problem.test, "entry_point": problem.entry_point, "token": token,
                   "context": python_answers.before_entry(base, problem.entry_point)}
            return self._side("tests", json.dumps(job).encode())

        return case.judge(self.sandbox, problem.task_id, lambda: self._side("program", source), tests)

    def output_of(self, script: str, stdin: bytes) -> Built:
        """What one of the scripts in `python_inside` writes, in a box of its own."""
        return build.build(self.sandbox, self._box, f"exec {shlex.join(self._argv(script))}", stdin)

    def judge_publicly(self, source: str) -> Verdict:
        """Run program and tests in one process; a pass is that nothing was raised."""
        ended = alone.run(self.sandbox, lambda: self._side("public", source.encode("utf-8", "surrogatepass")))
        return ended.verdict(ended.report == "passed")

    def _side(self, half: str, stdin: bytes) -> Side:
        return Side(self._box, self._argv(half), stdin, self._nursery(half, b"numpy" in stdin))

    def _nursery(self, half: str, with_numpy: bool = False) -> Nursery | None:
        """This thread's nursery for one half of a case, alive; None without a sandbox.

        With numpy a fork copies and frees twice as many pages, so only texts that name it get one that has loaded it.
        """
        if self.sandbox.tool == "none":
            return None
        name = f"{half} with numpy" if with_numpy else half
        known = vars(self._mine).get(name)
        if known is None or not known.alive:
            known = Nursery(self.sandbox, self._box, self._argv("nursery"), half, with_numpy=with_numpy)
            setattr(self._mine, name, known)
        return known

    @cached_property
    def _box(self) -> Box:
        """What programs and tests find: the interpreter, its libraries, numpy, and our two short scripts."""
        real = str(Path(_interpreter()).parents[1])  # another path than base_prefix where one of the two is a link
        shown = {str(SCRIPTS): f"{INSIDE}/{SCRIPTS.name}", sys.base_prefix: sys.base_prefix, real: real}
        shown.update({str(_packages_folder() / name): f"{PACKAGES}/{name}" for name in CARRIED_PACKAGES
                      if (_packages_folder() / name).is_dir()})
        libraries = {str(Path(path).parent) for path in _loaded_libraries()}
        shown.update({folder: folder for folder in sorted(libraries) if not folder.startswith(sys.base_prefix)})
        places = (INSIDE, PACKAGES) if self.sandbox.tool != "none" else (SCRIPTS.parent, _packages_folder())
        environment = {**ENVIRONMENT, "PYTHONPATH": ":".join(map(str, places))}
        if os.environ.get("LD_LIBRARY_PATH"):
            environment["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
        return Box(shown, environment, self.limits)

    def _argv(self, script: str) -> list[str]:
        return [_interpreter(), "-s", "-B", "-m", f"{SCRIPTS.name}.{script}"]


@cache
def _interpreter() -> str:
    """The interpreter itself, not a virtual environment's link to it."""
    return str(Path(sys.executable).resolve())


def _packages_folder() -> Path:
    """Where the packages are that programs may import."""
    found = find_spec("numpy")
    if found is None or found.origin is None:
        raise EvaluationError("python programs may import numpy, and it is not installed here: pip install numpy")
    return Path(found.origin).parent.parent


def _loaded_libraries() -> list[str]:
    """Shared libraries of this interpreter that lie outside the system's folders (a module system's, conda's)."""
    probe = "import ssl, hashlib, ctypes, decimal, zlib\nprint(open('/proc/self/maps').read())"
    done = subprocess.run([_interpreter(), "-s", "-c", probe], capture_output=True, text=True,
                          check=False)
    paths = {line.split(None, 5)[5] for line in done.stdout.splitlines() if len(line.split(None, 5)) == 6}
    return sorted(path for path in paths if ".so" in path and not path.startswith(("/usr/", "/lib")))
