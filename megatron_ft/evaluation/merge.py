"""Joins the shards of a run into the folder that one process would have written."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence

from megatron_ft import cli, log
from megatron_ft.errors import ConfigError, DataError
from megatron_ft.evaluation import report, shards
from megatron_ft.evaluation.run_folder import IDENTITY, RESULTS, SAMPLES, FinishedRun, Key, differing, write_rows
from megatron_ft.evaluation.scenarios import DESCRIBED
from megatron_ft.evaluation.shards import Shard

NAMES = 3  # of samples in an error
RATE = "tokens_per_s"


def command(argv: Sequence[str]) -> None:
    """`merge --output OUT PART...`."""
    parser = argparse.ArgumentParser(prog="python -m megatron_ft.evaluate merge", description=(
        "Join the finished folders of all shards of a run. samples.jsonl and results.jsonl become what one run writes."))
    parser.add_argument("--output", required=True, help="folder to make")
    parser.add_argument("--benchmark", default="", help="where the benchmark is now, if it has moved: for the solutions that "
                        "programs are compared with")
    parser.add_argument("parts", metavar="PART", nargs="+", help="the --output of a shard, in any order")
    arguments = parser.parse_args(argv)
    report.show(merge(arguments.parts, arguments.output, benchmark=arguments.benchmark))
    log.get().info(f"written to {arguments.output}")


def merge(parts: Sequence[str], output: str, *, benchmark: str = "") -> dict:
    """Write the merged folder; returns its summary.

    Raises ConfigError for folders that are not all the shards of one run, each once; DataError for rows that are missing or
    too many.
    """
    path = cli.require_absent(output, option="--output")
    runs = in_order([FinishedRun.read(part) for part in parts])
    identity = {**runs[0].identity, "shard": ""}
    order = keys(identity)
    samples = joined(runs, order, SAMPLES)
    results = joined(runs, [key for key in order if key[1] != DESCRIBED], RESULTS)
    settings = {**runs[0].summary["settings"], "shard": "", "output": str(output)}
    facts = {**runs[0].summary, "settings": settings, "generation": generation(runs), "execution": execution(runs),
             "toolchains": toolchains(runs), "merged": [str(run.path) for run in runs]}
    with cli.write_beside(path) as folder:
        write_rows(folder / SAMPLES, samples, order)
        write_rows(folder / RESULTS, results, order)
        report.write_json(folder / IDENTITY, identity)
        whole = FinishedRun(folder, identity, facts, samples, results)
        return report.write(report.of_run(whole, benchmark=benchmark), folder)


def in_order(runs: Sequence[FinishedRun]) -> list[FinishedRun]:
    """The shards from the first to the last; ConfigError names what is missing, double, or of another run."""
    first = runs[0]
    for run in runs[1:]:
        other = differing({**first.identity, "shard": ""}, {**run.identity, "shard": ""}, "there", "here")
        if other:
            raise ConfigError(f"{run.path}: is of another run than {first.path} ({other}); merge shards of one run")
    found: dict[int, FinishedRun] = {}
    count = Shard.parse(first.identity["shard"]).count
    for run in runs:
        shard = Shard.parse(run.identity["shard"])
        if shard.count != count:
            raise ConfigError(f"{run.path}: is shard {shard}, but {first.path} is one of {count}; merge shards of one cut")
        if shard.index in found:
            raise ConfigError(f"{run.path}: is shard {shard}, and so is {found[shard.index].path}; name each once")
        found[shard.index] = run
    absent = [str(Shard(index, count)) for index in range(count) if index not in found]
    if absent:
        raise ConfigError(f"--output: of {count} shards {', '.join(absent)} {'are' if len(absent) > 1 else 'is'} missing; name "
                          "the folders of all")
    return [found[index] for index in range(count)]


def keys(identity: Mapping) -> list[Key]:
    """Every sample of the whole run, in the order of its files."""
    whole = shards.places({language: list(types) for language, types in identity["bug_types"].items()}, identity["scenarios"])
    return [(place.task_id, place.scenario, sample) for place in whole for sample in range(identity["samples"])]


def joined(runs: Sequence[FinishedRun], order: Sequence[Key], name: str) -> dict[Key, Mapping]:
    """All rows of a file of the shards, which must be exactly those of the run."""
    rows: dict[Key, Mapping] = {}
    for run in runs:
        of_run = run.samples if name == SAMPLES else run.results
        double = [key for key in of_run if key in rows]
        if double:
            raise DataError(f"{run.path / name}: {_named(double)} in another shard too; is one of the folders a copy?")
        rows.update(of_run)
    absent, unknown = [key for key in order if key not in rows], sorted(set(rows) - set(order))
    if absent or unknown:
        fault = "missing in every shard" if absent else "not of this run"
        raise DataError(f"{runs[0].path.parent}: of {len(order)} rows of {name}, {_named(absent or unknown)} {fault}; was a "
                        "folder changed? Run its shard again")
    return {key: rows[key] for key in order}


def _named(found: Sequence[Key]) -> str:
    names = ", ".join(f"sample {sample} of {task_id}/{scenario}" for task_id, scenario, sample in found[:NAMES])
    return f"{names}{f' and {len(found) - NAMES} more' if len(found) > NAMES else ''} {'are' if len(found) > 1 else 'is'}"


def generation(runs: Sequence[FinishedRun]) -> dict:
    """The figures of all shards together: their seconds are of several machines."""
    figures = [run.summary["generation"] for run in runs if run.summary["generation"]]
    if not figures:
        return {}
    total = {name: round(sum(each.get(name, 0) for each in figures), 2) for name, value in figures[0].items()
             if isinstance(value, int | float) and name != RATE}
    return {**total, RATE: round(total["tokens"] / total["seconds"], 1) if total["seconds"] else 0.0}


def execution(runs: Sequence[FinishedRun]) -> dict[str, int]:
    """How many programs all shards had, and of how many the verdict was known."""
    return dict(sum((Counter(run.summary.get("execution", {})) for run in runs), Counter()))


def toolchains(runs: Sequence[FinishedRun]) -> dict[str, dict[str, str]]:
    """Their versions; where shards had different ones, all of them, with a warning."""
    found: dict[str, dict[str, list[str]]] = {}
    for run in runs:
        for language, versions in run.summary["toolchains"].items():
            for tool, version in versions.items():
                known = found.setdefault(language, {}).setdefault(tool, [])
                known += [version] if version not in known else []
    for language, versions in found.items():
        mixed = [f"{tool} {' and '.join(each)}" for tool, each in versions.items() if len(each) > 1]
        if mixed:
            log.get().warning(f"{language}: the shards were judged with different versions: {', '.join(mixed)}")
    return {language: {tool: " / ".join(each) for tool, each in versions.items()} for language, versions in found.items()}
