"""A small problem for the evaluator's tests, written for this project."""

from __future__ import annotations

from megatron_ft.evaluation.benchmark import Problem

TEST = "def check(double):\n    assert double(2) == 4\n    assert double([1]) == [1, 1]\n\ncheck(double)"


def make_problem(**changed: str) -> Problem:
    """A small problem of our own, with some fields changed."""
    row = {
        "task_id": "Own/0", "prompt": 'def double(x):\n    """Twice x."""\n', "declaration": "def double(x):\n",
        "canonical_solution": "    return x * 2\n", "buggy_solution": "    return x * 3\n", "bug_type": "value misuse",
        "failure_symptoms": "incorrect output", "entry_point": "double", "signature": "double(x)",
        "docstring": "Twice x.", "instruction": "Write a Python function `double(x)` that gives twice x.",
        "test": TEST, "example_test": "",
    }
    return Problem(**{**row, **changed})
