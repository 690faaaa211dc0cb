"""The attempts of a run, as its events.jsonl tells them, and whether a job should try again. Torch-free.

An attempt is one start of the training command. `attempt_record` writes its first event ("attempt"), the loop its start or
resume, checkpoints and end; an attempt that was killed has no end. "requeue" is a job script's question and its answer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from megatron_ft import cli
from megatron_ft.errors import CheckpointError
from megatron_ft.runtime import checkpoint_layout
from megatron_ft.training import run_folder

ATTEMPT, REQUEUE = "attempt", "requeue"
FINAL = {cli.EXIT_OK: "the run is done", cli.EXIT_USER_ERROR: "what is wrong stays wrong until somebody changes it",
         cli.EXIT_INTERRUPTED: "somebody ended it by Ctrl-C"}
"""Exit codes of training after which the same command is not to be started again, and why."""


@dataclasses.dataclass(frozen=True)
class Attempt:
    """One start of the training command and what came of it."""

    began: float
    """Seconds since 1970, here and below."""
    about: dict[str, Any]
    """What its first event says of the machine and the job; {} for runs from before attempts were recorded."""
    from_step: int | None
    """Step that training began or went on from; None where it never came so far."""
    reached: int | None
    """The last step that it is known to have done."""
    trained_at: float | None
    """When model and data were loaded."""
    ended: float | None
    why: str
    exit_code: int | None
    """None: it is going on, or it ended without a word."""
    heard: float
    """When it last wrote something."""

    @property
    def has_ended(self) -> bool:
        """Whether it said so."""
        return self.ended is not None


def saved_step(run_dir: Path) -> int:
    """Step of the checkpoint that the next attempt goes on from; 0: none."""
    root = run_dir / "checkpoints"
    try:
        folder = checkpoint_layout.latest(root)
    except (CheckpointError, OSError):
        return 0
    return int(folder.name.removeprefix("iter_")) if folder and folder.name != checkpoint_layout.RELEASE else 0


def of(events: Sequence[dict[str, Any]], *, metrics: Sequence[dict[str, Any]] = (),
       now: dict[str, Any] | None = None) -> list[Attempt]:
    """The attempts, oldest first.

    Args:
        now: what rank 0 last wrote of itself (`run_folder.read_now`).
    """
    found: list[list[dict[str, Any]]] = []
    for event in events:
        kind = event.get("event")
        begins = kind == ATTEMPT or (kind in ("start", "resume") and not (found and _is_loading(found[-1])))
        if begins:
            found.append([event])
        elif found and kind != REQUEUE:
            found[-1].append(event)
    return [_attempt(own, found[number + 1][0] if number + 1 < len(found) else None, metrics, now or {})
            for number, own in enumerate(found)]


def _is_loading(events: list[dict[str, Any]]) -> bool:
    kinds = {event.get("event") for event in events}
    return ATTEMPT in kinds and not kinds & {"start", "resume", "end", "failed"}


def _attempt(events: list[dict[str, Any]], following: dict[str, Any] | None, metrics: Sequence[dict[str, Any]],
             now: dict[str, Any]) -> Attempt:
    first = events[0]
    began = float(first.get("time", 0.0))
    until = float(following.get("time", 0.0)) if following else float("inf")
    trained = next((event for event in events if event.get("event") in ("start", "resume")), None)
    lines = [line for line in (*events, *metrics, now) if began <= line.get("time", -1.0) < until]
    heard = max((line["time"] for line in lines), default=began)
    reached = max((line["step"] for line in lines if "step" in line), default=None) if trained else None
    before = (following or {}).get("before") or {}  # what the next attempt found: it took out the lines of lost steps
    if trained and before.get("heard", -1.0) >= began:
        heard, reached = max(heard, before["heard"]), max(reached or 0, before.get("step", 0))
    ends = [event for event in events if event.get("event") in ("end", "failed")]
    # What all ranks have agreed on comes before what this rank saw of it, a connection that was closed.
    end = next((event for event in ends if "rank" in event), ends[-1] if ends else {})
    return Attempt(began, first if first.get("event") == ATTEMPT else {}, trained["step"] if trained else None, reached,
                   trained.get("time") if trained else None, end.get("time"), str(end.get("why", end.get("error", ""))),
                   end.get("exit_code", cli.EXIT_FAILED if end.get("event") == "failed" else None), heard)


def without_progress(events: Sequence[dict[str, Any]], *, saved: int, job: str | None) -> int:
    """How many attempts in a row, the last ones of a job, have left the run at the step that is saved now.

    Only those of the same job count: what somebody submits anew starts at 0. An attempt that ended before it could write its
    first event (no node, no container) shows as two requeues with nothing between them, or a requeue with nothing after it.

    >>> began, again = {"event": "attempt", "job": "7"}, {"event": "requeue", "job": "7", "granted": True}
    >>> without_progress([{**began, "saved": 0}, {**again, "saved": 500}, {**began, "saved": 500}], saved=500, job="7")
    1
    >>> without_progress([{**again, "saved": 500}, {**again, "saved": 500}], saved=500, job="7")
    3
    """
    count, has_attempt = 0, False
    for event in reversed(events):
        if event.get("job") != job or event.get("event") not in (ATTEMPT, REQUEUE):
            continue
        if event["event"] == REQUEUE and not event.get("granted"):
            continue
        if event.get("saved", 0) < saved:
            return count
        if event["event"] == ATTEMPT:
            count, has_attempt = count + 1, True
        else:
            count, has_attempt = count + (not has_attempt), False
    return count + (not has_attempt)


def ask_requeue(run_dir: Path, *, job: str | None, exit_code: int | None = None, most: int = 3) -> tuple[bool, str]:
    """Whether a job should start the run again, and why or why not; takes note of question and answer.

    Args:
        job: SLURM's id of the job, the same after each requeue; None without SLURM.
        exit_code: what the launcher (srun) returned; None: the run's own record decides alone.
        most: attempts in a row that may save nothing.
    """
    events, saved = run_folder.read(run_dir / run_folder.EVENTS), saved_step(run_dir)
    last_asked = max((number for number, event in enumerate(events) if event.get("event") == REQUEUE), default=-1)
    mine = of(events[last_asked + 1:])
    recorded = mine[-1].exit_code if mine and mine[-1].about.get("job", job) == job else None
    granted, why = _answer([code for code in (recorded, exit_code) if code is not None], saved=saved, most=most,
                           count=without_progress(events, saved=saved, job=job))
    run_folder.append(run_dir / run_folder.EVENTS, {"step": saved, "event": REQUEUE, "granted": granted, "why": why, "job": job,
                                                    "saved": saved, "exit_code": exit_code})
    return granted, why


def _answer(codes: list[int], *, saved: int, most: int, count: int) -> tuple[bool, str]:
    final = next((code for code in codes if code in FINAL), None)
    if final is not None:
        return False, f"exit code {final}: {FINAL[final]}"
    stands = f"the newest checkpoint is of step {saved}" if saved else "there is no checkpoint yet"
    if count >= most:
        tries = f"the last {count} attempts" if count > 1 else "the last attempt"
        return False, (f"{tries} of this job saved no new step, {stands}; mend what ended them, then submit the job anew, or "
                       "allow more (--most)")
    if count:
        return True, f"{count} of at most {most} attempts in a row saved no new step, {stands}"
    return True, f"it goes on from step {saved}"
