"""What a run says of itself while it works: terminal, metrics.jsonl and the trackers; written by rank 0."""

from __future__ import annotations

import contextlib
import datetime
import platform
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import torch

from megatron_ft import cli, log
from megatron_ft.config import Config
from megatron_ft.families.architecture import Architecture
from megatron_ft.runtime.checkpoint_layout import package_versions
from megatron_ft.runtime.groups import Place
from megatron_ft.training import run_folder, throughput, trackers
from megatron_ft.training.plan import Plan
from megatron_ft.training.step import StepResult, Totals

T = TypeVar("T")
PULSE_S = 5.0
"""Seconds between two signs of life: seldom enough for a shared file system, often enough for a person."""


class Metrics:
    """Sums up the steps between two log lines and writes them. Every rank has one; those other than 0 tell their memory.

    To be entered as a context: leaving it closes the files, and an error that leaves it is noted as an event.
    """

    def __init__(self, config: Config, plan: Plan, architecture: Architecture, place: Place, *, first_step: int,
                 validates: bool = False) -> None:
        """Open the run's files; what they hold that is done again is taken out.

        Args:
            first_step: the steps after it are done again.
            validates: and so is its validation.
        """
        self._config, self._plan, self._architecture, self._place = config, plan, architecture, place
        self._interval = throughput.Interval()
        self._stands: dict[str, Any] = {"step": first_step}
        self._peak = throughput.peak_flops(config, place.device)
        self._phase, self._pulse = "", 0.0
        self._is_writer = place.rank == 0
        if not self._is_writer:
            return
        self._dir = Path(config.run.dir)
        self._dir.mkdir(parents=True, exist_ok=True)
        before = run_folder.read(self._dir / run_folder.METRICS)
        kept = run_folder.keep(self._dir / run_folder.METRICS, up_to_step=first_step, validates=validates)
        run_folder.keep(self._dir / run_folder.SPIKES, up_to_step=first_step)
        run_folder.keep(self._dir / run_folder.EVENTS, up_to_step=float("inf"))
        self._trackers = trackers.start(config, first_step=first_step, before=before, kept=kept)
        # A batch job's log has its lines from `step`; a bar in it would only repeat them.
        self._bar = log.progress(total=plan.steps, initial=first_step, unit="step", label="train",
                                 enabled=sys.stderr.isatty())
        self.event("resume" if first_step else "start", first_step, steps=plan.steps, plan=plan.lines(),
                   versions=_versions(place))

    def step(self, number: int, result: StepResult, *, rate: float, seconds: float, data_seconds: float, epoch: float,
             skipped: int) -> None:
        """Take note of optimizer step `number` (counted from 1); write a line when one is due. All ranks must call it.

        Args:
            seconds: of the whole step, `data_seconds` for its batches included.
            skipped: steps of the whole run so far that changed no weight.
        """
        self._interval.add(result, seconds=seconds, data_seconds=data_seconds)
        self._stands = {"step": number, "lr": rate, "epoch": epoch, "rows": number * self._plan.rows_per_step,
                        "skipped_steps": skipped}
        if self._is_writer:
            self._bar.update()
            self._bar.set_postfix(loss=f"{result.totals.loss:.4f}", refresh=False)
        if number % self._config.log.every_steps == 0 or number == self._plan.steps:
            self._training_line()

    def validation(self, number: int, by_tag: dict[str, Totals]) -> None:
        """Write the validation losses after step `number`."""
        if not self._is_writer:
            return
        totals = Totals.sum(by_tag.values())
        parts = "  ".join(f"{tag} {part.loss:.4f}" for tag, part in by_tag.items()) if len(by_tag) > 1 else ""
        log.get().info("step %d/%d  validation loss %.4f over %s supervised tokens%s", number, self._plan.steps, totals.loss,
                       f"{totals.supervised:,}", f"  ({parts})" if parts else "")
        self._write({"step": number, "valid_loss": totals.loss, "valid_supervised_tokens": totals.supervised,
                     "valid": {tag: {"loss": part.loss, "supervised_tokens": part.supervised} for tag, part in by_tag.items()}})

    def phase(self, name: str, number: int) -> None:
        """Let now.json say what the run does after step `number`; written when that changes, and every few seconds."""
        now = time.monotonic()
        if self._is_writer and (name != self._phase or now - self._pulse >= PULSE_S):
            self._phase, self._pulse = name, now
            with contextlib.suppress(OSError):  # a disk that is full for a while must not end the run for a sign of life
                run_folder.write_now(self._dir, {"step": number, "phase": name})

    def in_phase(self, name: str, number: int, items: Iterable[T]) -> Iterator[T]:
        """The items as they are, with a sign of life before each."""
        for item in items:
            self.phase(name, number)
            yield item

    def event(self, kind: str, number: int, **details: Any) -> None:
        """Take note of something that happened after step `number`, for the report."""
        if self._is_writer:
            run_folder.append(self._dir / run_folder.EVENTS, {"step": number, "event": kind, **details})

    def end(self, number: int, **details: Any) -> None:
        """The run ends after step `number`: write a line of the steps since the last one. All ranks must call it."""
        if self._interval.steps:
            self._training_line()
        self.event("end", number, **details)

    def __enter__(self) -> Metrics:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if not self._is_writer:
            return
        if kind is not None:
            self.event("failed", self._stands["step"], error=f"{kind.__name__}: {error}", exit_code=cli.outcome(error)[0])
        self._bar.close()
        for tracker in self._trackers:
            tracker.close()

    def _training_line(self) -> None:
        memory = throughput.largest_over_ranks(throughput.peak_memory(self._place.device), self._place.device)
        interval, self._interval = self._interval, throughput.Interval()
        if not self._is_writer:
            return
        line = {**self._stands, "memory_bytes": memory[0],
                **interval.figures(self._plan, self._config, self._architecture, peak=self._peak)}
        if self._place.device == "cuda":
            line["reserved_bytes"] = memory[1]
        line["eta_s"] = (self._plan.steps - line["step"]) * line["seconds_per_step"]
        log.get().info("step %d/%d  %s", line["step"], self._plan.steps, described(line))
        self._write(line)

    def _write(self, line: dict[str, Any]) -> None:
        run_folder.append(self._dir / run_folder.METRICS, line)
        for tracker in self._trackers:
            tracker.write(line)


def described(line: dict[str, Any]) -> str:
    """A training line of metrics.jsonl as the terminal shows it.

    >>> described({"loss": 0.0113, "lr": 3.05e-4, "grad_norm": 0.019, "tokens_per_s": 5920.4, "tflops_per_gpu": 0.0123,
    ...            "memory_bytes": 61.2e9, "supervised_share": 0.58, "padding_share": 0.05, "eta_s": 2.1, "skipped_steps": 0})
    'loss 0.0113  lr 3.05e-04  grad norm 0.02  5,920 tokens/s  0.0123 TFLOP/s  61.2 GB  supervised 58%  padding 5%  ETA 0:00:02'
    """
    speed = f"MFU {line['mfu']:.1%}" if "mfu" in line else f"{line['tflops_per_gpu']:.3g} TFLOP/s"
    parts = [f"loss {line['loss']:.4f}", f"lr {line['lr']:.2e}", f"grad norm {line['grad_norm']:.2f}",
             f"{line['tokens_per_s']:,.0f} tokens/s", speed, f"{line['memory_bytes'] / 1e9:.3g} GB",
             f"supervised {line['supervised_share']:.0%}", f"padding {line['padding_share']:.0%}"]
    if "loss_scale" in line:
        parts.append(f"scale {line['loss_scale']:g}")
    if line["skipped_steps"]:
        parts.append(f"{line['skipped_steps']} skipped")
    return "  ".join([*parts, f"ETA {datetime.timedelta(seconds=round(line['eta_s']))}"])


def _versions(place: Place) -> dict[str, str]:
    device = torch.cuda.get_device_name() if place.device == "cuda" else "CPU"
    return {"device": f"{place.size} x {device}", "python": platform.python_version(), **package_versions()}
