"""Answers that are programs of their own, as MBPP asks for: when they are over."""

from __future__ import annotations

import re

from megatron_ft.evaluation.public_extraction import is_python

OVER = re.compile(r"^(?:(?:assert|print|if)(?=\W)|\"\"\"|'''|```)", re.MULTILINE)
"""Lines at the margin that no program needs behind its function, or that end the block that it stands in."""


def is_complete(answer: str, entry_point: str) -> bool:
    r"""Whether the entry point is defined, and a line after it, in no string, shows that the program is over.

    >>> is_complete("def f(x):\n    return x\n\ndef g(x):\n", "f"), is_complete("def f(x):\n    return x\n\nassert f(1)", "f")
    (False, True)
    """
    begun = re.search(rf"^(?:async )?def {re.escape(entry_point)}\b", answer, re.MULTILINE)
    if begun is None:
        return False
    return any(is_python(answer[begun.start():over.start()]) for over in OVER.finditer(answer, begun.end()))
