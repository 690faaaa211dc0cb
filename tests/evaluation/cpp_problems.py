"""Small problems for the tests of the judge of C++ programs."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace

import pytest

from megatron_ft.evaluation import sandbox
from megatron_ft.evaluation.benchmark import Problem
from megatron_ft.evaluation.languages.cpp import Cpp
from megatron_ft.evaluation.sandbox import Limits
from tests.evaluation.conftest import sandbox_or_skip
from tests.evaluation.problems import make_problem

LIMITS = Limits(cpu_s=2, wall_s=60, memory_bytes=512 * 2**20, output_bytes=2**20)
SHORT = replace(LIMITS, cpu_s=1, wall_s=3)  # for what must run into a time-out; the rest must not, on a busy machine
HEAD = "#include <vector>\nusing namespace std;\n"


def problem(signature: str, *statements: str, helpers: str = "", **changed: str) -> Problem:
    """A problem of our own: a declared function and the statements of its tests."""
    body = "".join(f"    {statement}\n" for statement in statements)
    return make_problem(**{
        "task_id": "Own/0", "signature": signature, "prompt": f"{helpers}{HEAD}{signature}{{\n",
        "declaration": f"{HEAD}{signature}{{\n", "test": f"#undef NDEBUG\n#include<assert.h>\nint main(){{\n{body}}}\n",
        **changed})


DOUBLE = problem("int twice(int x)", "assert (twice(2) == 4);", "assert (twice(21) == 42);")
RIGHT = "int twice(int x){ return x * 2; }"


def cpp_or_skip(tool: str = sandbox.TOOLS[0], limits: Limits = LIMITS) -> Cpp:
    """The judge of C++ programs; without a compiler the test is skipped, or fails under CI=true."""
    if shutil.which("g++") is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("g++ is not on PATH (Debian package g++)")
    return Cpp(sandbox_or_skip(tool), limits)
