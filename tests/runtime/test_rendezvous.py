"""Processes that meet, and what is said of those that do not come."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from megatron_ft.errors import TrainingError
from megatron_ft.runtime import rendezvous
from megatron_ft.runtime.device import Process
from megatron_ft.runtime.groups import free_port


def came(ranks: list[int], size: int, *, timeout_s: float = 60.0) -> list[str]:
    """What each of these ranks gets: a value that rank 0 has set, or its error's text."""
    port = free_port()

    def come(rank: int) -> str:
        try:
            store = rendezvous.meet(Process(rank, size, rank, size, "127.0.0.1", port), timeout_s=timeout_s)
        except TrainingError as error:
            return str(error)
        if rank == 0:
            store.set("word", "hello")
        word = store.get("word").decode()
        store.add("read", 1)
        while rank == 0 and store.add("read", 0) < size:  # it holds the store
            pass
        return word

    with ThreadPoolExecutor(len(ranks)) as threads:
        return list(threads.map(come, ranks))


def test_ranks_meet_and_share_a_store():
    assert came([2, 0, 1], 3) == ["hello"] * 3


def test_a_process_that_runs_alone_needs_no_port():
    assert rendezvous.meet(Process(0, 1, 0, 1, "127.0.0.1", 0), timeout_s=60).add("key", 3) == 3


def test_every_rank_says_who_did_not_come():
    for error in came([0, 2], 5, timeout_s=1.0):
        assert "2 of 5 processes came within 1 s (runtime.timeout_minutes), not rank 1, 3, 4; look at" in error


def test_without_rank_0_there_is_nobody_to_meet():
    [error] = came([1], 2, timeout_s=0.5)
    assert "rank 1 found nobody at 127.0.0.1:" in error and "Connection refused. Rank 0 opens it" in error


def test_under_torchrun_rank_0_may_be_the_one_that_does_not_come():
    port = free_port()
    from torch.distributed import TCPStore

    agent = TCPStore("127.0.0.1", port, 2, True, wait_for_workers=False)
    with pytest.raises(TrainingError, match=f"rendezvous at 127.0.0.1:{port}: rank 0 did not come within 0.2 s"):
        rendezvous.meet(Process(1, 2, 1, 2, "127.0.0.1", port, store_is_open=True), timeout_s=0.2)
    assert agent.add("key", 1) == 1


def test_a_port_that_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(TrainingError, match=f"rank 0 cannot open 127.0.0.1:{port}: .*set MASTER_ADDR to the machine"):
            rendezvous.meet(Process(0, 2, 0, 2, "127.0.0.1", port), timeout_s=1)
