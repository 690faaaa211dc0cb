"""What an evaluation leaves behind beside its samples and results: summary, tables, a page, files for other tools."""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import megatron_ft
from megatron_ft import cli, log
from megatron_ft.evaluation import benchmark as benchmarks
from megatron_ft.evaluation import harness_files, page, statistics, tables
from megatron_ft.evaluation.benchmark import Problem
from megatron_ft.evaluation.passk import shown
from megatron_ft.evaluation.problem import PACK
from megatron_ft.evaluation.run_folder import SUMMARY, FinishedRun, Key
from megatron_ft.evaluation.verdict import STATUSES

MARKDOWN, PAGE, HARNESS = "summary.md", "report.html", "harness"
PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "scipy")


@dataclass(frozen=True)
class Outcome:
    """Everything that one evaluation found out."""

    facts: Mapping[str, object]
    """What no row of samples or results says: settings, benchmark, generation, sandbox, toolchains, versions."""
    bug_types: Mapping[str, Mapping[str, str]]
    problems: Mapping[str, Problem]
    """By task id; empty where the benchmark's file is not at hand."""
    samples: Mapping[Key, Mapping]
    results: Mapping[Key, Mapping]


def write(outcome: Outcome, folder: Path) -> dict:
    """Write summary.json, summary.md, report.html and what the public harness would have written; returns the summary."""
    rows = outcome.results.values()
    summary = {
        "scores": statistics.scores(rows, outcome.bug_types),
        "averages": statistics.averages(rows),
        "intervals": {"confidence": statistics.CONFIDENCE, "resamples": statistics.RESAMPLES, "seed": statistics.SEED,
                      "method": "percentile bootstrap over problems"},
        "distinct_programs": len({(row["task_id"], row["program_sha256"]) for row in rows}),
        **outcome.facts,
    }
    kind = tables.kind_of(summary)
    summary["scores"] = [{"benchmark": kind.scored_by(row["scenario"]), **row} for row in summary["scores"]]
    write_json(folder / SUMMARY, summary)
    cli.write_text_atomically(folder / MARKDOWN, tables.markdown(summary))
    cli.write_text_atomically(folder / PAGE, page.page(summary, outcome.samples, outcome.results, outcome.problems))
    if not summary["settings"]["shard"]:  # a list with every n-th problem would be read as the first ones
        harness_files.write(summary, outcome.samples, folder / HARNESS)
    return summary


def write_json(path: Path, value: object) -> None:
    """Write a value for people and programs."""
    cli.write_text_atomically(path, json.dumps(value, indent=2) + "\n")


def show(summary: Mapping) -> None:
    """Print pass@k and the verdicts."""
    ks = sorted({k for row in summary["scores"] for k in shown(len(row["pass@k"]))})
    asked = "scenario" if tables.kind_of(summary).name == PACK else "benchmark"
    columns = ["language", asked, "problems", "samples", *(f"pass@{k}" for k in ks), "95% of pass@1", *STATUSES]
    rows = [[row["language"], tables.row_title(summary, row["scenario"]), row["problems"], row["samples"],
             *(f"{row['pass@k'][str(k)]:.4f}" if str(k) in row["pass@k"] else "" for k in ks),
             tables.interval(row["interval"]["1"]), *row["verdicts"].values()] for row in summary["scores"]]
    shard = f", shard {summary['settings']['shard']}" if summary["settings"]["shard"] else ""
    log.table(f"{summary['settings']['mode']} mode{shard}", columns, rows)


def command(argv: Sequence[str]) -> None:
    """`report FOLDER`: make the tables and the page of a finished run again."""
    parser = argparse.ArgumentParser(prog="python -m megatron_ft.evaluate report", description=(
        "Write the summary, the tables and the page of a finished run again, from its samples.jsonl and results.jsonl."))
    parser.add_argument("folder", metavar="FOLDER", help="a run's --output")
    parser.add_argument("--benchmark", default="", help="where the benchmark is now, if it has moved: for the solutions that "
                        "programs are compared with")
    arguments = parser.parse_args(argv)
    run = FinishedRun.read(arguments.folder)
    show(write(of_run(run, benchmark=arguments.benchmark), run.path))
    log.get().info(f"written to {run.path}: {SUMMARY}, {MARKDOWN}, {PAGE}")


def of_run(run: FinishedRun, *, benchmark: str = "") -> Outcome:
    """What a finished run found out."""
    computed = ("scores", "averages", "intervals", "distinct_programs")
    facts = {name: value for name, value in run.summary.items() if name not in computed}
    return Outcome(facts, run.identity["bug_types"], problems_of(run, benchmark), run.samples, run.results)


def problems_of(run: FinishedRun, benchmark: str) -> dict[str, Problem]:
    """The benchmark's problems, if the very file is still there; DataError only where `benchmark` names it."""
    languages = list(run.identity["benchmark"])
    source = benchmark or run.summary["settings"]["benchmark"]
    if not benchmark and not Path(source).exists():
        log.get().warning(f"{source} is gone, so the page shows programs without the benchmark's solutions; name it with "
                          "--benchmark")
        return {}
    found = benchmarks.find(source, languages)
    for language, each in found.items():
        if each.sha256 != run.identity["benchmark"][language]:
            log.get().warning(f"{each.path} is not the file of this run (sha256 {each.sha256[:12]}, then "
                              f"{run.identity['benchmark'][language][:12]}); the page shows no solutions from it")
            return {}
    return {problem.task_id: problem for each in found.values() for problem in each.problems}


def versions() -> dict[str, str]:
    """Versions of what the figures depend on."""
    found = {"megatron_ft": megatron_ft.__version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "absent"
    return found
