"""What the workers of test_ending.py run: trainings that get real signals at chosen moments, or fail at chosen steps."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from typing import Any

from megatron_ft.config import parse
from megatron_ft.runtime.device import Process

MOMENTS = {
    "loading": ("loop", "start"), "first step": ("step", "train_step"), "second step": ("step", "train_step"),
    "first rows of a validation": ("step", "run"), "saving": ("Saver", "save"), "publishing": ("Saver", "_finish")}
"""Moment -> the function at whose call it is."""


def told(process: Process, *, config: dict[str, Any], moment: str, ranks: list[int], numbers: list[int]) -> dict[str, Any]:
    """A run in which some ranks get signals at a moment; how it ended, and how many steps and validations it began."""
    from megatron_ft.training import loop, setup
    from megatron_ft.training.ending import Ending, Signals

    checked = setup.prepare(parse(config), process)
    signals = Signals()
    before = {number: signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # pytest may be a background job, which ignores it
    signals.listen()
    try:
        with _calls(moment, numbers if process.rank in ranks else []) as begun:
            end = loop.train(checked, "cpu", ending=Ending(signals))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
    return {"why": end.why, "exit_code": end.exit_code, **begun}


@contextlib.contextmanager
def _calls(moment: str, numbers: list[int]) -> Iterator[dict[str, int]]:
    """Counts steps and passes over validation rows; sends the signals to this process at the moment."""
    from megatron_ft.training import loop, step
    from megatron_ft.training.saver import Saver

    places = {"loop": loop, "step": step, "Saver": Saver}
    begun = {"steps": 0, "validations": 0}
    sent: list[int] = []

    def before_call(name: str, forward_only: bool) -> None:
        begun["steps"] += name == "train_step"
        begun["validations"] += name == "run" and forward_only
        now = MOMENTS.get(moment, ("", ""))[1] == name and not (name == "run" and not forward_only)
        if now and not sent and not (moment == "second step" and begun["steps"] < 2):
            sent.extend(numbers or [0])
            for number in numbers:
                os.kill(os.getpid(), number)

    originals = {}
    for where, name in {*MOMENTS.values(), ("step", "run")}:
        originals[where, name] = original = getattr(places[where], name)

        def call(*arguments: Any, _name: str = name, _original: Any = original, **named: Any) -> Any:
            before_call(_name, named.get("forward_only", False))
            return _original(*arguments, **named)

        setattr(places[where], name, call)
    try:
        yield begun
    finally:
        for (where, name), original in originals.items():
            setattr(places[where], name, original)


def timed(process: Process, *, config: dict[str, Any], limit_s: float, step_ages_s: list[float]) -> dict[str, Any]:
    """A run of which rank 0's clock gives these ages, one for each time it is asked; other ranks' clocks stand still."""
    from megatron_ft.training import loop, setup
    from megatron_ft.training.ending import Ending

    ages = iter(step_ages_s)
    checked = setup.prepare(parse(config), process)
    end = loop.train(checked, "cpu", ending=Ending(limit_s=limit_s, age_s=lambda: next(ages), keeps_time=process.rank == 0))
    return {"why": end.why, "exit_code": end.exit_code}


def validated(process: Process, *, config: dict[str, Any], losses: list[float], cut: int | None = None) -> dict[str, Any]:
    """A run whose validations give these losses, one after the other; with `cut` a signal comes in that one of them."""
    from megatron_ft.training import loop, setup, step
    from megatron_ft.training.ending import Ending
    from megatron_ft.training.step import Totals

    checked = setup.prepare(parse(config), process)
    ending, original, given = Ending(), step.validate, iter(enumerate(losses))

    def validate(*arguments: Any, **named: Any) -> Totals:
        number, loss = next(given)
        ending.signals.requeue = ending.signals.requeue or number == cut
        original(*arguments, **named)
        return Totals(loss, 1, 1, 1, 1)

    step.validate = validate
    try:
        end = loop.train(checked, "cpu", ending=ending)
    finally:
        step.validate = original
    return {"why": end.why, "exit_code": end.exit_code, "left": len(list(given))}


def failing(process: Process, *, config: dict[str, Any], steps: list[int], loss_scale: float = 1.0) -> str:
    """A run in which these steps, counted from 1, come to nothing; its error, or how it ended."""
    import dataclasses

    from megatron_ft.errors import TrainingError
    from megatron_ft.training import loop, setup, step

    checked = setup.prepare(parse(config), process)
    original, update, begun = step.train_step, step.update, []
    scaling = loss_scale > 1

    def train_step(*arguments: Any, **named: Any) -> Any:
        begun.append(1)
        number = checked.loader.position // checked.plan.rows_per_step
        if number not in steps:
            return original(*arguments, **named)
        step.update = lambda optimizer, finite: (False, float("nan"))
        try:
            result = original(*arguments, **named)
        finally:
            step.update = update
        totals = result.totals if scaling else dataclasses.replace(result.totals, loss_sum=float("nan"))
        return dataclasses.replace(result, totals=totals, loss_scale=loss_scale)

    step.train_step = train_step
    try:
        return loop.train(checked, "cpu").why
    except TrainingError as error:
        return f"TrainingError: {error}"
    finally:
        step.train_step = original
