"""Generates answers: from requests to completions, with whatever engine computes, and with figures of how fast."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Protocol

from tqdm import tqdm

from megatron_ft import log
from megatron_ft.evaluation.batching import Completion, Request, Row, Sampling, Wrote, row_of
from megatron_ft.evaluation.encoding import PromptEncoder
from megatron_ft.evaluation.model_folder import Outline


class Engine(Protocol):
    """What computes answers: this process, several processes, or vLLM."""

    outline: Outline
    """Of the model that answers."""

    def answers(self, rows: Sequence[Row], sampling: Sampling, wrote: Wrote) -> Iterator[tuple[Row, Completion]]:
        """Every row with its completion, as soon as it is over, in any order."""


@dataclass
class Report:
    """Figures of one generation."""

    samples: int = 0
    tokens: int = 0
    seconds: float = 0.0
    capped: int = 0
    """Samples that got fewer than max_new_tokens, because the model has no more positions."""
    by_length: int = 0
    """Samples that ended because their tokens were used up."""

    def __add__(self, other: Report) -> Report:
        return Report(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))

    def as_dict(self) -> dict[str, float]:
        """For the summary."""
        rate = round(self.tokens / self.seconds, 1) if self.seconds else 0.0
        return {**asdict(self), "seconds": round(self.seconds, 2), "tokens_per_s": rate}


def generate(engine: Engine, requests: Sequence[Request], sampling: Sampling,
             keep: Callable[[Request, Completion], None]) -> Report:
    """A completion for every request, handed to `keep` as soon as it is over."""
    outline = engine.outline
    encoder = PromptEncoder(outline.tokenizer)
    rows = [row_of(request, encoder.encode(request.prompt), outline.positions, sampling.max_new_tokens) for request in requests]
    report = Report(samples=len(rows), capped=sum(row.room < sampling.max_new_tokens for row in rows))
    if report.capped:
        log.get().warning(f"{report.capped} of {len(rows)} prompts leave fewer than --max-new-tokens "
                          f"{sampling.max_new_tokens} of the model's {outline.positions} positions; they get the rest")
    begun = time.monotonic()
    with log.progress(total=len(rows), unit="sample", label="generate") as bar:
        meter = Meter(bar)
        for row, completion in engine.answers(rows, sampling, meter.wrote):
            keep(row.request, completion)
            report.tokens += completion.tokens
            report.by_length += completion.finish == "length"
            bar.update()
        meter.show()
    report.seconds = time.monotonic() - begun
    return report


class Meter:
    """Tokens per second beside a bar of samples, which moves only when one is over."""

    def __init__(self, bar: tqdm, clock: Callable[[], float] = time.monotonic) -> None:
        self._bar, self._clock = bar, clock
        self._begun = self._shown = clock()
        self._tokens = 0

    def wrote(self, tokens: int) -> None:
        """Count tokens; draws the bar anew where that is due."""
        self._tokens += tokens
        if self._clock() - self._shown >= self._bar.mininterval:
            self.show()

    def show(self) -> None:
        """Draw the bar."""
        self._shown = self._clock()
        self._bar.set_postfix_str(f"{self._tokens / max(self._shown - self._begun, 1e-9):.0f} tokens/s")
