"""Folders of finished runs with verdicts of our choice: nothing is generated and nothing executed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path

from megatron_ft.evaluation import benchmark, report, run
from megatron_ft.evaluation.run_folder import FinishedRun, write_rows
from megatron_ft.evaluation.settings import Settings

VERDICT = {"status": "passed", "reason": "", "seconds": 0.25, "output": ""}


def write(output: Path, source: Path, statuses: Mapping[str, Sequence[str]], *, program: str = "def double(x):\n    return 0\n",
          reason: str = "assert double(2) == 4: 0", printed: str = "", **changed: object) -> FinishedRun:
    """Write a run of python programs and read it again.

    Args:
        source: the benchmark's file.
        statuses: task id -> the verdict on each of its samples.
        changed: settings that differ from those of every such run.
    """
    samples = len(next(iter(statuses.values())))
    asked = {"seed": 3, "scenario": "synthesize", "problems": ",".join(statuses), **changed}
    settings = replace(Settings(benchmark=str(source), output=str(output), generations="elsewhere.json", **asked),
                       samples=samples)
    found = benchmark.find(str(source), settings.languages)
    chosen = {name: benchmark.select(each, problems=settings.problems) for name, each in found.items()}
    rows, results = {}, {}
    for wanted in run.tasks_of(settings, chosen):
        status = statuses[wanted.key[0]][wanted.sample]
        named = dict(zip(("task_id", "scenario", "sample"), wanted.key, strict=True)) | {"language": wanted.task.language}
        text = program if status != "passed" else "right"
        rows[wanted.key] = {**named, "program": text}
        results[wanted.key] = {**named, **VERDICT, "status": status,
                               "program_sha256": sha256(text.encode("utf-8", "surrogatepass")).hexdigest()}
        if status != "passed":
            results[wanted.key] |= {"reason": reason, "output": printed}
    output.mkdir(parents=True)
    identity = run.identity(settings, found, chosen)
    report.write_json(output / "run.json", identity)
    write_rows(output / "samples.jsonl", rows, list(rows))
    write_rows(output / "results.jsonl", results, list(rows))
    facts = {"generation": {}, "settings": asdict(settings), "benchmark": run.described(found),
             "sandbox": {"tool": "bubblewrap"}, "toolchains": {"python": {"python": "3.11.7"}},
             "versions": {"megatron_ft": "0.1.0"}}
    problems = {problem.task_id: problem for each in chosen.values() for problem in each}
    report.write(report.Outcome(facts, identity["bug_types"], problems, rows, results), output)
    return FinishedRun.read(output)
