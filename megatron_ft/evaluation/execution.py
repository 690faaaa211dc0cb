"""Executes programs: each distinct one once, as many at a time as there are cores."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

from megatron_ft import log
from megatron_ft.evaluation.judging import Judge
from megatron_ft.evaluation.scenarios import Task
from megatron_ft.evaluation.verdict import Verdict


@dataclass(frozen=True)
class Attempt:
    """One sample of one task, as it will be run."""

    task: Task
    sample: int
    """Which of the task's samples, from 0."""
    program: str


def execute(attempts: Sequence[Attempt], judges: Mapping[str, Judge], *, workers: int,
            keep: Callable[[Attempt, Verdict], None]) -> None:
    """Hand the verdict on every attempt to `keep`, as soon as it is known; programs that repeat are run once.

    The first EvaluationError stops the run: a box that cannot be made is no wrong answer.

    Args:
        judges: by language.
    """
    distinct: dict[tuple[str, str], list[Attempt]] = defaultdict(list)
    for attempt in attempts:
        # A problem's tests are the same in every scenario, what stands before a program's own text may not be.
        distinct[attempt.task.problem.task_id, attempt.task.base + attempt.program].append(attempt)
    log.get().info(f"{len(attempts)} samples are {len(distinct)} distinct programs; {workers} run at a time")
    pool = ThreadPoolExecutor(workers)
    try:
        running = {pool.submit(judges[same[0].task.language].judge, same[0].task, same[0].program): same
                   for same in distinct.values()}
        for done in log.progress(as_completed(running), total=len(running), unit="program", label="execute"):
            for attempt in running[done]:
                keep(attempt, done.result())
    finally:
        pool.shutdown(cancel_futures=True)
