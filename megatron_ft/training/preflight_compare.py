"""How the words of all ranks compare: who has another version, another GPU, less room. Torch-free."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from megatron_ft.config import Config
from megatron_ft.training.gpus import GIB, GPUS, Gpu
from megatron_ft.training.preflight_check import Check, listed, named, odd_ones
from megatron_ft.training.preflight_machine import OFFLINE

SHM_BYTES, TMP_BYTES, RANK_BYTES = GIB, GIB, 3 * GIB
"""What a node with GPUs should have in /dev/shm for NCCL and in TMPDIR; and host memory of a rank: torch, CUDA, NCCL."""
TAKEN_BYTES = 2 * GIB
"""Of a GPU by others, above which it is said: this process' own context takes part of it."""
Facts = Mapping[str, Any]


def compare(found: Sequence[Facts], config: Config, *, checkpoint_bytes: int | None) -> list[Check]:
    """The lines of all ranks' facts."""
    first = [each for each in found if "machine" in each]
    return [_ranks(found, config), *_versions(found), *_gpus(found), _host_memory(first, len(found), checkpoint_bytes),
            *_places(first, needs_shm=found[0]["device"] == "cuda"), _offline(found, config)]


def _who(each: Facts) -> str:
    return f"rank {each['rank']} ({each['node']})"


def _ranks(found: Sequence[Facts], config: Config) -> Check:
    by_node: dict[str, list[int]] = {}
    for each in found:
        by_node.setdefault(each["node"], []).append(each["rank"])
    usual, odd = odd_ones({node: len(ranks) for node, ranks in by_node.items()})
    tp = config.parallel.tp
    text = f"{len(found)} rank{'s' if len(found) > 1 else ''} on {len(by_node)} node{'s' if len(by_node) > 1 else ''}: " \
           f"{named(list(by_node))}"
    problems, advice = [], []
    if odd:
        problems.append(f"most have {usual}, {named([f'{node} {count}' for node, count in odd.items()])}")
        advice.append("ask for as many tasks on each node (--ntasks-per-node)")
    crossing = [first for first in range(0, len(found), tp)
                if len({each["node"] for each in found if first <= each["rank"] < first + tp}) > 1]
    if tp > 1 and crossing:
        problems.append(f"{len(crossing)} tensor-parallel groups of {tp} reach over nodes")
        advice.append("choose parallel.tp so that it divides the ranks of a node: each layer waits for the network else")
    return Check("ranks", "warn" if problems else "ok", "; ".join([text, *problems]), "; ".join(advice))


def _versions(found: Sequence[Facts]) -> list[Check]:
    lines = []
    for name in dict.fromkeys(name for each in found for name in {**each["versions"], **each.get("gpu_libraries", {})}):
        said = {_who(each): {**each["versions"], **each.get("gpu_libraries", {})}.get(name) for each in found}
        usual, odd = odd_ones({who: version for who, version in said.items() if version is not None})
        if odd:
            who = named([f"{rank} {version}" for rank, version in odd.items()])
            lines.append(f"{name}: {usual} on most, but {who}")
    drivers = {each["node"]: each["machine"]["driver"] for each in found if "machine" in each}
    usual, odd = odd_ones(drivers)
    checks = [Check("drivers", "warn", f"{usual or 'none'} on most, but {named([f'{n} {v}' for n, v in odd.items()])}",
                    "leave these nodes out if anything odd happens (--exclude)")] if odd else []
    if lines:
        return [Check("versions", "fail", listed(lines), "one environment for all nodes: a shared virtual environment, or "
                      "one container image; leave out nodes that differ (--exclude)"), *checks]
    about = found[0]["versions"]
    return [Check("versions", "ok", f"the same on all: python {about['python']}, torch {about['torch']}, megatron-core "
                  f"{about['megatron-core']}, commit {about['commit']}"), *checks]


def _gpus(found: Sequence[Facts]) -> list[Check]:
    wrong = [f"{_who(each)}: {each['gpu_error']}" for each in found if "gpu_error" in each]
    if wrong:
        return [Check("GPUs", "fail", listed(wrong), "one task per GPU (--ntasks-per-node = --gpus-per-node); leave out nodes "
                      "whose GPUs are gone (--exclude)")]
    usual, odd = odd_ones({_who(each): each["device"] for each in found})
    if odd:
        others = named([f"{who} on {device}" for who, device in odd.items()])
        return [Check("GPUs", "fail", f"most ranks run on {usual}, but {others}", "leave these nodes out (--exclude): their "
                      "GPUs are gone, or their driver is")]
    if found[0]["gpu"] is None:
        return [Check("GPUs", "ok", "none: the run is on CPUs")]
    checks = []
    kinds = {_who(each): f"{each['gpu']['name']}, {each['gpu']['bytes'] / GIB:.1f} GiB" for each in found}
    usual, odd = odd_ones(kinds)
    if odd:
        checks.append(Check("GPUs", "fail", f"{usual} on most, but {named([f'{who} {kind}' for who, kind in odd.items()])}",
                            "ask for one kind (--constraint, or --gpus-per-node=TYPE:N)"))
    ranks_of: dict[tuple[str, str], list[int]] = {}
    for each in found:
        if each["gpu"]["id"]:
            ranks_of.setdefault((each["node"], each["gpu"]["id"]), []).append(each["rank"])
    twice = [f"ranks {', '.join(map(str, ranks))} on {node}" for (node, _), ranks in ranks_of.items() if len(ranks) > 1]
    if twice:
        checks.append(Check("GPUs", "fail", f"one GPU for several ranks: {named(twice)}", "let each task see all GPUs of its "
                            "node (srun --gpu-bind=none)"))
    used_bytes = {_who(each): each["gpu"]["bytes"] - each["gpu"]["free_bytes"] for each in found}
    taken = [f"{who} {size / GIB:.1f} GiB" for who, size in used_bytes.items() if size > TAKEN_BYTES]
    if taken:
        checks.append(Check("GPUs in use", "warn", f"somebody else has memory: {named(taken)}", "look with nvidia-smi on these "
                            "nodes"))
    return checks or [Check("GPUs", "ok", f"{len(found)} x {usual}")]


def _host_memory(nodes: Sequence[Facts], ranks: int, checkpoint_bytes: int | None) -> Check:
    """Each rank holds its share of a checkpoint in host memory while that is written."""
    needs = {each["node"]: each["local_size"] * (RANK_BYTES + (checkpoint_bytes or 0) / ranks) for each in nodes}
    least = min(nodes, key=lambda each: each["machine"]["memory_bytes"] - needs[each["node"]])
    room, needed = least["machine"]["memory_bytes"], needs[least["node"]]
    text = (f"{room / GIB:.1f} GiB free on {least['node']}; its {least['local_size']} ranks take about {needed / GIB:.1f} with "
            "their copies of a checkpoint")
    if room >= needed:
        return Check("host memory", "ok", text)
    if least["device"] == "cpu":  # RANK_BYTES is what GPUs' libraries take
        return Check("host memory", "warn", text, "use fewer ranks")
    return Check("host memory", "fail", text, "ask for more (--mem=0 takes all of a node), or use fewer ranks on it")


def _places(nodes: Sequence[Facts], *, needs_shm: bool) -> list[Check]:
    checks = []
    small = [f"{each['node']} {(each['machine']['shm_bytes'] or 0) / GIB:.2f} GiB" for each in nodes
             if (each["machine"]["shm_bytes"] or 0) < SHM_BYTES]
    if small and needs_shm:
        checks.append(Check("/dev/shm", "warn", f"little room: {named(small)}; NCCL talks through it inside a node",
                            "give containers more (docker --shm-size=8g; apptainer takes the host's)"))
    broken = [f"{each['node']}: {each['machine']['tmp_error']}" for each in nodes if "tmp_error" in each["machine"]]
    if broken:
        checks.append(Check("TMPDIR", "fail", named(broken), "set TMPDIR to a folder of the node that can be written"))
    full = [f"{each['node']} {each['machine']['tmp_bytes'] / GIB:.2f} GiB" for each in nodes
            if each["machine"]["tmp_bytes"] is not None and each["machine"]["tmp_bytes"] < TMP_BYTES]
    if full:
        checks.append(Check("TMPDIR", "warn", f"little room: {named(full)}", "set TMPDIR to another folder of the node"))
    if not checks:
        least = min(nodes, key=lambda each: each["machine"]["tmp_bytes"])["machine"]
        shm = min(each["machine"]["shm_bytes"] or 0 for each in nodes) / GIB
        checks.append(Check("TMPDIR, /dev/shm", "ok", f"at least {least['tmp_bytes'] / GIB:.1f} GiB free in {least['tmp']}, "
                            f"{shm:.1f} GiB in /dev/shm"))
    return checks


def _offline(found: Sequence[Facts], config: Config) -> Check:
    unset = {_who(each): ", ".join(each["offline"]) for each in found if each["offline"]}
    if config.log.wandb_project and config.log.wandb_mode == "online":
        return Check("offline", "warn", "log.wandb_mode is online: compute nodes seldom reach the internet",
                     "use log.wandb_mode=offline and `wandb sync` from a login node")
    if unset:
        return Check("offline", "warn", f"{next(iter(unset.values()))} not set on {named(list(unset))}",
                     "export each as 1 (slurm/*.sh do): a library that would download fails at once then")
    return Check("offline", "ok", f"{', '.join(OFFLINE)} are set")


def gpu_of(found: Sequence[Facts]) -> Gpu | None:
    """The smallest GPU of all ranks, for the memory that the plan needs; None without GPUs."""
    seen = [each["gpu"] for each in found if each.get("gpu")]
    if not seen:
        return None
    least = min(seen, key=lambda gpu: gpu["bytes"])
    return dataclasses.replace(GPUS["a100-80g"], name=least["name"], memory_bytes=least["bytes"], has_bf16=least["bf16"])
