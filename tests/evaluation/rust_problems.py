"""Small problems for the tests of the judge of Rust programs."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace

import pytest

from megatron_ft.evaluation import sandbox
from megatron_ft.evaluation.benchmark import Problem
from megatron_ft.evaluation.languages import rust as module
from megatron_ft.evaluation.languages.rust import Rust
from megatron_ft.evaluation.sandbox import Limits
from tests.evaluation.conftest import sandbox_or_skip
from tests.evaluation.problems import make_problem

LIMITS = Limits(cpu_s=2, wall_s=60, memory_bytes=512 * 2**20, output_bytes=2**20)
SHORT = replace(LIMITS, cpu_s=1, wall_s=3)  # for what must run into a time-out; the rest must not, on a busy machine
HEAD = "use std::{any::Any, collections::*};\n"


def problem(signature: str, *statements: str, helpers: str = "", **changed: str) -> Problem:
    """A problem of our own: a declared function and the statements of its test, from line 6."""
    body = "".join(f"        {statement}\n" for statement in statements)
    return make_problem(**{
        "task_id": "Own/0", "signature": signature, "prompt": f"fn main(){{}}\n{HEAD}{helpers}fn {signature} {{\n",
        "declaration": f"{HEAD}fn {signature} {{\n",
        "test": f"#[cfg(test)]\nmod tests {{\n    use super::*;\n    #[test]\n    fn holds() {{\n{body}    }}\n}}\n",
        **changed})


TWICE = problem("twice(x: i32) -> i32", "assert_eq!(twice(2), 4);", "assert!(twice(21) == 42);")
RIGHT = "fn twice(x: i32) -> i32 { x * 2 }"


def rust_or_skip(tool: str = sandbox.TOOLS[0], limits: Limits = LIMITS) -> Rust:
    """The judge of Rust programs; without a toolchain the test is skipped, or fails under CI=true."""
    missing = [name for name in ("rustc", "cc") if shutil.which(name) is None]
    missing += [name for name, (_, pattern, _) in module.CRATES.items() if not list(module.REGISTRY.glob(pattern))]
    if missing:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"no {', '.join(missing)}; Debian: {module.DEBIAN}")
    return Rust(sandbox_or_skip(tool), limits)
