"""What a run says of itself while it works: terminal, metrics.jsonl and TensorBoard; written by rank 0 alone."""

from __future__ import annotations

import datetime
import json
import sys
import time
from pathlib import Path
from typing import Any

from megatron_ft import cli, log
from megatron_ft.training.plan import Plan
from megatron_ft.training.step import StepResult, Totals

METRICS_FILE = "metrics.jsonl"


class Metrics:
    """Sums up the steps between two log lines and writes them; on other ranks than 0 every method does nothing."""

    def __init__(self, run_dir: Path, plan: Plan, *, first_step: int, every_steps: int, tensorboard: bool,
                 enabled: bool) -> None:
        self.enabled = enabled
        self._plan, self._every = plan, every_steps
        if not enabled:
            return
        run_dir.mkdir(parents=True, exist_ok=True)
        self._path = run_dir / METRICS_FILE
        drop_after(self._path, first_step)
        self._board = _board(run_dir, first_step) if tensorboard else None
        # A batch job's log has its lines from `step`; a bar in it would only repeat them.
        self._bar = log.progress(total=plan.steps, initial=first_step, unit="step", label="train",
                                 enabled=sys.stderr.isatty())
        self._results: list[StepResult] = []
        self._seconds = 0.0

    def step(self, number: int, result: StepResult, *, rate: float, seconds: float, epoch: float) -> None:
        """Take note of optimizer step `number` (counted from 1); write a line when one is due."""
        if not self.enabled:
            return
        self._results.append(result)
        self._seconds += seconds
        self._bar.update()
        self._bar.set_postfix(loss=f"{result.totals.loss:.4f}", refresh=False)
        if number % self._every == 0 or number == self._plan.steps:
            self._write(number, self._summary(number, rate, epoch))
            self._results, self._seconds = [], 0.0

    def validation(self, number: int, by_tag: dict[str, Totals]) -> None:
        """Write the validation losses after step `number`."""
        if not self.enabled:
            return
        totals = Totals.sum(by_tag.values())
        log.get().info("step %d/%d  validation loss %.4f over %s supervised tokens", number, self._plan.steps, totals.loss,
                       f"{totals.supervised:,}")
        self._append({"step": number, "valid_loss": totals.loss, "valid_supervised_tokens": totals.supervised})
        if self._board:
            self._board.add_scalar("validation/loss", totals.loss, number)

    def close(self) -> None:
        """Flush what is buffered."""
        if not self.enabled:
            return
        self._bar.close()
        if self._board:
            self._board.close()

    def _summary(self, number: int, rate: float, epoch: float) -> dict[str, Any]:
        totals = [result.totals for result in self._results]
        tokens, supervised = sum(t.tokens for t in totals), sum(t.supervised for t in totals)
        positions = len(totals) * self._plan.rows_per_step * self._plan.row_tokens
        per_step = self._seconds / len(totals)
        return {"step": number, "loss": sum(t.loss_sum for t in totals) / max(1, sum(t.weight for t in totals)),
                "lr": rate, "grad_norm": self._results[-1].grad_norm, "tokens_per_s": tokens / self._seconds,
                "supervised_share": supervised / max(1, tokens), "row_fill": tokens / positions,
                "seconds_per_step": per_step, "eta_s": (self._plan.steps - number) * per_step, "epoch": epoch,
                "rows": number * self._plan.rows_per_step}

    def _write(self, number: int, line: dict[str, Any]) -> None:
        eta = datetime.timedelta(seconds=round(line["eta_s"]))
        log.get().info("step %d/%d  loss %.4f  lr %.2e  grad norm %.3f  %s tokens/s  supervised %.0f%%  fill %.0f%%  ETA %s",
                       number, self._plan.steps, line["loss"], line["lr"], line["grad_norm"],
                       f"{line['tokens_per_s']:,.0f}", 100 * line["supervised_share"], 100 * line["row_fill"], eta)
        self._append(line)
        if self._board:
            for name in ("loss", "lr", "grad_norm", "tokens_per_s", "supervised_share", "row_fill"):
                self._board.add_scalar(f"train/{name}", line[name], number)

    def _append(self, line: dict[str, Any]) -> None:
        with open(self._path, "a", encoding="utf-8") as stream:
            stream.write(json.dumps({**line, "time": round(time.time(), 3)}) + "\n")


def read(run_dir: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl, oldest first."""
    with open(run_dir / METRICS_FILE, encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]


def drop_after(path: Path, step: int) -> None:
    """Take lines of steps after `step` out of a metrics file: a resumed run does those steps again."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError):
            continue  # the line that was being written when the run was killed
    cli.write_text_atomically(path, "".join(kept))


def _board(run_dir: Path, first_step: int) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(run_dir / "tensorboard"), purge_step=first_step + 1)
