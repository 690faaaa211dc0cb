"""Training data without the benchmark: drops the rows that hold a problem's solution, docstring or test."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from megatron_ft import log
from megatron_ft.curation.benchmark_index import Hit, Settings, index
from megatron_ft.curation.output import beside, require_writable, short, show_counts, write_report, writing
from megatron_ft.curation.stream import BadRows, OnBadRow, Source, good_rows
from megatron_ft.curation.texts import strings
from megatron_ft.data.input_files import Chunk
from megatron_ft.data.rows import Dropped

LISTED = 10_000
"""Dropped rows that are listed in the report; the others are counted."""
SHOWN = 20
EXCERPT_SHOWN = 60


@dataclasses.dataclass
class Searched:
    """What a chunk gave."""

    kept: bytes
    rows: int
    hits: list[tuple[str, list[Hit]]]
    """Of each dropped row its source and what is in it."""
    bad: list[tuple[str, str]]


@dataclasses.dataclass(frozen=True)
class Search:
    """Looks for the benchmark in a chunk, in any process."""

    settings: Settings
    on_bad_row: OnBadRow = "stop"

    def __call__(self, chunk: Chunk) -> Searched:
        """The rows without anything of the benchmark, in order."""
        benchmark, bad = index(self.settings), BadRows(self.on_bad_row)
        rows, kept, hits = 0, [], []
        for row in good_rows(chunk, bad):
            rows += 1
            found = benchmark.find(list(strings(row.value)))
            if found:
                hits.append((row.source, found))
            else:
                kept.append(row.to_line())
        return Searched(b"".join(kept), rows, hits, bad.found)


def run(inputs: Sequence[str], output: str | Path, settings: Settings, *, workers: int = 1, on_bad_row: OnBadRow = "stop",
        split: str = "train") -> dict[str, Any]:
    """Write the rows that hold nothing of the benchmark to OUTPUT; returns what is in OUTPUT.report.json.

    All strings of a row are searched, at any depth. The outputs do not depend on `workers`.
    """
    output = Path(output)
    require_writable(("--output", output), ("--output", beside(output, "report.json")))
    benchmark, source = index(settings), Source(inputs, split=split)
    rows, bad, hits, tasks, dropped = 0, Dropped(), [], collections.Counter[str](), 0
    with writing(output) as (kept,):
        for result in source.map(Search(settings, on_bad_row), workers=workers, label="decontaminate"):
            kept.write(result.kept)
            rows += result.rows
            for place, found in result.hits:
                dropped += 1
                tasks.update(hit.task_id for hit in found)
                if len(hits) < LISTED:
                    hits.append({"row": place} | dataclasses.asdict(found[0]) | {"problems": [hit.task_id for hit in found]})
            for reason, place in result.bad:
                bad.add(reason, place)
    return write_report(
        output, command="decontaminate", inputs=source.describe(), bad_rows=bad.by_reason,
        counts={"rows": rows + bad.rows, "kept": rows - dropped, "dropped": dropped, "bad": bad.rows},
        settings=dataclasses.asdict(settings), hits=hits, hits_by_problem=dict(tasks.most_common()),
        benchmark={"files": benchmark.files, "problems": benchmark.problems, "passages": len(benchmark.passages),
                   "too_short": benchmark.short})


def show(report: dict[str, Any]) -> None:
    """Print the first dropped rows and what is in them."""
    if report["hits"]:
        log.table(f"the first of {report['counts']['dropped']:,} rows that hold something of the benchmark",
                  ["row", "problem", "field", "share", "text"],
                  [[short(hit["row"]), hit["task_id"], hit["field"], f"{hit['share']:.0%}", _one_line(hit["text"])]
                   for hit in report["hits"][:SHOWN]])
    benchmark = report["benchmark"]
    log.get().info("searched for %d passages of %d problems; %d are too short to be told from ordinary code (listed in the "
                   "report)", benchmark["passages"], benchmark["problems"], len(benchmark["too_short"]))
    show_counts(report)


def _one_line(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= EXCERPT_SHOWN else text[:EXCERPT_SHOWN - 3] + "..."
