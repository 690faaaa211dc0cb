"""Executes programs: each distinct one once, as many at a time as there are cores."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

from megatron_ft import log
from megatron_ft.evaluation.benchmark import Problem
from megatron_ft.evaluation.languages.base import Language
from megatron_ft.evaluation.prompts import base
from megatron_ft.evaluation.verdict import Verdict


@dataclass(frozen=True)
class Attempt:
    """One sample of one problem, as it will be run."""

    problem: Problem
    sample: int
    """Which of the problem's samples, from 0."""
    program: str


def cores() -> int:
    """The cores that this process may use (a SLURM job's share, not the node's)."""
    return len(os.sched_getaffinity(0))


def execute(attempts: Sequence[Attempt], language: Language, scenario: str, *, workers: int) -> list[Verdict]:
    """The verdict on every attempt, in their order; programs that repeat are run once.

    The first EvaluationError stops the run: a box that cannot be made is no wrong answer.
    """
    distinct = {(attempt.problem.task_id, attempt.program): attempt.problem for attempt in attempts}
    verdicts: dict[tuple[str, str], Verdict] = {}
    log.get().info(f"{len(attempts)} samples are {len(distinct)} distinct programs; {workers} run at a time")
    pool = ThreadPoolExecutor(workers)
    try:
        running = {pool.submit(language.judge, problem, base(problem, scenario), key[1]): key
                   for key, problem in distinct.items()}
        for done in log.progress(as_completed(running), total=len(running), unit="program", label="execute"):
            verdicts[running[done]] = done.result()
    finally:
        pool.shutdown(cancel_futures=True)
    return [verdicts[attempt.problem.task_id, attempt.program] for attempt in attempts]
