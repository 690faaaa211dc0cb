"""Python: how a completion becomes a program, how it runs, and how it is judged.

The program and the tests of a problem run in two boxes that share nothing but a pair of pipes, over which the tests
call the program's functions with plain values. The tests, the expected values, the end token and the process that
writes it are out of the program's reach, so it can neither read nor forge a verdict; `docs/evaluate.md` says what is
left.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from megatron_ft.errors import EvaluationError
from megatron_ft.evaluation.benchmark import Problem
from megatron_ft.evaluation.languages.base import Language
from megatron_ft.evaluation.sandbox import Box
from megatron_ft.evaluation.supervise import KILLED, OUT_OF_CPU, Running, Stream, started, watch
from megatron_ft.evaluation.verdict import Verdict

INSIDE = "/box/inside"
PACKAGES = "/box/packages"
CARRIED_PACKAGES = ("numpy", "numpy.libs")
SCRIPTS = Path(__file__).parent / "python_inside"
PROGRAM_BYTES = 2**20
REPORT_BYTES = 2**17
STARTS = 3  # a box that did not come up (memory, processes) is tried again before the run stops
ENVIRONMENT = {"PYTHONHASHSEED": "0", "PYTHONUTF8": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
FENCE = re.compile(r"```[^\n]*\n(.*?)(?:\n```|\Z)", re.DOTALL)
DEFINITION = re.compile(r"(?:async\s+)?def\s|class\s")
TOP_LEVEL = re.compile(r"(?:async\s+)?def\s|class\s|import\s|from\s+\S+\s+import\b|[@#)\]}]|\w+\s*(?::[^=]*)?=(?!=)")
SELF_CHECK = Problem("self-check", "def f(x):\n", "def f(x):\n", "", "", "", "", "f", "", "", "",
                     "def check(f):\n    assert f(2) == [4]\ncheck(f)", "")


@dataclass
class Case:
    """The two boxes of one program while they run."""

    program: Running
    tests: Running
    report: Stream
    token: str


class Python(Language):
    """Python, by the interpreter that runs this evaluation."""

    name = "python"
    task_prefix = "Python"

    @staticmethod
    def assemble(problem: Problem, base: str, completion: str) -> str:
        """The program of a completion: `base` with its body, or the function that the model wrote anew.

        A completion whose first line with text is indented goes on with `base` and ends before the first line that is
        not indented. One that begins at the margin and defines the entry point (in the first fenced block that does,
        if there are any) is an answer of its own: it follows the imports and helpers of `base`, and ends before the
        first line at the margin that is neither import, definition, decorator, assignment nor comment.
        """
        anew = _written_anew(completion, problem.entry_point)
        if anew is None:
            return base.rstrip() + _body(completion)
        return _before_entry(base, problem.entry_point) + _top_level(anew)

    @staticmethod
    def is_complete(completion: str, entry_point: str) -> bool:
        """Whether the body has ended; an answer written anew is left to end by itself."""
        first = next((line for line in completion.splitlines() if line.strip()), "")
        # White space at the end is the beginning of a line that is still being written.
        return first[:1].isspace() and len(_body(completion).rstrip()) < len(completion.rstrip())

    def check(self) -> dict[str, str]:
        """Judge a right, a wrong and a numpy program; versions of what ran them."""
        right = "import numpy\n\ndef f(x):\n    return numpy.array([x * 2]).tolist()\n"
        for program, expected in ((right, "passed"), ("def f(x):\n    return [x]\n", "failed")):
            verdict = self.judge(SELF_CHECK, "", program)
            if verdict.status != expected:
                raise EvaluationError(f"python programs cannot be judged here: one that must give '{expected}' gave "
                                      f"'{verdict.status}' ({verdict.reason}); its output: {verdict.output.strip()}")
        return {"python": sys.version.split()[0], "numpy": version("numpy")}

    def judge(self, problem: Problem, base: str, program: str) -> Verdict:
        """Run the program in one box and the problem's tests in another; see the module's text."""
        source = program.encode("utf-8", "surrogatepass")
        if len(source) > PROGRAM_BYTES:
            return Verdict("refused", f"a program of {len(source)} bytes; at most {PROGRAM_BYTES} are run", 0.0, "")
        for _ in range(STARTS):
            with self._case(problem, base, source) as case:
                happened = self._watch(case, problem.task_id)
                seconds = round(time.monotonic() - case.program.started, 3)
            if happened is not None:
                return Verdict(*happened, seconds, case.program.output.text)
        raise EvaluationError(f"{problem.task_id}: its boxes did not come up in {STARTS} attempts; they said: "
                              f"{case.program.output.text}{case.tests.output.text}")

    @cached_property
    def _box(self) -> Box:
        """What programs and tests find: the interpreter, its libraries, numpy, and our two short scripts."""
        shown = {str(SCRIPTS): f"{INSIDE}/{SCRIPTS.name}", sys.base_prefix: sys.base_prefix}
        shown.update({str(_packages_folder() / name): f"{PACKAGES}/{name}" for name in CARRIED_PACKAGES
                      if (_packages_folder() / name).is_dir()})
        libraries = {str(Path(path).parent) for path in _loaded_libraries()}
        shown.update({folder: folder for folder in sorted(libraries) if not folder.startswith(sys.base_prefix)})
        places = (INSIDE, PACKAGES) if self.sandbox.tool != "none" else (SCRIPTS.parent, _packages_folder())
        environment = {**ENVIRONMENT, "PYTHONPATH": ":".join(map(str, places))}
        if os.environ.get("LD_LIBRARY_PATH"):
            environment["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
        return Box(shown, environment, self.limits)

    @contextlib.contextmanager
    def _case(self, problem: Problem, base: str, source: bytes) -> Iterator[Case]:
        """Both boxes, running, joined by pipes; dead afterwards."""
        token = secrets.token_hex(16)
        job = {"test": problem.test, "entry_point": problem.entry_point, "token": token,
               "context": _before_entry(base, problem.entry_point)}
        with contextlib.ExitStack() as stack:
            calls, answers, report = os.pipe(), os.pipe(), os.pipe()
            ours = {*calls, *answers, report[1]}
            stack.callback(lambda: [os.close(end) for end in ours])
            verdict = Stream(report[0], limit=REPORT_BYTES, keep=REPORT_BYTES)
            stack.callback(lambda: verdict.open and os.close(verdict.descriptor))
            program = stack.enter_context(started(
                self.sandbox, self._box, self._argv("program", calls[0], answers[1]), stdin=source,
                keep=(calls[0], answers[1])))
            tests = stack.enter_context(started(
                self.sandbox, self._box, self._argv("tests", answers[0], calls[1], report[1]),
                stdin=json.dumps(job).encode(), keep=(answers[0], calls[1], report[1])))
            while ours:  # the boxes have them now; an end kept here would hide that a box is gone
                os.close(ours.pop())
            yield Case(program, tests, verdict, token)

    def _argv(self, script: str, *descriptors: int) -> list[str]:
        return [_interpreter(), "-s", "-B", "-m", f"{SCRIPTS.name}.{script}", *map(str, descriptors)]

    def _watch(self, case: Case, task_id: str) -> tuple[str, str] | None:
        """Status and reason of a running case; None when a box did not come up."""
        deadline = case.program.started + self.limits.wall_s
        how = watch([case.program.output, case.tests.output, case.report], [case.report], deadline,
                    guarded=case.program)
        if how == "timeout":
            return "timeout", f"not done after {self.limits.wall_s:g} s"
        if how == "flood":
            return "refused", f"wrote more than {self.limits.output_bytes} bytes"
        if how == "memory":
            return "refused", f"its processes used more than {self.limits.memory_bytes} bytes together"
        ready, _, said = case.report.text.partition("\n")
        status = case.tests.status(within_s=5)
        if said == case.token and status == 0:
            return "passed", ""
        ended = case.program.status(within_s=1)
        at_hard_limit = ended in KILLED and time.monotonic() - case.program.started > self.limits.cpu_s
        if ended in OUT_OF_CPU or status in OUT_OF_CPU or at_hard_limit:
            return "timeout", f"used more than {self.limits.cpu_s:g} s of cpu time"
        return self._told(said, status, ended, task_id) if ready == "ready" else None

    def _told(self, said: str, status: int | None, ended: int | None, task_id: str) -> tuple[str, str] | None:
        """What the tests reported, in the words of a verdict; None if the program's box did not come up."""
        try:
            told = json.loads(said)
        except ValueError:
            return "failed", f"the tests ended without a verdict (exit status {status})"
        if told["kind"] == "not started":
            return None
        if told["kind"] == "broken":
            raise EvaluationError(f"{task_id}: {told['reason']}; the benchmark's tests cannot be executed as they are")
        died = f" (exit status {ended})" if told.get("ended") else ""
        return told["kind"], told["reason"] + died


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


def _body(completion: str) -> str:
    """A completion up to the first line at the margin; its first line still belongs to the line it goes on with."""
    first, *lines = completion.split("\n")
    kept = [first]
    for line in lines:
        if line.strip() and not line[0].isspace():
            break
        kept.append(line)
    return "\n".join(kept).rstrip() + "\n"


def _defines(text: str, entry_point: str) -> bool:
    return re.search(rf"^(?:async )?def {re.escape(entry_point)}\b", text, re.MULTILINE) is not None


def _written_anew(completion: str, entry_point: str) -> str | None:
    """The part of a completion that defines the entry point by itself; None if it goes on with what was begun."""
    first = next((line for line in completion.splitlines() if line.strip()), "")
    if first[:1].isspace():
        return None
    blocks = [block for block in FENCE.findall(completion) if _defines(block, entry_point)]
    if blocks:
        return blocks[0]
    return completion if _defines(completion, entry_point) else None


def _before_entry(base: str, entry_point: str) -> str:
    """The imports and helpers that stand before the entry point in the problem's own text."""
    found = list(re.finditer(rf"^(?:async )?def {re.escape(entry_point)}\b", base, re.MULTILINE))
    return base[: found[-1].start()] if found else ""


def _top_level(text: str) -> str:
    """A text up to the first line at the margin that defines nothing; words before the first code are left out."""
    kept: list[str] = []
    for line in text.split("\n"):
        if line.strip() and not line[0].isspace() and not TOP_LEVEL.match(line):
            if any(DEFINITION.match(known) for known in kept):
                break
            kept.clear()
        else:
            kept.append(line)
    return "\n".join(kept).rstrip() + "\n"
