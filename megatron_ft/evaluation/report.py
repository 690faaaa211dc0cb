"""What an evaluation leaves behind beside its samples and results: a summary, and a table on the screen."""

from __future__ import annotations

import json
import platform
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from importlib import metadata
from pathlib import Path

import megatron_ft
from megatron_ft import log
from megatron_ft.evaluation.benchmark import Benchmark
from megatron_ft.evaluation.passk import pass_at_k
from megatron_ft.evaluation.run_folder import Key
from megatron_ft.evaluation.settings import Settings
from megatron_ft.evaluation.verdict import STATUSES

PACKAGES = ("torch", "transformers", "tokenizers", "numpy")


@dataclass(frozen=True)
class Outcome:
    """Everything that one evaluation found out."""

    settings: Settings
    benchmarks: Mapping[str, Benchmark]
    samples: Mapping[Key, Mapping]
    results: Mapping[Key, Mapping]
    generation: Mapping[str, float] | None
    toolchains: Mapping[str, Mapping[str, str]]
    sandbox: Mapping[str, object]


def scores(results: Mapping[Key, Mapping]) -> list[dict]:
    """For each language and scenario, in the results' order: problems, samples, pass@k and verdicts."""
    rows: dict[tuple[str, str], list[Mapping]] = defaultdict(list)
    for row in results.values():
        rows[row["language"], row["scenario"]].append(row)
    return [{"language": language, "scenario": scenario, **score(each)} for (language, scenario), each in rows.items()]


def score(rows: list[Mapping]) -> dict:
    """Problems, samples, pass@k and verdicts of some results."""
    samples, passed = Counter(), Counter()
    for row in rows:
        samples[row["task_id"]] += 1
        passed[row["task_id"]] += row["status"] == "passed"
    found = Counter(row["status"] for row in rows)
    values = pass_at_k([(number, passed[task_id]) for task_id, number in samples.items()])
    return {"problems": len(samples), "samples": len(rows), "pass@k": {str(k): value for k, value in values.items()},
            "verdicts": {status: found[status] for status in STATUSES}}


def write(outcome: Outcome, folder: Path) -> dict:
    """Write summary.json into a folder; returns the summary."""
    result = {
        "scores": scores(outcome.results),
        "distinct_programs": len({(row["task_id"], row["program_sha256"]) for row in outcome.results.values()}),
        "generation": outcome.generation,
        "settings": asdict(outcome.settings),
        "benchmark": {name: {"path": str(benchmark.path), "sha256": benchmark.sha256, "problems": len(benchmark.problems)}
                      for name, benchmark in outcome.benchmarks.items()},
        "sandbox": dict(outcome.sandbox),
        "toolchains": {name: dict(versions) for name, versions in outcome.toolchains.items()},
        "versions": versions(),
    }
    (folder / "summary.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


def show(result: Mapping) -> None:
    """Print pass@k and the verdicts."""
    ks = list(dict.fromkeys(k for row in result["scores"] for k in row["pass@k"]))
    columns = ["language", "scenario", "problems", "samples", *(f"pass@{k}" for k in ks), *STATUSES]
    rows = [[row["language"], row["scenario"], row["problems"], row["samples"],
             *(f"{row['pass@k'][k]:.4f}" if k in row["pass@k"] else "" for k in ks), *row["verdicts"].values()]
            for row in result["scores"]]
    log.table(f"{result['settings']['mode']} mode", columns, rows)


def program_sha256(program: str) -> str:
    """What identifies a program's text."""
    return sha256(program.encode("utf-8", "surrogatepass")).hexdigest()


def versions() -> dict[str, str]:
    """Versions of what the figures depend on."""
    found = {"megatron_ft": megatron_ft.__version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "absent"
    return found
