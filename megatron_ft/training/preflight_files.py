"""Whether all nodes see the same files: those that a run reads, and what each of them writes into run.dir. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from megatron_ft.config import Config
from megatron_ft.data.source import parse_entry
from megatron_ft.errors import MegatronFTError
from megatron_ft.runtime import samples
from megatron_ft.training import base_model, run_data
from megatron_ft.training.preflight_check import Check, listed, named, odd_ones

Seen = Mapping[str, list[Any]]
"""Path -> [bytes, time of the last change in ns, samples of the content], or [what went wrong]."""


def of(config: Config, config_file: Path) -> list[str]:
    """The files that a run reads: its config, the base model's folder, the datasets, as far as they can be named."""
    found = [config_file.absolute()]
    try:
        base = base_model.find(config.load.base)
        found += sorted(path.absolute() for path in (base.folder, base.hf_files) for path in path.iterdir() if path.is_file())
    except (MegatronFTError, OSError):
        found.append(Path(config.load.base).absolute())
    try:
        train, valid = run_data.entries(config)
        prefixes = dict.fromkeys(parse_entry(text).prefix for text in (*train, *valid))
    except (MegatronFTError, OSError):
        prefixes = {}
    for prefix in prefixes:
        path = Path(prefix).absolute()
        found += sorted(each for each in path.parent.glob(f"{path.name}*") if each.is_file()) or [path]
    return list(dict.fromkeys(map(str, found)))


def seen(paths: Iterable[str]) -> dict[str, list[Any]]:
    """How this node sees them; a few KiB of each are read."""
    found: dict[str, list[Any]] = {}
    for path in paths:
        try:
            about = Path(path).stat()
            found[path] = [about.st_size, about.st_mtime_ns, samples.of(Path(path))]
        except OSError as error:
            found[path] = [error.strerror or str(error)]
    return found


def compare(by_node: Mapping[str, Seen]) -> list[Check]:
    """A line for files that some nodes do not see, see otherwise or have as copies of their own; else one for all."""
    paths = list(dict.fromkeys(path for files in by_node.values() for path in files))
    missing, other, copied = [], [], []
    for path in paths:
        views = {node: tuple(files.get(path, ("no such file",))) for node, files in by_node.items()}
        broken = {node: view[0] for node, view in views.items() if len(view) == 1}
        if broken:
            missing.append(f"{path}: {next(iter(broken.values()))} on {named(list(broken))}")
            continue
        _, odd = odd_ones({node: (view[0], view[2]) for node, view in views.items()})
        _, moved = odd_ones({node: view[1] for node, view in views.items()})
        if odd:
            sizes = f" ({', '.join(f'{views[node][0]:,} bytes' for node in list(odd)[:1])})"
            other.append(f"{path}: another content on {named(list(odd))}{sizes}")
        elif moved:
            copied.append(f"{path}: changed at another time on {named(list(moved))}, same samples")
    found = []
    if missing:
        found.append(Check("files", "fail", listed(missing), "a path of one node, or a file system that is not mounted there: "
                           "put the files where all nodes see them"))
    if other:
        found.append(Check("file contents", "fail", listed(other), "copies of one node, or a stale cache: put the files on "
                           "the shared file system, or copy them anew"))
    if copied:
        found.append(Check("file copies", "warn", listed(copied), "if each node has its own copies, keep them alike"))
    if not found:
        size = sum(view[0] for view in next(iter(by_node.values())).values() if len(view) == 3)
        nodes = f"{len(by_node)} nodes see" if len(by_node) > 1 else "this node sees"
        found.append(Check("files", "ok", f"{nodes} {len(paths)} files, {size / 1e9:,.3g} GB, alike (sizes, times, samples)"))
    return found


def probe_of(folder: Path, token: str, rank: str) -> Path:
    """The file by which a node's first rank shows to the others that it writes where they look."""
    return folder / f".preflight.{token}.{rank}"


def shared(by_node: Mapping[str, bool], *, first: str, unseen: list[str], folder: Path) -> Check:
    """Whether run.dir is one folder.

    Args:
        by_node: whether each node sees what the first one has written.
        unseen: nodes whose own files the first does not see.
    """
    apart = [node for node, sees in by_node.items() if not sees or node in unseen]
    if apart:
        return Check("shared run.dir", "fail", f"{folder}: {named(apart)} and {first} do not see each other's files",
                     "choose a run.dir on a file system that all nodes share")
    return Check("shared run.dir", "ok", f"what each of {len(by_node)} nodes wrote there is seen by all")
