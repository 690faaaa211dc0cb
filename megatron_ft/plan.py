"""Whether a config fits a machine before a job is queued: `python -m megatron_ft.plan CONFIG.toml --gpus 64 --gpu a100-80g`.

Needs no GPU and no torch. Exit codes: 0 it fits; 2 it does not or cannot be split, and the message names the nearest layouts
that do.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

from megatron_ft import cli, families
from megatron_ft import config as configs
from megatron_ft.config import Config
from megatron_ft.errors import ConfigError, MegatronFTError
from megatron_ft.families.architecture import Architecture
from megatron_ft.training import base_model, gpus, layout_search, plan_facts, plan_report, run_data
from megatron_ft.training.estimate import documents_of, estimate, full_rows
from megatron_ft.training.gpus import Gpu
from megatron_ft.training.plan import make

UNNAMED = "(not named)"
UNSET = {"run.dir": UNNAMED, "load.from": UNNAMED, "data.train": UNNAMED}
"""What a run must have and a plan need not."""


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m megatron_ft.plan", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="A config of examples/configs names its own command in its first lines.")
    parser.add_argument("config", metavar="CONFIG.toml")
    parser.add_argument("overrides", nargs="*", metavar="section.field=value")
    parser.add_argument("--gpus", type=int, required=True, metavar="N", help="GPUs of the run, one process each")
    parser.add_argument("--gpu", required=True, metavar="NAME", help=f"one of {', '.join(gpus.GPUS)}")
    parser.add_argument("--gpus-per-node", type=int, metavar="N", help="GPUs that NVLink joins (default: 8)")
    parser.add_argument("--network-gbit", type=float, metavar="G", help="network of a node, Gbit/s for each of its GPUs in one "
                        "direction (default: that of NVIDIA's DGX with this GPU)")
    parser.add_argument("--model", metavar="PRESET", help="model where load.from is not here, e.g. starcoderbase-7b")
    parser.add_argument("--rows-per-epoch", type=int, metavar="N", help="rows of an epoch, where data.train is not here")
    parser.add_argument("--document-tokens", type=int, metavar="N", help="length of every document, for attention's FLOPs "
                        "where data.train is not here (default: data.row_tokens, the most it can cost)")
    parser.add_argument("--mfu", type=float, default=0.45, metavar="SHARE", help="share of the peak that the hours are given "
                        "for (default: %(default)s)")
    parser.add_argument("--search", action="store_true", help="rank all layouts of that many GPUs")
    parser.add_argument("--top", type=int, default=12, metavar="N", help="of --search: how many to show (default: 12)")
    parser.add_argument("--all", action="store_true", help="of --search: every layout, not the best of each tp x pp")
    parser.add_argument("--json", action="store_true", help="the same as JSON")
    return parser.parse_intermixed_args(given)


def main() -> None:
    """Read, estimate, print."""
    options = arguments()
    config = read(options.config, options.overrides)
    gpu = machine(options)
    architecture, source = model_of(config, options.model)
    rows, documents, pairs = data_of(config, architecture, options)
    if rows:
        run_data.require_positions(rows.longest, config, architecture)
    if options.search:
        search(options, config, architecture, gpu, pairs)
        return
    try:
        one = estimate(config, architecture, gpu, processes=options.gpus, pairs_per_token=pairs)
    except ConfigError as error:
        raise ConfigError(f"{error}{advice(config, architecture, gpu, options.gpus)}") from None
    per_epoch = rows.rows_per_epoch if rows else options.rows_per_epoch
    known = per_epoch is not None or config.run.steps > 0
    plan = make(config, architecture, processes=options.gpus, rows_per_epoch=per_epoch,
                rows_of_first=rows.rows_of_first if rows else None) if known else None
    report = plan_facts.Report(Path(options.config).name, source, one, plan, rows, documents, options.mfu)
    if options.json:
        print(json.dumps(plan_facts.facts(report), indent=1))
    else:
        plan_report.show(report)
    sys.stdout.flush()
    try:
        one.require_fit()
    except ConfigError as error:
        raise ConfigError(f"{error}{advice(config, architecture, gpu, options.gpus)}") from None


def read(path: str, overrides: list[str]) -> Config:
    """The config, which need not name a run folder, a base model or data."""
    named = {override.partition("=")[0].strip() for override in overrides} | configs.named_in(path)
    given = {f"{name}={value}" for name, value in UNSET.items() if name not in named}
    if "data.weights_files" in named:
        given.discard(f"data.train={UNNAMED}")
    return configs.read(path, [*sorted(given), *overrides])


def machine(options: argparse.Namespace) -> Gpu:
    """The GPU in its node; ConfigError for counts that no machine has."""
    gpu = gpus.find(options.gpu)
    for name in ("gpus", "gpus_per_node", "rows_per_epoch", "document_tokens", "top", "network_gbit"):
        value = getattr(options, name)
        if value is not None and value <= 0:
            raise ConfigError(f"--{name.replace('_', '-')}: {value} is not above 0")
    if options.gpus > layout_search.MOST_GPUS:
        raise ConfigError(f"--gpus: {options.gpus} is more than {layout_search.MOST_GPUS}, up to which layouts are searched")
    if not 0 < options.mfu <= 1:
        raise ConfigError(f"--mfu: {options.mfu} is no share of the peak; give a number above 0 and up to 1, e.g. 0.45")
    changed = {}
    if options.gpus_per_node:
        changed["per_node"] = options.gpus_per_node
    if options.network_gbit:
        changed["network_bandwidth"] = options.network_gbit * 1e9 / 8
    return dataclasses.replace(gpu, **changed)


def model_of(config: Config, preset: str | None) -> tuple[Architecture, str]:
    """The model of load.from where its folder is here, else the preset; and which it was, in words."""
    folder = config.load.base
    if folder != UNNAMED and Path(folder).is_dir():
        architecture = base_model.find(folder).architecture
        if preset and families.preset(preset) != architecture:
            raise ConfigError(f"--model: {preset} is another model than the one in load.from={folder}; leave one of them out")
        return architecture, f"load.from={folder}"
    if not preset:
        where = "names no folder" if folder == UNNAMED else f"{folder} is not here"
        raise ConfigError(f"load.from: {where}, and there is no --model; add --model PRESET, one of "
                          f"{', '.join(families.presets())}, or load.from=FOLDER")
    return families.preset(preset), f"--model {preset}"


def data_of(config: Config, architecture: Architecture,
            options: argparse.Namespace) -> tuple[run_data.Rows | None, str, float]:
    """The packed training data where they are here, what is assumed of documents in words, and pairs per token."""
    named = run_data.prefixes(config)
    if named != [UNNAMED] and any(run_data.is_here(prefix) for prefix in named):
        if options.rows_per_epoch or options.document_tokens:
            raise ConfigError("--rows-per-epoch and --document-tokens stand for data that are not here, but data.train names "
                              f"{', '.join(named)}; leave one of them out")
        rows = run_data.rows(config, end_of_text=lambda: _end_of_text(config), window=architecture.window)
        return rows, "as the documents of data.train do", rows.pairs_per_token
    if options.document_tokens:
        if options.document_tokens > config.data.row_tokens:
            raise ConfigError(f"--document-tokens: {options.document_tokens} does not fit into rows of "
                              f"data.row_tokens={config.data.row_tokens}")
        length = options.document_tokens
        return None, f"with documents of {length} tokens", documents_of(length, architecture)
    return None, "as if every document filled a row (--document-tokens N says otherwise)", full_rows(config, architecture)


def _end_of_text(config: Config) -> int:
    folder = Path(config.load.base)
    if config.data.end_of_text is None and not folder.is_dir():
        raise ConfigError("data.end_of_text: a dataset pair does not say which id ends an answer, and the base model, whose "
                          f"tokenizer does, is not here (load.from={folder}); set it")
    return run_data.end_of_text(config, base_model.find(folder)) if config.data.end_of_text is None else config.data.end_of_text


def search(options: argparse.Namespace, config: Config, architecture: Architecture, gpu: Gpu, pairs: float) -> None:
    """Print the ranking; ConfigError where nothing fits."""
    found = layout_search.search(config, architecture, gpu, processes=options.gpus, pairs_per_token=pairs)
    if not found:
        raise ConfigError(f"--gpus: {options.gpus} x {gpu.name} do not hold it"
                          f"{more_gpus(config, architecture, gpu, options.gpus)}")
    if options.json:
        print(json.dumps([{**plan_facts.layout_facts(one), "overrides": plan_facts.overrides(one.config, config)}
                          for one in found[:options.top]], indent=1))
    else:
        plan_report.show_search(found, config, top=options.top, every=options.all,
                                name=Path(options.config).name)


def advice(config: Config, architecture: Architecture, gpu: Gpu, processes: int) -> str:
    """What to do about a layout that cannot be: the nearest that can, or more GPUs."""
    try:
        found = layout_search.search(config, architecture, gpu, processes=processes)
    except MegatronFTError:
        return ""
    if not found:
        return more_gpus(config, architecture, gpu, processes)
    roomy = [one for one in found if not one.tight] or found
    near = plan_facts.listed(layout_search.nearest(roomy, config), config)
    return f"\n  the nearest layouts of {processes} GPUs that fit:{near}\n  the fastest:{plan_facts.listed(roomy[:1], config)}"


def more_gpus(config: Config, architecture: Architecture, gpu: Gpu, processes: int) -> str:
    """How many GPUs would do."""
    more = layout_search.fewest_gpus(config, architecture, gpu, above=processes)
    if more is None:
        return (f"\n  no number of them up to {layout_search.MOST_GPUS} does: shorten data.row_tokens, or train adapters "
                "(lora.rank=16)")
    count, best = more
    return f"\n  no layout of {processes} fits; {count} would do:{plan_facts.listed([best], config)}"


if __name__ == "__main__":
    cli.main(main)
