"""The report of one run, or of several side by side, as one HTML page that needs nothing else."""

from __future__ import annotations

import datetime
import statistics
import textwrap
import time
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Any

from megatron_ft import __version__
from megatron_ft.config import fields
from megatron_ft.runtime.checkpoint_files import readable
from megatron_ft.training import run_folder, status_facts
from megatron_ft.training.report_chart import Mark, Series, chart, short
from megatron_ft.training.report_style import CSS, SCRIPT
from megatron_ft.training.run_record import UNSET, RunRecord, defaults

EVENTS_OPEN, SPIKES_SHOWN, WORST_SHOWN = 12, 20, 3


def page(records: Sequence[RunRecord]) -> str:
    """The whole page. Everything that comes out of files is escaped."""
    names = ", ".join(record.name for record in records)
    sections = [_glance(records), _section("Curves", f'<div class="charts">{"".join(charts(records))}</div>'),
                *(_events(record, records) for record in records), *(_spikes(record, records) for record in records),
                *(_checkpoints(record, records) for record in records), _config(records),
                *(_plan(record, records) for record in records)]
    return ('<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
            f"<title>{escape(names)}</title><style>{CSS}</style></head>\n<body><h1>{escape(names)}</h1>"
            f'<p class="soft">{_clock(time.time())}, by megatron_ft {escape(__version__)}</p>\n'
            f"{''.join(sections)}<script>{SCRIPT}</script></body></html>\n")


def charts(records: Sequence[RunRecord]) -> list[str]:
    """The curves; one that no run has figures for is left out."""
    alone = len(records) == 1
    marks = _marks(records[0]) if alone else []

    def of(field: str, *, name: str = "", dashed: bool = False, scale: float = 1.0, colour: int = 0) -> list[Series]:
        return [Series(" ".join(filter(None, [record.name if not alone else "", name])) or "last",
                       [(step, value * scale) for step, value in record.points(field)], number + colour, dashed)
                for number, record in enumerate(records)]

    second = 1 if alone else 0  # a run among others has one colour, alone it has one for each curve
    drawn = [chart("Loss", [*of("loss", name="training"), *of("valid_loss", name="validation", dashed=True, colour=second)],
                   unit="nats per supervised token or answer", marks=marks, may_be_log=True), *_by_tag(records, marks),
             chart("Learning rate", of("lr"), marks=marks),
             chart("Gradient norm", of("grad_norm"), unit="before clipping", marks=marks, may_be_log=True),
             chart("Tokens per second and GPU", of("tokens_per_s_per_gpu"), marks=marks, from_zero=True),
             chart("MFU", of("mfu", scale=100), unit="% of the peak", marks=marks, from_zero=True),
             chart("Model TFLOP/s per GPU", of("tflops_per_gpu"), marks=marks, from_zero=True),
             chart("Time of a step", [*of("seconds_per_step", name="whole"),
                                      *of("data_seconds_per_step", name="data", dashed=True, colour=second)],
                   unit="seconds", marks=marks, from_zero=True),
             chart("Memory", [*of("memory_bytes", name="used", scale=1e-9),
                              *of("reserved_bytes", name="reserved", dashed=True, colour=second, scale=1e-9)],
                   unit="GB, rank with most", marks=marks, from_zero=True),
             chart("What rows hold", [*of("supervised_share", name="supervised", scale=100),
                                      *of("padding_share", name="padding", dashed=True, colour=second, scale=100)],
                   unit="%: supervised of tokens, padding of positions", marks=marks, from_zero=True),
             chart("Loss scale", of("loss_scale"), marks=marks, may_be_log=True)]
    if any(value for record in records for _, value in record.points("skipped_steps")):
        drawn.append(chart("Skipped steps", of("skipped_steps"), marks=marks))
    return [figure for figure in drawn if figure] or ['<p class="soft">No line of metrics yet.</p>']


def _by_tag(records: Sequence[RunRecord], marks: Sequence[Mark]) -> list[str]:
    tags = list(dict.fromkeys(tag for record in records for tag in record.tags()))
    if len(tags) < 2:
        return []
    unit = "nats per supervised token or answer"
    if len(records) == 1:
        series = [Series(tag, points, number) for number, (tag, points) in enumerate(records[0].tags().items())]
        return [chart("Validation loss by tag", series, unit=unit, marks=marks, may_be_log=True)]
    return [chart(f"Validation loss: {tag}", [Series(record.name, record.tags().get(tag, []), number)
                                              for number, record in enumerate(records)], unit=unit, may_be_log=True)
            for tag in tags]


def _marks(record: RunRecord) -> list[Mark]:
    resumes = [Mark(event["step"], "resume") for event in record.events if event.get("event") == "resume"]
    return resumes + [Mark(line["step"], "skipped" if line.get("reason") == run_folder.NOT_FINITE else "spike")
                      for line in record.spikes]


def state(record: RunRecord) -> str:
    """What it does, or how it ended, as `megatron_ft.status` says it."""
    return textwrap.shorten(status_facts.of(record).sentence, 160, placeholder=" ...")


def _glance(records: Sequence[RunRecord]) -> str:
    def last(field: str, write: Callable[[float], str]) -> Callable[[RunRecord], str]:
        return lambda record: write(record.points(field)[-1][1]) if record.points(field) else "-"

    def best(record: RunRecord) -> str:
        points = record.points("valid_loss")
        step, value = min(points, key=lambda point: point[1]) if points else (0, 0.0)
        return f"{points[-1][1]:.4f}; best {value:.4f} after step {int(step):,}" if points else "-"

    def median(field: str, write: Callable[[float], str]) -> Callable[[RunRecord], str]:
        return lambda record: write(statistics.median(dict(record.points(field)).values())) if record.points(field) else "-"

    rows: list[tuple[str, Callable[[RunRecord], str]]] = [
        ("state", state), ("folder", lambda record: str(record.folder)),
        ("step", lambda record: f"{max((line['step'] for line in record.metrics), default=0):,}"),
        ("epoch", last("epoch", lambda value: f"{value:.2f}")), ("loss", last("loss", lambda value: f"{value:.4f}")),
        ("validation loss", best), ("tokens/s, median", median("tokens_per_s", lambda value: f"{value:,.0f}")),
        ("MFU, median", median("mfu", lambda value: f"{value:.1%}")),
        ("model TFLOP/s per GPU, median", median("tflops_per_gpu", short)),
        ("memory, rank with most", last("memory_bytes", lambda value: readable(int(value)))),
        ("skipped steps", last("skipped_steps", lambda value: f"{int(value):,}")),
        ("steps in spikes.jsonl", lambda record: f"{len(record.spikes):,}"),
        ("started", lambda record: _clock(record.events[0].get("time")) if record.events else "-"),
        ("last written", lambda record: _clock(record.heard)), ("devices", lambda record: _versions(record).get("device", "-"))]
    head = ["", *(record.name for record in records)] if len(records) > 1 else None
    cells = [[name, *(write(record) for record in records)] for name, write in rows]
    return _section("At a glance", _table(head, [row for row in cells if set(row[1:]) != {"-"}]))


def _events(record: RunRecord, records: Sequence[RunRecord]) -> str:
    told = {"plan", "versions", "step", "event", "time"}
    rows = [[_clock(event.get("time")), str(event["step"]), str(event.get("event", "")),
             ", ".join(f"{name} {value}" for name, value in event.items() if name not in told)] for event in record.events]
    table = _table(["when", "step", "event", ""], rows)
    folded = f"<details><summary>{len(rows):,} events</summary>{table}</details>" if len(rows) > EVENTS_OPEN else table
    return _section(_title("Events", record, records), folded)


def _spikes(record: RunRecord, records: Sequence[RunRecord]) -> str:
    rows = []
    for line in record.spikes[-SPIKES_SHOWN:]:
        worst = [f"{each.get('document')} of {each.get('prefix')} ({_loss(each.get('loss'))})"
                 for each in line.get("documents", [])[:WORST_SHOWN]]
        rows.append([str(line["step"]), str(line.get("reason", "")), _loss(line.get("loss")), _loss(line.get("mean_before")),
                     str(len(line.get("documents", []))), "; ".join(worst)])
    if not rows:
        return ""
    left = f"<p class='soft'>the last {SPIKES_SHOWN} of {len(record.spikes):,}</p>" if len(record.spikes) > SPIKES_SHOWN else ""
    command = f"python preprocess/inspect_dataset.py --documents-from {record.folder / run_folder.SPIKES}"
    table = _table(["step", "why", "loss", "mean before", "documents", "worst documents (loss)"], rows)
    return _section(_title("Steps with a spike or skipped", record, records),
                    f"{left}{table}<p class='soft'>Their text:</p><pre>{escape(command)}</pre>")


def _checkpoints(record: RunRecord, records: Sequence[RunRecord]) -> str:
    rows = [[f"{each.step:,}", readable(each.bytes), _clock(each.written),
             (f"unfinished: {', '.join(each.missing)} missing" if each.missing else "complete")
             + (", the latest" if each.is_latest else "")] for each in record.checkpoints]
    table = _table(["step", "size", "written", ""], rows) if rows else '<p class="soft">none</p>'
    return _section(_title("Checkpoints", record, records), table)


def _config(records: Sequence[RunRecord]) -> str:
    known, help_lines = defaults(), {name: text for name, (_, text) in fields().items()}
    names = dict.fromkeys(name for record in records for name in record.settings)
    changed, rows = [], []
    for name in names:
        values = [record.settings.get(name, UNSET) for record in records]
        row = [name, *values, known.get(name, "-"), help_lines.get(name, "")]
        rows.append(row)
        if any(value != known.get(name) for value in values):
            changed.append(row)
    if not rows:
        return _section("Config", f'<p class="soft">no {run_folder.CONFIG} that can be read</p>')
    head = ["field", *([record.name for record in records] if len(records) > 1 else ["value"]), "default", "meaning"]
    differing = {row[0] for row in rows if len(set(row[1:-2])) > 1}
    shown = _table(head, changed, code=len(records) + 2, bold=differing)
    note = "What differs from the defaults" + (", in bold what differs between the runs" if len(records) > 1 else "")
    whole = _table(head, rows, code=len(records) + 2, bold={row[0] for row in changed})
    summary = f"all {len(rows)} fields, in bold what differs from the defaults"
    return _section("Config", f'<p class="soft">{note}:</p>{shown}<details><summary>{summary}</summary>{whole}</details>')


def _plan(record: RunRecord, records: Sequence[RunRecord]) -> str:
    lines, versions = record.last("plan").get("plan", []), _versions(record)
    if not lines and not versions:
        return ""
    table = _table(None, [[name, str(version)] for name, version in versions.items()])
    plan = "\n".join(map(str, lines))
    return _section(_title("Plan and versions", record, records), f"<pre>{escape(plan)}</pre>{table}")


def _versions(record: RunRecord) -> dict[str, Any]:
    return record.last("versions").get("versions", {})


def _title(what: str, record: RunRecord, records: Sequence[RunRecord]) -> str:
    return what if len(records) == 1 else f"{what}: {record.name}"


def _section(title: str, body: str) -> str:
    return f"<h2>{escape(title)}</h2>\n{body}\n"


def _table(head: Sequence[str] | None, rows: Iterable[Sequence[str]], *, code: int = 0, bold: Iterable[str] = ()) -> str:
    """A table of plain text.

    Args:
        code: columns from the left that are set as code.
        bold: rows whose first cell is one of these.
    """
    emphasized = set(bold)
    lines = []
    for row in rows:
        cells = "".join(f'<td{" class=mono" if at < code else ""}>{escape(str(cell))}</td>' for at, cell in enumerate(row))
        lines.append(f'<tr{" class=changed" if row[0] in emphasized else ""}>{cells}</tr>')
    top = f"<tr>{''.join(f'<th>{escape(name)}</th>' for name in head)}</tr>" if head else ""
    return f'<div class="scroll"><table>{top}{"".join(lines)}</table></div>'


def _loss(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _clock(seconds: float | None) -> str:
    return "-" if seconds is None else f"{datetime.datetime.fromtimestamp(seconds):%Y-%m-%d %H:%M:%S}"
