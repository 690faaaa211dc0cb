"""Executes programs: each distinct one once, as many at a time as there are cores."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

from megatron_ft import log
from megatron_ft.evaluation import verdict_cache
from megatron_ft.evaluation.judging import Judge
from megatron_ft.evaluation.scenarios import Task
from megatron_ft.evaluation.verdict import Verdict
from megatron_ft.evaluation.verdict_cache import VerdictCache


@dataclass(frozen=True)
class Attempt:
    """One sample of one task, as it will be run."""

    task: Task
    sample: int
    """Which of the task's samples, from 0."""
    program: str


@dataclass(frozen=True)
class Executed:
    """What there was to execute."""

    distinct: int
    """Programs that differ, each with the tests of its problem."""
    cached: int
    """Those of them whose verdict was known from an earlier run."""


def execute(attempts: Sequence[Attempt], judges: Mapping[str, Judge], *, workers: int,
            keep: Callable[[Attempt, Verdict], None], caches: Mapping[str, VerdictCache] | None = None) -> Executed:
    """Hand the verdict on every attempt to `keep`, as soon as it is known; programs that repeat are run once.

    The first EvaluationError stops the run: a box that cannot be made is no wrong answer.

    Args:
        judges: by language.
        caches: by language; verdicts of earlier runs, to which those of this one are added.
    """
    caches = caches or {}
    distinct: dict[str, list[Attempt]] = defaultdict(list)
    for attempt in attempts:
        distinct[verdict_cache.key(attempt.task, attempt.program)].append(attempt)
    left = []
    for same in distinct.values():
        task, program = same[0].task, same[0].program
        known = caches[task.language].get(task, program) if task.language in caches else None
        if known is None:
            left.append(same)
        for attempt in same if known else ():
            keep(attempt, known)
    cached = len(distinct) - len(left)
    before = f", {cached} of them judged in earlier runs" if cached else ""
    log.get().info(f"{len(attempts)} samples are {len(distinct)} distinct programs{before}; {workers} run at a time")

    for language, known_judge in judges.items():
        known_judge.expect([attempt.task for attempt in attempts if attempt.task.language == language])

    def judge(attempt: Attempt) -> Verdict:
        verdict = judges[attempt.task.language].judge(attempt.task, attempt.program)
        if attempt.task.language in caches:
            caches[attempt.task.language].put(attempt.task, attempt.program, verdict)
        return verdict

    pool = ThreadPoolExecutor(workers)
    try:
        running = {pool.submit(judge, same[0]): same for same in left}
        for done in log.progress(as_completed(running), total=len(running), unit="program", label="execute"):
            for attempt in running[done]:
                keep(attempt, done.result())
    finally:
        pool.shutdown(cancel_futures=True)
    return Executed(len(distinct), cached)
