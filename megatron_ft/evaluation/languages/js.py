"""JavaScript: programs and tests run by node, each in a box of its own; the scripts of both are in `js_inside`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from megatron_ft.errors import EvaluationError
from megatron_ft.evaluation import alone, braces, case
from megatron_ft.evaluation.benchmark import Problem
from megatron_ft.evaluation.box import SYSTEM, Box, Limits
from megatron_ft.evaluation.brace_items import head_of
from megatron_ft.evaluation.case import Side
from megatron_ft.evaluation.languages.braced import Braced
from megatron_ft.evaluation.verdict import Verdict

INSIDE = "/box/js"
NODE = "/box/node"
PACKAGES = "/box/packages"
SCRIPTS = Path(__file__).parent / "js_inside"
VARIABLE = "MEGATRON_FT_NODE_MODULES"
PACKAGE = "js-md5"
PACKAGE_VERSION = "0.7.3"  # HumanEvalPack's; JavaScript/162 takes its md5 from it
OLDEST_NODE = 16
PROGRAM_BYTES = 2**20
SEED = 1
HEAP_SHARE = 5 / 8  # of the box's memory; young objects, code and buffers come on top
SELF_CHECK = Problem("self-check", "const f = (x) => {\n", "const f = (x) => {\n", "", "", "", "", "f", "", "", "",
                     "console.assert(JSON.stringify(f(2)) === '[4]')", "")


class JavaScript(Braced):
    """JavaScript, by node."""

    name = "js"
    title = "JavaScript"
    grammar = braces.JS
    tools: ClassVar = {"node": "nodejs"}
    # node reserves far more than it uses, and starts threads of its own.
    default_limits = Limits(address_space=False, processes=40)

    def check(self) -> dict[str, str]:
        """Judge a right and a wrong program; versions of node and of the package that a problem needs."""
        versions = {"node": self._version, PACKAGE: self._package_version}
        right = f"const md5 = require('{PACKAGE}')\nconst f = (x) => md5('') === '' ? [] : [x * 2]\n"
        self.require_verdicts(SELF_CHECK, right, "const f = (x) => [x]")
        return versions

    def judge(self, problem: Problem, base: str, program: str) -> Verdict:
        """Run the program in one box and the problem's tests in another.

        The tests get the helpers of the problem's own text, so that a program cannot bend one that they use.
        """
        source = program.encode("utf-8", "surrogatepass")
        if len(source) > PROGRAM_BYTES:
            return Verdict("refused", f"a program of {len(source)} bytes; at most {PROGRAM_BYTES} are run", 0.0, "")
        begun = braces.function_name(braces.JS, base or problem.prompt, problem.entry_point)

        def tests(token: str) -> Side:
            job = {"context": head_of(braces.JS, problem.prompt), "test": problem.test, "token": token,
                   "names": sorted({begun, problem.entry_point})}
            return self._side("tests", json.dumps(job).encode())

        return case.judge(self.sandbox, problem.task_id, lambda: self._side("program", source), tests)

    def judge_publicly(self, source: str) -> Verdict:
        """Run the one file; a pass is that nothing was written, whatever the exit status."""
        argv = ["/bin/sh", "-c", 'cat >test.js && exec "$@"', "sh", *self._node_argv(), "test.js"]
        ended = alone.run(self.sandbox, lambda: Side(self._box, argv, source.encode("utf-8", "surrogatepass")))
        return ended.verdict(ended.wrote == 0)

    @cached_property
    def _node(self) -> Path:
        found = shutil.which("node")
        if found is None:
            raise EvaluationError("JavaScript programs are run by node, and there is none on PATH: install the Debian package "
                                  f"nodejs, or node {OLDEST_NODE} or newer from nodejs.org")
        return Path(found).resolve()

    @cached_property
    def _version(self) -> str:
        """Node's version; EvaluationError when it is too old."""
        done = subprocess.run([str(self._node), "--version"], capture_output=True, text=True, check=False)
        version = done.stdout.strip().removeprefix("v")
        if not version or int(version.split(".")[0]) < OLDEST_NODE:
            raise EvaluationError(f"{self._node} says it is version '{version}' {done.stderr.strip()}; node {OLDEST_NODE} or "
                                  "newer is needed: install a newer nodejs")
        return version

    @cached_property
    def _packages(self) -> Path:
        """The node_modules folder that has what programs may require."""
        places = package_folders(self._node)
        found = next((place for place in places if (place / PACKAGE / "package.json").is_file()), None)
        if found is None:
            raise EvaluationError(f"a problem of HumanEvalPack needs the npm package {PACKAGE}, and it is in none of "
                                  f"{', '.join(map(str, places))}: npm install --prefix {sys.prefix} "
                                  f"{PACKAGE}@{PACKAGE_VERSION}, or name the node_modules folder that has it in ${VARIABLE}")
        return found

    @property
    def _package_version(self) -> str:
        return json.loads((self._packages / PACKAGE / "package.json").read_text())["version"]

    @property
    def _boxed(self) -> bool:
        return self.sandbox.tool != "none"

    @cached_property
    def _box(self) -> Box:
        """What programs and tests find: node where it is not the system's, packages, our three scripts."""
        shown = {str(SCRIPTS): INSIDE, str(self._packages): PACKAGES}
        if not _is_of_system(self._node):
            shown[str(self._node.parents[1])] = NODE
        packages = PACKAGES if self._boxed else str(self._packages)
        return Box(shown, {"NODE_PATH": packages}, self.limits)

    def _side(self, half: str, stdin: bytes) -> Side:
        argv = [*self._node_argv(), f"{INSIDE if self._boxed else SCRIPTS}/{half}.js"]
        return Side(self._box, argv, stdin, self.nurseries.get(self._box, half))

    def _node_argv(self) -> list[str]:
        node = f"{NODE}/bin/{self._node.name}" if self._boxed and not _is_of_system(self._node) else str(self._node)
        heap = int(self.limits.memory_bytes * HEAP_SHARE) // 2**20
        # The pool of threads stays as it is: without one (--v8-pool-size=0) node 16 waits for ever for its collector.
        # Tests of HumanEvalPack draw their inputs; with a seed a program gets the same verdict every time.
        return [node, f"--max-old-space-size={heap}", f"--random-seed={SEED}"]


def package_folders(node: Path) -> list[Path]:
    """Where packages are looked for: $MEGATRON_FT_NODE_MODULES, this environment's folder, node's own, Debian's."""
    named = os.environ.get(VARIABLE)
    return [*([Path(named)] if named else []), Path(sys.prefix) / "node_modules", node.parents[1] / "lib/node_modules",
            Path("/usr/local/lib/node_modules"), Path("/usr/share/nodejs")]


def _is_of_system(path: Path) -> bool:
    return str(path).startswith(tuple(f"{folder}/" for folder in SYSTEM))
