"""Judges several programs at the same time: most of what a hostile one takes is waiting."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

from megatron_ft.evaluation.benchmark import Problem
from megatron_ft.evaluation.languages.base import Language
from megatron_ft.evaluation.languages.compiled import Compiled
from megatron_ft.evaluation.verdict import Verdict

WORKERS = 4  # more than a machine of two cores has: those that sleep wait for the clock, those that loop for cpu time
Key = TypeVar("Key")


def judged(programs: Mapping[Key, tuple[Language, str]], judge: Callable[[Language, str], Verdict]) -> dict[Key, Verdict]:
    """The verdict on each program, by its judge."""
    with ThreadPoolExecutor(WORKERS) as pool:
        return dict(zip(programs, pool.map(lambda asked: judge(*asked), programs.values()), strict=True))


def all_judged(judge: Language, problem: Problem, texts: Mapping[str, str],
               statuses: Mapping[str, Collection[str]]) -> dict[str, Verdict]:
    """The verdict on each program of a problem; one that may run into a time-out gets as little time as there is."""
    hurried = limited(judge, cpu_s=1, wall_s=2)
    programs = {kind: (hurried if "timeout" in statuses[kind] else judge, text) for kind, text in texts.items()}
    return judged(programs, lambda each, text: each.judge(problem, "", text))


def limited(judge: Language, **limits: float) -> Language:
    """A judge with other limits, which shares what the first has built."""
    if not isinstance(judge, Compiled):
        return type(judge)(judge.sandbox, replace(judge.limits, **limits))
    other = copy.copy(judge)
    other.limits = replace(judge.limits, **limits)
    return other
