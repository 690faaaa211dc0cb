"""What an evaluation leaves behind: samples, results and a summary in one folder, and a table on the screen."""

from __future__ import annotations

import json
import platform
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from importlib import metadata
from pathlib import Path

import megatron_ft
from megatron_ft import log
from megatron_ft.evaluation.benchmark import Benchmark
from megatron_ft.evaluation.execution import Attempt
from megatron_ft.evaluation.passk import pass_at_k
from megatron_ft.evaluation.settings import Settings
from megatron_ft.evaluation.verdict import STATUSES, Verdict

PACKAGES = ("torch", "transformers", "tokenizers", "numpy")


@dataclass(frozen=True)
class Outcome:
    """Everything that one evaluation found out."""

    settings: Settings
    benchmark: Benchmark
    attempts: Sequence[Attempt]
    completions: Sequence[Mapping[str, object]]
    """What was generated for each attempt: completion, tokens, finish."""
    verdicts: Sequence[Verdict]
    generation: Mapping[str, float] | None
    toolchain: Mapping[str, str]
    sandbox: Mapping[str, object]


def counts(outcome: Outcome) -> dict[str, tuple[int, int]]:
    """(samples, passed) of each problem, in the benchmark's order."""
    samples, passed = Counter(), Counter()
    for attempt, verdict in zip(outcome.attempts, outcome.verdicts, strict=True):
        samples[attempt.problem.task_id] += 1
        passed[attempt.problem.task_id] += verdict.passed
    return {task_id: (number, passed[task_id]) for task_id, number in samples.items()}


def summary(outcome: Outcome) -> dict:
    """The summary as it is written, pass@k first."""
    found = counts(outcome)
    statuses = Counter(verdict.status for verdict in outcome.verdicts)
    return {
        "language": outcome.settings.language,
        "scenario": outcome.settings.scenario,
        "problems": len(found),
        "samples": len(outcome.attempts),
        "pass@k": {str(k): value for k, value in pass_at_k(list(found.values())).items()},
        "verdicts": {status: statuses[status] for status in STATUSES},
        "distinct_programs": len({(attempt.problem.task_id, attempt.program) for attempt in outcome.attempts}),
        "generation": outcome.generation,
        "settings": asdict(outcome.settings),
        "benchmark": {"path": str(outcome.benchmark.path), "sha256": outcome.benchmark.sha256,
                      "problems": len(outcome.benchmark.problems)},
        "sandbox": dict(outcome.sandbox),
        "toolchain": dict(outcome.toolchain),
        "versions": versions(),
    }


def write(outcome: Outcome, folder: Path) -> dict:
    """Write samples.jsonl, results.jsonl and summary.json into a folder; returns the summary."""
    _write_lines(folder / "samples.jsonl", (
        {"task_id": attempt.problem.task_id, "sample": attempt.sample, **completion, "program": attempt.program}
        for attempt, completion in zip(outcome.attempts, outcome.completions, strict=True)))
    _write_lines(folder / "results.jsonl", (
        {"task_id": attempt.problem.task_id, "sample": attempt.sample, **asdict(verdict),
         "program_sha256": sha256(attempt.program.encode("utf-8", "surrogatepass")).hexdigest()}
        for attempt, verdict in zip(outcome.attempts, outcome.verdicts, strict=True)))
    result = summary(outcome)
    (folder / "summary.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


def show(result: Mapping) -> None:
    """Print pass@k and the verdicts."""
    title = f"{result['language']} {result['scenario']}: {result['problems']} problems, {result['samples']} samples"
    columns = [f"pass@{k}" for k in result["pass@k"]] + list(result["verdicts"])
    row = [f"{value:.4f}" for value in result["pass@k"].values()] + list(result["verdicts"].values())
    log.table(title, columns, [row])


def versions() -> dict[str, str]:
    """Versions of what the figures depend on."""
    found = {"megatron_ft": megatron_ft.__version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def _write_lines(path: Path, rows: Iterable[Mapping]) -> None:
    with open(path, "w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows)
