"""A run's status for people and for programs. Torch-free."""

from __future__ import annotations

import dataclasses
import datetime
import textwrap
from collections.abc import Iterator
from typing import Any

from rich.console import Group
from rich.markup import escape
from rich.table import Table

from megatron_ft.runtime.checkpoint_files import readable
from megatron_ft.training.attempts import Attempt
from megatron_ft.training.status_facts import GOING, Pace, Status, clock, span

COLOURS = {"failed": "red", "killed": "red", "silent": "red", "ended": "yellow"}
ATTEMPTS_SHOWN, WHY_CHARACTERS = 8, 100


def facts(status: Status) -> dict[str, Any]:
    """The same as JSON."""
    found = dataclasses.asdict(status)
    for attempt, saved in zip(found["attempts"], found.pop("saved"), strict=True):
        attempt["saved_step"] = saved
    return found


def drawn(status: Status) -> Group:
    """The status as rich draws it."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in rows(status):
        table.add_row(name, escape(text))
    parts: list[Any] = [table]
    if status.attempts:
        parts.append(_attempts(status))
    colour = COLOURS.get(status.state, "green")
    return Group(f"[bold]{escape(status.name)}[/]: [{colour}]{escape(status.sentence)}[/]", *parts)


def rows(status: Status) -> Iterator[tuple[str, str]]:
    """(what, how it stands), a line each."""
    line = status.line
    share = f" of {status.steps:,} ({status.step / status.steps:.1%})" if status.steps else ""
    yield "step", f"{status.step:,}{share}" + (f", epoch {line['epoch']:.2f}" if "epoch" in line else "")
    if line:
        yield "loss", _losses(status)
        yield "speed", _speed(line)
        yield "lr", f"{line['lr']:.2e}, gradient norm {_number(line['grad_norm'])}"
    if status.pace is not None:
        yield "left", _left(status, status.pace)
    yield "checkpoint", _checkpoint(status)
    if status.damaged:
        yield "damaged", ", ".join(f"the checkpoint of step {step:,}" for step in status.damaged)
    if line.get("skipped_steps"):
        yield "skipped", f"{line['skipped_steps']:,} steps whose loss or gradients were not finite"
    if status.spikes:
        last = "; ".join(f"step {each['step']:,} {each.get('reason', '')} {_number(each.get('loss'))}"
                         for each in status.last_spikes)
        yield "spikes", f"{status.spikes:,} in spikes.jsonl, the last: {last}"
    for event in status.warnings:
        yield "warning", f"{clock(event.get('time'), status.now)} {event.get('text', '')}"
    if status.without_progress:
        tries = "the last one" if status.without_progress == 1 else f"the last {status.without_progress}"
        yield "no progress", f"of the attempts that have ended, {tries} saved no new step"
    if status.refusal:
        yield "not requeued", status.refusal


def _losses(status: Status) -> str:
    text = _number(status.line["loss"])
    if status.recent_loss is not None and status.recent_lines > 1:
        text += f", mean of the last {status.recent_lines} lines {status.recent_loss:.4f}"
    if status.valid and status.best_valid:
        text += f"; validation {status.valid[1]:.4f} after step {status.valid[0]:,}"
        if status.best_valid != status.valid:
            text += f", best {status.best_valid[1]:.4f} after step {status.best_valid[0]:,}"
    return text


def _speed(line: dict[str, Any]) -> str:
    mfu = f" (MFU {line['mfu']:.1%})" if "mfu" in line else ""
    return (f"{line['tokens_per_s']:,.0f} tokens/s, {line['tflops_per_gpu']:.3g} TFLOP/s per rank{mfu}, "
            f"{line['seconds_per_step']:.3g} s/step, {line['memory_bytes'] / 1e9:.3g} GB")


def _left(status: Status, pace: Pace) -> str:
    text = f"{_duration(pace.rest_s)} at {pace.step_s:.3g} s/step of wall time"
    if status.state in GOING:
        text += f", until {clock(status.now + pace.rest_s, status.now)}"
    if pace.more_attempts is None or pace.limit_s is None:
        return text
    if pace.left_s is not None:
        text += f"; this attempt has {_duration(pace.left_s)} left of {_duration(pace.limit_s)}"
        if pace.more_attempts == 0:
            return text + ", which is enough"
    beside = "more " if pace.left_s is not None else ""
    return text + f"; needs {_attempts_of(pace.more_attempts, beside)} of {_duration(pace.limit_s)}"


def _attempts_of(count: int, kind: str = "") -> str:
    return f"{count} {kind}attempt{'s' if count > 1 else ''}"


def _checkpoint(status: Status) -> str:
    newest = status.checkpoint
    if newest is None:
        text = "none yet"
    else:
        text = f"step {newest.step:,}, {readable(newest.bytes)}, {span(max(0.0, status.now - newest.written))} old"
    if status.being_written:
        text += f"; {', '.join(status.being_written)} is being written" if status.state in GOING else (
            f"; {', '.join(status.being_written)} is half-written")
    if status.steps_at_risk:
        would = "would be lost if it died now" if status.state in GOING else "are not in it"
        text += f"; {status.steps_at_risk:,} step{'s' if status.steps_at_risk > 1 else ''} {would}"
    return text


def _attempts(status: Status) -> Table:
    hidden = max(0, len(status.attempts) - ATTEMPTS_SHOWN)
    title = f"attempts, the last {ATTEMPTS_SHOWN} of {len(status.attempts)}" if hidden else "attempts"
    table = Table(title=title, title_justify="left", title_style="dim")
    for name, justify in (("", "right"), ("began", "left"), ("job", "left"), ("where", "left"), ("steps", "right"),
                          ("saved", "right"), ("how it ended", "left")):
        table.add_column(name, justify=justify, overflow="fold")
    for number, attempt in list(enumerate(status.attempts))[hidden:]:
        saved = status.saved[number]
        table.add_row(str(number + 1), clock(attempt.began, status.now), *map(escape, (
            _job(attempt), _where(attempt), _steps(attempt), "-" if saved is None else f"{saved:,}",
            _end(status, number))))
    return table


def _job(attempt: Attempt) -> str:
    job, restarts = attempt.about.get("job"), attempt.about.get("restarts")
    return "-" if not job else f"{job}{f', restart {restarts}' if restarts else ''}"


def _where(attempt: Attempt) -> str:
    if not attempt.about:
        return "-"
    ranks = attempt.about.get("ranks", 1)
    return f"{ranks} rank{'s' if ranks > 1 else ''} on {attempt.about.get('nodes', '?')}"


def _steps(attempt: Attempt) -> str:
    if attempt.from_step is None:
        return "-"
    return f"{attempt.from_step:,} - {attempt.reached or attempt.from_step:,}"


def _end(status: Status, number: int) -> str:
    attempt = status.attempts[number]
    if attempt.has_ended:
        why = textwrap.shorten(attempt.why, WHY_CHARACTERS, placeholder=" ...")  # the last one's is whole in the first line
        return f"{why} (exit code {attempt.exit_code})"
    if number == len(status.attempts) - 1 and status.state in GOING:
        return f"{status.state} now"
    where = "before training began" if attempt.from_step is None else f"after step {attempt.reached:,}"
    return f"without a word {where}, last heard {clock(attempt.heard, status.now)}"


def _duration(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4g}"


def sign(status: Status) -> str:
    """One line for a log: state, step, loss, what is left.

    Of `--watch` without a terminal.
    """
    steps = f"/{status.steps}" if status.steps else ""
    loss = f"  loss {_number(status.line['loss'])}" if status.line else ""
    left = f"  left {_duration(status.pace.rest_s)}" if status.pace else ""
    return f"{clock(status.now, status.now)}  {status.state}  step {status.step}{steps}{loss}{left}"
