"""Runs a problem's canonical solution on its inputs, in a box of its own, and writes what it gives.

`python -m python_inside.canonical`, the job as JSON on stdin; a JSON list of outputs as `wire` writes them on stdout.
"""

from __future__ import annotations

import json
import os
import sys

from .differential import FOUND_OR_NOT, arguments, shown
from .wire import encode

NOT_COMPARED = ("opaque", "iterator")


def outputs(job: dict) -> list:
    """The output for every input; ValueError names the input for which there is none that can be compared."""
    scope: dict = {"__name__": "canonical"}
    exec(compile(job["code"], "canonical.py", "exec"), scope)
    function = scope[job["entry_point"]]
    found = []
    for at, given in enumerate(arguments(job)):
        called = f"{job['entry_point']}({shown(given)[1:-1]})"
        try:
            value = function(*given)
        except Exception as problem:
            raise ValueError(f"input {at}, {called}, raises {type(problem).__name__}: {problem}") from problem
        if job["kind"] == "mbppplus" and job["entry_point"] in FOUND_OR_NOT:
            value = value is not None
        written = encode(value)
        if isinstance(written, dict) and written["t"] in NOT_COMPARED:
            raise ValueError(f"input {at}, {called}, gives a {type(value).__name__}, which cannot be compared")
        found.append(written)
    return found


def main() -> None:
    """Write the outputs; what the solution prints goes elsewhere."""
    job = json.load(sys.stdin)
    answer = os.dup(1)
    os.dup2(2, 1)
    try:
        found = outputs(job)
    except Exception as problem:
        sys.exit(f"error: {type(problem).__name__}: {problem}")
    with os.fdopen(answer, "w") as stream:
        json.dump(found, stream)


if __name__ == "__main__":
    main()
