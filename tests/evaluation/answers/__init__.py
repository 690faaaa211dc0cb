"""Answers as chat models write them, all right ones, to one small problem in six languages: written for this project.

Each file has the problem's fields and the answers under lines that begin with `%%%%`.
"""

from __future__ import annotations

import re
from pathlib import Path

from megatron_ft.evaluation import languages
from megatron_ft.evaluation.benchmark import Problem
from tests.evaluation.problems import make_problem

HEADING = re.compile(r"^%%%% (.*)\n", re.MULTILINE)
ENTRY_POINTS = {"python": "longest_run", "js": "longestRun", "java": "longestRun", "go": "LongestRun", "cpp": "longest_run",
                "rust": "longest_run"}


def read(language: str) -> tuple[Problem, dict[str, str]]:
    """The problem, and the answers by their names; each goes on behind a prompt that ends without a newline."""
    _, *parts = HEADING.split((Path(__file__).parent / f"{language}.txt").read_text())
    texts = dict(zip(parts[::2], parts[1::2], strict=True))
    fields = {name.removeprefix("problem: "): text for name, text in texts.items() if name.startswith("problem: ")}
    fields["signature"] = fields.get("signature", "").strip()
    problem = make_problem(task_id=f"Answers/{language}", entry_point=ENTRY_POINTS[language], **fields)
    return problem, {name: f"\n{text}" for name, text in texts.items() if not name.startswith("problem: ")}


ANSWERS = {(language, name): text for language in languages.LANGUAGES for name, text in read(language)[1].items()}
