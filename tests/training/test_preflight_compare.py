"""How the words and the measurements of all ranks compare: what differs is named, what is alike is not."""

from __future__ import annotations

from typing import Any

import pytest

from megatron_ft.config import parse
from megatron_ft.training import preflight_compare, preflight_network
from megatron_ft.training.gpus import GIB
from megatron_ft.training.preflight_check import Check


def rank(number: int, node: str = "n0", *, local: int = 0, **changed: Any) -> dict[str, Any]:
    """A rank's facts."""
    gpu = {"name": "NVIDIA A100-SXM4-80GB", "bytes": 79 * GIB, "free_bytes": 78 * GIB, "count": 2, "id": f"GPU-{number}",
           "bf16": True}
    machine = {"memory_bytes": 500 * GIB, "shm_bytes": 9 * GIB, "driver": "550.1", "tmp": "/tmp", "tmp_bytes": 50 * GIB}
    found = {"rank": number, "node": node, "local_rank": local, "local_size": 2, "device": "cuda", "offline": [], "gpu": gpu,
             "versions": {"python": "3.11", "torch": "2.13", "megatron-core": "0.16.1", "commit": "abc"},
             "gpu_libraries": {"NCCL": "2.27"}, **({} if local else {"machine": machine})}
    for name, value in changed.items():
        found[name] = {**found[name], **value} if isinstance(value, dict) else value
    return found


def four(**of_last_node: Any) -> list[dict[str, Any]]:
    return [rank(0), rank(1, local=1), rank(2, **{"node": "n1", **of_last_node}), rank(3, "n1", local=1)]


SETTINGS = parse({"run": {"dir": "run", "steps": 5}, "load": {"from": "base"}, "data": {"train": ["mix"]},
                  "parallel": {"tp": 2}})


def lines_of(found: list[dict[str, Any]], *, checkpoint_bytes: int = 200 * GIB) -> dict[str, Check]:
    return {line.name: line for line in preflight_compare.compare(found, SETTINGS, checkpoint_bytes=checkpoint_bytes)}


def test_ranks_that_are_alike():
    assert {line.verdict for line in lines_of(four()).values()} == {"ok"}
    assert lines_of(four())["GPUs"].found == "4 x NVIDIA A100-SXM4-80GB, 79.0 GiB"
    assert preflight_compare.gpu_of(four()).memory_bytes == 79 * GIB


@pytest.mark.parametrize("changed, name, verdict, words", [
    ({"gpu": {"name": "NVIDIA A100-SXM4-40GB", "bytes": 39 * GIB}}, "GPUs", "fail", "rank 2 (n1) NVIDIA A100-SXM4-40GB, 39.0 "),
    ({"gpu": {"id": "GPU-0"}}, "GPUs", "ok", "4 x "),
    ({"gpu": {"free_bytes": 60 * GIB}}, "GPUs in use", "warn", "rank 2 (n1) 19.0 GiB"),
    ({"device": "cpu", "gpu": None}, "GPUs", "fail", "most ranks run on cuda, but rank 2 (n1) on cpu"),
    ({"gpu_error": "shows 1 GPU to its 2 ranks"}, "GPUs", "fail", "rank 2 (n1): shows 1 GPU to its 2 ranks"),
    ({"versions": {"megatron-core": "0.16.0"}}, "versions", "fail", "megatron-core: 0.16.1 on most, but rank 2 (n1) 0.16.0"),
    ({"gpu_libraries": {"NCCL": "2.26"}}, "versions", "fail", "NCCL: 2.27 on most, but rank 2 (n1) 2.26"),
    ({"machine": {"driver": "535.2"}}, "drivers", "warn", "n1 535.2"),
    ({"machine": {"memory_bytes": 105 * GIB}}, "host memory", "fail", "105.0 GiB free on n1; its 2 ranks take about 106.0"),
    ({"machine": {"shm_bytes": GIB // 16}}, "/dev/shm", "warn", "n1 0.06 GiB"),
    ({"machine": {"tmp_bytes": None, "tmp_error": "Read-only file system"}}, "TMPDIR", "fail", "n1: Read-only file system"),
    ({"machine": {"tmp_bytes": GIB // 2}}, "TMPDIR", "warn", "n1 0.50 GiB"),
    ({"offline": ["HF_HUB_OFFLINE"]}, "offline", "warn", "HF_HUB_OFFLINE not set on rank 2 (n1)"),
    ({"node": "n7"}, "ranks", "warn", "1 tensor-parallel groups of 2 reach over nodes")])
def test_a_rank_or_node_that_differs_is_named(changed, name, verdict, words):
    line = lines_of(four(**changed))[name]
    assert line.verdict == verdict and words in line.found and (line.advice or verdict == "ok"), line


def test_one_gpu_for_two_ranks_of_a_node_is_refused():
    found = four()
    found[1]["gpu"]["id"] = "GPU-0"
    assert "one GPU for several ranks: ranks 0, 1 on n0" in lines_of(found)["GPUs"].found


def test_uneven_nodes_are_named():
    found = [*four(), rank(4, "n2"), rank(5, "n2", local=1), rank(6, "n3")]
    assert "most have 2, n3 1" in lines_of(found)["ranks"].found


@pytest.mark.parametrize("count, per_node", [(1, 4), (2, 4), (3, 2), (4, 2), (7, 1), (8, 3)])
def test_each_node_meets_both_neighbours_once_and_one_at_a_time(count, per_node):
    nodes = [list(range(per_node * node, per_node * (node + 1))) for node in range(count)]
    met = []
    for kind, pairs in preflight_network.groups(nodes, tp=1, dp=1):
        if kind.startswith("neighbour"):
            flat = [member for pair in pairs for member in pair]
            assert len(set(flat)) == len(flat), "a link is not shared"
            met += [tuple(sorted(member // per_node for member in pair)) for pair in pairs]
    ring = {tuple(sorted((node, (node + 1) % count))) for node in range(count)} if count > 2 else set()
    assert sorted(met) == sorted([pair for pair in ring for _ in range(per_node)])


def test_groups_are_those_of_the_layout():
    """tp 2 x dp 3 x pp 2 on three nodes of four: against megatron-core's order, written out."""
    kinds = dict(preflight_network.groups([[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]], tp=2, dp=3))
    assert kinds["tensor parallel"] == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10, 11]]
    assert kinds["data parallel"] == [[0, 2, 4], [1, 3, 5], [6, 8, 10], [7, 9, 11]]
    assert kinds["all ranks"] == [list(range(12))] and kinds["inside nodes"][1] == [4, 5, 6, 7]
    alike = preflight_network.groups([[0, 1], [2, 3]], tp=2, dp=2)
    assert "inside nodes" not in dict(alike), "the same as the tensor parallel ones"


def measured(nodes: int, speed_of: dict[int, float]) -> tuple[dict[int, dict], dict[str, list[int]]]:
    """What nodes of two ranks would measure whose network has these speeds in GB/s, others 20."""
    ranks = {f"n{node}": [2 * node, 2 * node + 1] for node in range(nodes)}
    results: dict[int, dict] = {rank: {} for node in ranks.values() for rank in node}
    size = preflight_network.SIZES["cuda"][0]
    for kind, groups in preflight_network.groups(list(ranks.values()), tp=2, dp=nodes):
        for members in groups:
            touched = {member // 2 for member in members}
            speed = 1e9 * (200 if len(touched) == 1 else min(speed_of.get(node, 20.0) for node in touched))
            for member in members:
                results[member][kind] = [members, size * 2 * (len(members) - 1) / len(members) / speed, True]
    return results, ranks


@pytest.mark.parametrize("nodes", [3, 4, 5, 8])
@pytest.mark.parametrize("slow", [0, 1, 2])
def test_the_node_with_the_slow_link_is_named_and_no_other(nodes, slow):
    found = preflight_network.checks(*measured(nodes, {slow: 4.0}), device="cuda", least_bandwidth=None)
    lines = {line.name: line for line in found}
    assert lines["slow nodes"].verdict == "warn"
    assert lines["slow nodes"].found == f"to the better of its neighbours: n{slow} 4 GB/s; the median is 20 GB/s"
    assert f"{2 * nodes} ranks, 256 MiB in " in lines["all-reduce, all ranks"].found
    assert lines["all-reduce, all ranks"].found.endswith("4 GB/s bus")
    assert lines["all-reduce, tensor parallel"].found.startswith(f"{nodes} groups of 2: 200 GB/s bus in the middle")


def test_nodes_that_are_alike_and_a_bandwidth_that_is_too_low():
    results, nodes = measured(4, {})
    lines = {line.name: line for line in preflight_network.checks(results, nodes, device="cuda", least_bandwidth=21e9)}
    assert lines["slow nodes"].verdict == "ok"
    assert [name for name, line in lines.items() if line.verdict == "fail"] == ["all-reduce, all ranks"]
    assert preflight_network.checks(results, nodes, device="cuda", least_bandwidth=19e9)[0].verdict == "ok"
    results[3]["tensor parallel"][1] *= 10
    lines = {line.name: line for line in preflight_network.checks(results, nodes, device="cuda", least_bandwidth=None)}
    assert "least 20 GB/s of ranks 2, 3 (n1)" in lines["all-reduce, tensor parallel"].found
    assert lines["all-reduce, tensor parallel"].verdict == "warn"
