"""How a run stands, from its folder alone: what it does or how it ended, the time it takes, the work at risk. Torch-free."""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Sequence
from typing import Any

from megatron_ft import cli
from megatron_ft.runtime import checkpoint_files
from megatron_ft.training import attempt_record, attempts, run_folder
from megatron_ft.training.attempts import Attempt
from megatron_ft.training.run_record import Checkpoint, RunRecord

RECENT_LINES = 20
"""Lines of metrics.jsonl that "recent" means."""
WARNINGS_SHOWN, SPIKES_SHOWN = 3, 3
SLOW_STEPS, LEAST_SILENCE_S, LOADING_S = 10, 120.0, 1800.0
"""A run counts as silent after so many of its steps, but at least so long; loading a large model gives no sign of life."""
UNKNOWN_SILENCE_S = 600.0
"""Where no step's time is known and the run's own patience (runtime.timeout_minutes) is not either."""
GOING = ("loading", "training", "validating", "saving")


@dataclasses.dataclass(frozen=True)
class Pace:
    """How long the rest takes."""

    step_s: float
    """Wall time of a step of late, validations and saves included."""
    rest_s: float
    """Of all steps that are left."""
    left_s: float | None
    """Until the time limit of the attempt that runs; None where none runs, or it has no limit."""
    more_attempts: int | None
    """How many attempts like the last one are needed beside what is left of it; None where they have no limit."""
    limit_s: float | None
    """Length of one."""


@dataclasses.dataclass(frozen=True)
class Status:
    """A run at one moment; times are seconds since 1970."""

    name: str
    state: str
    """One of GOING; or done, ended (and to be gone on with), failed, killed, silent."""
    sentence: str
    is_well: bool
    """Done, going on, or ended so that the same command goes on."""
    step: int
    steps: int | None
    now: float
    heard: float | None
    line: dict[str, Any]
    """The last of training in metrics.jsonl."""
    recent_loss: float | None
    recent_lines: int
    """Its mean over so many lines, at most RECENT_LINES."""
    valid: tuple[int, float] | None
    best_valid: tuple[int, float] | None
    """(step, loss)."""
    pace: Pace | None
    checkpoint: Checkpoint | None
    """The newest whole one."""
    damaged: list[int]
    """Steps whose checkpoints lack files."""
    being_written: list[str]
    steps_at_risk: int
    """Done since the newest whole checkpoint."""
    attempts: list[Attempt]
    saved: list[int | None]
    """Newest checkpoint's step when each attempt ended; None where it is not known."""
    without_progress: int
    """Attempts of this job that have ended and saved nothing, in a row, the last ones."""
    refusal: str
    """Why the job was not requeued; empty where it was, or nobody asked."""
    spikes: int
    last_spikes: list[dict[str, Any]]
    warnings: list[dict[str, Any]]


def of(record: RunRecord, *, now: float | None = None) -> Status:
    """The status of a run that `run_record.read` has read."""
    now = time.time() if now is None else now
    moment = run_folder.read_now(record.folder)
    tries = attempts.of(record.events, metrics=record.metrics, now=moment)
    last = tries[-1] if tries else None
    lines = [line for line in record.metrics if "loss" in line]
    line = lines[-1] if lines else {}
    saved_before = [each.about.get("saved") for each in tries] + [attempts.saved_step(record.folder)]
    state, sentence = _state(last, moment, line, now=now)
    asked = record.last("granted")
    refusal = asked["why"] if asked and not asked["granted"] and (not last or asked.get("time", 0) >= last.began) else ""
    whole = [each for each in record.checkpoints if not each.missing]
    newest = next((each for each in whole if each.is_latest), whole[-1] if whole else None)
    step = (last.reached if last and last.reached is not None else None) or (newest.step if newest else 0)
    steps = _steps(record, line)
    losses = [each["loss"] for each in lines[-RECENT_LINES:] if each["loss"] is not None]
    valid = record.points("valid_loss")
    return Status(
        name=str(record.folder), state=state, sentence=sentence,
        is_well=state in (*GOING, "done") or (state == "ended" and not refusal), step=step, steps=steps, now=now,
        heard=last.heard if last else record.heard, line=line, recent_loss=statistics.fmean(losses) if losses else None,
        recent_lines=len(losses),
        valid=valid[-1] if valid else None, best_valid=min(valid, key=lambda point: point[1]) if valid else None,
        pace=_pace(lines, tries, step, steps, state=state, now=now), checkpoint=newest,
        damaged=[each.step for each in record.checkpoints if each.missing],
        being_written=[path.name.split(".")[1] for path in checkpoint_files.leftovers(record.folder / "checkpoints")
                       if path.name.endswith(".partial")],
        steps_at_risk=max(0, step - (newest.step if newest else 0)), attempts=tries, saved=saved_before[1:],
        without_progress=_without_progress(record, last, saved_before[-1], going=state in GOING), refusal=refusal,
        spikes=len(record.spikes), last_spikes=record.spikes[-SPIKES_SHOWN:],
        warnings=[event for event in record.events if event.get("event") == "warning"][-WARNINGS_SHOWN:])


def _without_progress(record: RunRecord, last: Attempt | None, saved: int | None, *, going: bool) -> int:
    if last is None or not last.about:
        return 0
    # The question after its end is no attempt, so that what was noted later does not count.
    first = max(number for number, event in enumerate(record.events) if event.get("event") == attempts.ATTEMPT)
    count = attempts.without_progress(record.events[:first + 1], saved=saved or 0, job=last.about.get("job"))
    return max(0, count - 1) if going else count


def _state(last: Attempt | None, moment: dict[str, Any], line: dict[str, Any], *, now: float) -> tuple[str, str]:
    if last is None:
        return "silent", "it has a folder, and nothing has been written by training yet"
    if last.has_ended:
        if last.exit_code == cli.EXIT_OK:
            return "done", f"{last.why} (exit code {last.exit_code})"
        if last.exit_code in (cli.EXIT_REQUEUE, cli.EXIT_INTERRUPTED):
            return "ended", f"{last.why} (exit code {last.exit_code}: the same command goes on)"
        return "failed", f"failed (exit code {last.exit_code}): {last.why}"
    phase = str(moment.get("phase", "training")) if moment.get("time", -1.0) >= last.began else "loading"
    if not moment and last.trained_at is not None:
        phase = "training"
    where = f"after step {last.reached}" if last.reached is not None else "before training began"
    alive = attempt_record.lives(last.about)
    if alive is False:
        return "killed", f"ended without a word {where}: its process is gone; last heard {clock(last.heard, now)}"
    quiet = now - last.heard
    if quiet > _patience(last, phase, line):
        guess = "its process is there: it hangs, or is stopped" if alive else "killed, or it hangs"
        return "silent", f"silent for {span(quiet)} {where}, while {phase}: {guess}; last heard {clock(last.heard, now)}"
    return phase, f"{phase}, heard of {span(quiet)} ago"


def _patience(last: Attempt, phase: str, line: dict[str, Any]) -> float:
    """Seconds without a sign of life that are no reason to worry."""
    own = float(last.about.get("silence_s", UNKNOWN_SILENCE_S))
    if phase == "loading":
        return max(own, LOADING_S)
    step_s = line.get("seconds_per_step")
    if phase == "training" and step_s and line.get("time", 0) >= last.began and last.about:
        return max(LEAST_SILENCE_S, SLOW_STEPS * step_s)
    return own + LEAST_SILENCE_S  # a collective that hangs for longer ends the run by itself


def _steps(record: RunRecord, line: dict[str, Any]) -> int | None:
    """Steps of the whole run, as the last start said."""
    said = record.last("steps").get("steps")
    if said is None and line.get("seconds_per_step"):
        said = line["step"] + round(line.get("eta_s", 0) / line["seconds_per_step"])
    return said


def _pace(lines: Sequence[dict[str, Any]], tries: Sequence[Attempt], step: int, steps: int | None, *, state: str,
          now: float) -> Pace | None:
    if not lines or steps is None or state == "done":
        return None
    began = max((each.began for each in tries if each.began <= lines[-1]["time"]), default=0.0)
    recent = [line for line in lines[-RECENT_LINES:] if line["time"] >= began]
    step_s = float(lines[-1]["seconds_per_step"])
    if len(recent) > 1 and recent[-1]["step"] > recent[0]["step"]:
        step_s = (recent[-1]["time"] - recent[0]["time"]) / (recent[-1]["step"] - recent[0]["step"])
    rest_s = max(0, steps - step) * step_s
    last = tries[-1] if tries else None
    limit_s = last.about.get("limit_s") if last else None
    if last is None or not limit_s:
        return Pace(step_s, rest_s, None, None, None)
    left_s = max(0.0, last.about["ends_at"] - now) if state in GOING else None
    loading_s = max((each.trained_at - each.about.get("pid_started", each.began) for each in tries
                     if each.trained_at is not None), default=0.0)
    useful_s = max(step_s, limit_s - loading_s)  # an attempt that saves no step is ended by run.max_minutes' own check
    more = math.ceil(max(0.0, rest_s - (left_s or 0.0)) / useful_s)
    return Pace(step_s, rest_s, left_s, more, limit_s)


def span(seconds: float) -> str:
    """A time span for people.

    >>> span(42), span(600), span(7200), span(200_000)
    ('42 s', '10 min', '2.0 h', '2.3 days')
    """
    for unit, size, digits in (("days", 86400.0, 1), ("h", 3600.0, 1), ("min", 60.0, 0)):
        if seconds >= 2 * size or (unit == "min" and seconds >= 60):
            return f"{seconds / size:.{digits}f} {unit}"
    return f"{seconds:.0f} s"


def clock(moment: float | None, now: float) -> str:
    """A time of day, with the date where it is another day's."""
    if moment is None:
        return "-"
    at, today = time.localtime(moment), time.localtime(now)
    return time.strftime("%H:%M:%S" if at[:3] == today[:3] else "%m-%d %H:%M" if at[0] == today[0] else "%Y-%m-%d", at)
