"""Small problems for the tests of Go's judge."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace

import pytest

from megatron_ft.evaluation import sandbox
from megatron_ft.evaluation.benchmark import Problem
from megatron_ft.evaluation.languages.go import Go
from megatron_ft.evaluation.sandbox import Limits
from tests.evaluation.conftest import sandbox_or_skip
from tests.evaluation.problems import make_problem

SETUP = 'package main\n\nimport (\n    "testing"\n    "github.com/stretchr/testify/assert"\n)\n'
DOUBLE = "func Double(x int) int {\n"
TEST = "func TestDouble(t *testing.T) {\n    assert := assert.New(t)\n    assert.Equal(4, Double(2))\n}\n"
LIMITS = Limits(cpu_s=5, wall_s=60, memory_bytes=2**30, output_bytes=2**20)
SHORT = replace(LIMITS, cpu_s=1, wall_s=4)  # for what must run into a time-out


def problem_of(function: str, checks: str, **changed: str) -> Problem:
    """A problem whose function begins as `function` does."""
    name = function[len("func "):function.index("(")]
    body = f"func Test{name}(t *testing.T) {{\n    assert := assert.New(t)\n{checks}\n}}\n"
    fields = {"task_id": "Go/own", "prompt": function, "declaration": function, "entry_point": name, "test": body,
              "test_setup": SETUP}
    return make_problem(**{**fields, **changed})


PROBLEM = problem_of(DOUBLE, "", test=TEST)


def go_or_skip(limits: Limits = LIMITS) -> Go:
    """The judge of Go programs; without a toolchain the test is skipped, or fails under CI=true."""
    if shutil.which("go") is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("no go on PATH: install golang-go")
    return Go(sandbox_or_skip(sandbox.TOOLS[0]), limits)
