"""The all-reduces of the preflight: are their sums right, how fast are they, which node is slow.

Bandwidths are those that nccl-tests define: bytes / time ("algorithm"), and that times 2 (n - 1) / n, which is what each link
carries in a ring of n and can be compared with the hardware whatever n is ("bus").
"""

from __future__ import annotations

import datetime
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

from megatron_ft.runtime.device import Process
from megatron_ft.training.preflight_check import Check, named

SIZES = {"cuda": (256 * 2**20, 10), "cpu": (2 * 2**20, 3)}
"""Bytes of a buffer and timed all-reduces, by device: what fills NVLink and InfiniBand, and what gloo does in a second."""
ALL, TENSOR, DATA, NODE, NEIGHBOURS = "all ranks", "tensor parallel", "data parallel", "inside nodes", "neighbour nodes"
SLOW = 0.5
"""A group, or a node, with less than this share of the median bandwidth of its like is named."""

Groups = list[tuple[str, list[list[int]]]]


def groups(nodes: Sequence[Sequence[int]], *, tp: int, dp: int) -> Groups:
    """Which ranks are to sum up together: (kind, groups), one kind after the other; kinds of the same groups once.

    Args:
        nodes: ranks of each node.
        tp, dp: of the layout; ranks are numbered tp first, then dp, then pp, as megatron-core does.

    >>> groups([[0, 1], [2, 3]], tp=2, dp=2)[1:]
    [('tensor parallel', [[0, 1], [2, 3]]), ('data parallel', [[0, 2], [1, 3]])]
    """
    size = sum(map(len, nodes))
    found: Groups = [(ALL, [list(range(size))])]
    stage = tp * dp
    if size % stage == 0:
        found.append((TENSOR, [list(range(first, first + tp)) for first in range(0, size, tp)]))
        found.append((DATA, [list(range(first + column, first + stage, tp)) for first in range(0, size, stage)
                             for column in range(tp)]))
    found.append((NODE, [list(ranks) for ranks in nodes]))
    found += [(f"{NEIGHBOURS} {number}", pairs) for number, pairs in enumerate(_neighbours(nodes), start=1)]
    kept: Groups = []
    for kind, members in found:
        wide = [ranks for ranks in members if len(ranks) > 1]
        if wide and all(sorted(wide) != sorted(other) for _, other in kept):
            kept.append((kind, wide))
    return kept


def _neighbours(nodes: Sequence[Sequence[int]]) -> list[list[list[int]]]:
    """Pairs of ranks of nodes next to each other in a ring, in rounds in which each node has one partner."""
    count = len(nodes)
    if count < 3 or len({len(ranks) for ranks in nodes}) > 1:
        return []
    ring = [(node, (node + 1) % count) for node in range(count)]
    rounds = [ring[0:count - count % 2:2], ring[1:count:2], ring[count - 1:] if count % 2 else []]
    return [[list(pair) for one, other in chosen for pair in zip(nodes[one], nodes[other], strict=True)]
            for chosen in rounds if chosen]


def measure(process: Process, store: Any, device: str, wanted: Groups, *, timeout_s: float) -> dict[str, Any]:
    """This rank's part: kind -> [ranks, seconds of an all-reduce, whether sums were right]. It may hang: see preflight_ranks.

    Args:
        store: where all ranks have met.
    """
    import torch
    from torch import distributed

    rank, patience = process.rank, datetime.timedelta(seconds=timeout_s)
    if device == "cuda":
        torch.cuda.set_device(process.local_rank)
    distributed.init_process_group("nccl" if device == "cuda" else "gloo", store=store, rank=rank, world_size=process.size,
                                   timeout=patience)
    found = {}
    try:
        for kind, members in wanted:
            mine = next((ranks for ranks in members if rank in ranks), None)
            if mine is not None:
                group = None
                if len(mine) < process.size:
                    group = distributed.new_group(mine, timeout=patience, use_local_synchronization=True)
                found[kind] = [mine, *_all_reduce(mine, rank, group, device)]
            distributed.barrier()  # one kind at a time: they share the links
    finally:
        distributed.destroy_process_group()
    return found


def _all_reduce(members: list[int], rank: int, group: Any, device: str) -> tuple[float, bool]:
    import torch
    from torch import distributed

    size_bytes, rounds = SIZES[device]
    where = torch.device(device)
    pattern = torch.arange(size_bytes // 4, device=where, dtype=torch.int32).remainder_(7).float()
    values = pattern * _weight(rank)
    distributed.all_reduce(values, group=group)
    # Whole numbers far below 2^24: fp32 sums of them are exact in every order.
    right = bool(torch.equal(values, pattern * sum(map(_weight, members))))
    values.zero_()
    for _ in range(2):
        distributed.all_reduce(values, group=group)
    _finish(device)
    distributed.barrier(group=group)
    started = time.perf_counter()
    for _ in range(rounds):
        distributed.all_reduce(values, group=group)
    _finish(device)
    return (time.perf_counter() - started) / rounds, right


def _weight(rank: int) -> int:
    return rank % 8 + 1


def _finish(device: str) -> None:
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def bus_bandwidth(size_bytes: int, seconds: float, ranks: int) -> float:
    """Bytes/s that each link of a ring carries in an all-reduce.

    >>> bus_bandwidth(100, 2.0, ranks=4)
    75.0
    """
    return size_bytes / seconds * 2 * (ranks - 1) / ranks


def checks(results: Mapping[int, Mapping[str, Any]], nodes: Mapping[str, Sequence[int]], *, device: str,
           least_bandwidth: float | None) -> list[Check]:
    """The lines of what all ranks have measured.

    Args:
        results: by rank, what `measure` gave.
        nodes: ranks of each node, by its name.
        least_bandwidth: bus bandwidth of all ranks together in bytes/s, below which the answer is no.
    """
    node_of = {rank: node for node, ranks in nodes.items() for rank in ranks}
    wrong = [f"rank {rank} ({node_of[rank]})" for rank, kinds in sorted(results.items())
             if not all(right for *_, right in kinds.values())]
    if wrong:
        return [Check("all-reduce", "fail", f"wrong sums on {named(wrong)}", "leave these nodes out (--exclude) and tell the "
                      "support: memory, a link or a GPU is damaged")]
    size_bytes = SIZES[device][0]
    by_kind: dict[str, dict[tuple[int, ...], float]] = {}
    for kinds in results.values():
        for kind, (ranks, seconds, _) in kinds.items():
            known = by_kind.setdefault(kind, {})
            known[tuple(ranks)] = max(known.get(tuple(ranks), 0.0), seconds)
    found = []
    for kind, seconds_of in by_kind.items():
        if not kind.startswith(NEIGHBOURS):
            found.append(_bandwidth(kind, seconds_of, node_of, size_bytes, least_bandwidth if kind == ALL else None))
    return [*found, *_slow_nodes(by_kind, node_of, size_bytes)]


def _bandwidth(kind: str, seconds_of: Mapping[tuple[int, ...], float], node_of: Mapping[int, str], size_bytes: int,
               least: float | None) -> Check:
    speeds = {ranks: bus_bandwidth(size_bytes, seconds, len(ranks)) for ranks, seconds in seconds_of.items()}
    slowest = min(speeds, key=lambda ranks: speeds[ranks])
    name = f"all-reduce, {kind}"
    if len(speeds) == 1:
        seconds = seconds_of[slowest]
        text = (f"{len(slowest)} ranks, {size_bytes / 2**20:g} MiB in {1e3 * seconds:.3g} ms: {_gb(size_bytes / seconds)} "
                f"algorithm, {_gb(speeds[slowest])} bus")
        if least is not None and speeds[slowest] < least:
            return Check(name, "fail", f"{text}; --min-bandwidth is {_gb(least)}", "look whether NCCL found InfiniBand and "
                         "GPUDirect (NCCL_DEBUG=INFO), and at the slowest node")
        return Check(name, "ok", text)
    median = statistics.median(speeds.values())
    at = ", ".join(dict.fromkeys(node_of[rank] for rank in slowest))
    text = (f"{len(speeds)} groups of {len(slowest)}: {_gb(median)} bus in the middle, least {_gb(speeds[slowest])} of ranks "
            f"{', '.join(map(str, slowest[:4]))}{'...' if len(slowest) > 4 else ''} ({at})")
    slow = speeds[slowest] < SLOW * median and len(speeds) > 2
    return Check(name, "warn" if slow else "ok", text, "leave that node out (--exclude) and tell the support" if slow else "")


def _slow_nodes(by_kind: Mapping[str, Mapping[tuple[int, ...], float]], node_of: Mapping[int, str],
                size_bytes: int) -> list[Check]:
    """A node is as fast as with the better of its neighbours: a slow one makes its neighbours slow with it alone."""
    best: dict[str, float] = {}
    for kind, seconds_of in by_kind.items():
        if kind.startswith(NEIGHBOURS):
            with_partner: dict[str, float] = {}
            for ranks, seconds in seconds_of.items():
                for rank in ranks:
                    speed = bus_bandwidth(size_bytes, seconds, len(ranks))
                    with_partner[node_of[rank]] = min(speed, with_partner.get(node_of[rank], speed))
            for node, speed in with_partner.items():
                best[node] = max(speed, best.get(node, speed))
    if not best:
        return []
    median, slowest = statistics.median(best.values()), min(best, key=lambda node: best[node])
    slow = [f"{node} {_gb(speed)}" for node, speed in best.items() if speed < SLOW * median]
    if slow:
        return [Check("slow nodes", "warn", f"to the better of its neighbours: {named(slow)}; the median is {_gb(median)}",
                      "leave them out (--exclude) and tell the support")]
    return [Check("slow nodes", "ok", f"none: the slowest is {slowest} with {_gb(best[slowest])} to a neighbour, the median is "
                  f"{_gb(median)}")]


def _gb(speed: float) -> str:
    return f"{speed / 1e9:.3g} GB/s"
