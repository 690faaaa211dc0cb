"""Small problems for the tests of Java's judge."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace

import pytest

from megatron_ft.evaluation import sandbox
from megatron_ft.evaluation.benchmark import Problem
from megatron_ft.evaluation.languages.java import Java
from megatron_ft.evaluation.sandbox import Limits
from tests.evaluation.conftest import sandbox_or_skip
from tests.evaluation.problems import make_problem

IMPORTS = "import java.util.*;\nimport java.lang.*;\n\n"
TWICE = IMPORTS + "class Solution {\n    public int twice(int x) {\n"
LIMITS = Limits(cpu_s=8, wall_s=60, memory_bytes=2**30, output_bytes=2**20, address_space=False, processes=40)
SHORT = replace(LIMITS, cpu_s=2, wall_s=6)  # for what must run into a time-out


def problem_of(head: str, checks: str, *, helpers: str = "") -> Problem:
    """A problem whose method begins with `head`; `checks` are statements of its tests, in which `s` is the Solution."""
    prompt = f"{IMPORTS}class Solution {{\n{helpers}    {head} {{\n"
    test = ("public class Main {\n    static void check(boolean right) { if (!right) throw new AssertionError(); }\n"
            f"    public static void main(String[] args) throws Exception {{\n        Solution s = new Solution();\n{checks}\n"
            "    }\n}\n")
    return make_problem(task_id="Java/own", prompt=prompt, declaration=prompt, test=test, entry_point="any")


PROBLEM = problem_of("public int twice(int x)", "check(s.twice(2) == 4);")


def java_or_skip(limits: Limits = LIMITS) -> Java:
    """The judge of Java programs; without a toolchain the test is skipped, or fails under CI=true."""
    if shutil.which("javac") is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("no javac on PATH: install openjdk-17-jdk-headless")
    return Java(sandbox_or_skip(sandbox.TOOLS[0]), limits)
