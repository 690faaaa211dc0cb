"""Small problems for the tests of JavaScript's judge."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from megatron_ft.errors import EvaluationError
from megatron_ft.evaluation.benchmark import Problem
from megatron_ft.evaluation.languages.js import JavaScript
from megatron_ft.evaluation.sandbox import Sandbox
from tests.evaluation.problems import make_problem

LIMITS = replace(JavaScript.default_limits, cpu_s=3, wall_s=60, memory_bytes=512 * 2**20, output_bytes=2**20)
SHORT = replace(LIMITS, cpu_s=1, wall_s=4)  # for what must run into a time-out; the rest must not, on a busy machine
TEST = """const testDouble = () => {
  console.assert(double(2) === 4)
  console.assert(
    double('a') === 'aa')
}
testDouble()"""
BASE = "const double = (x) => {"


def js_problem(**changed: str) -> Problem:
    """A small problem in JavaScript, with some fields changed."""
    return make_problem(**{"task_id": "OwnJS/0", "prompt": BASE, "declaration": BASE, "test": TEST, **changed})


def toolchain_or_skip(sandbox: Sandbox) -> JavaScript:
    """The judge of JavaScript; skipped where node or its package is absent, failed there under CI=true."""
    language = JavaScript(sandbox, LIMITS)
    try:
        _ = language._version, language._packages
    except EvaluationError as error:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(str(error))
    return language
