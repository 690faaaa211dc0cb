"""What does the watch over ranks cost rank 0 at 1024 ranks, and how soon do all know of a death?

    python benchmarks/dead_rank.py [--ranks 1024]

The ranks are connections of this one process, on one machine: what is measured is the hub, not the network.
"""

from __future__ import annotations

import argparse
import json
import resource
import socket
import time

from megatron_ft.runtime.hub import Hub

IDLE_S = 5.0


def main() -> None:
    """Let them join, wait, close one, and see when all others have been told."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=1024)
    ranks: int = parser.parse_args().ranks
    hub = Hub(ranks, token="benchmark", silence_s=30)
    hub.start()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, soft + ranks), hard))  # both ends of each are in this process
    started = time.perf_counter()
    members = [hub.here, *(socket.create_connection(("127.0.0.1", hub.port)) for _ in range(ranks - 1))]
    for rank, member in enumerate(members):
        member.sendall(json.dumps({"token": "benchmark", "rank": rank, "host": "here", "pid": rank}).encode() + b"\n")
    for member in members:
        assert b"welcome" in member.recv(1000)
    report("all ranks joined after", time.perf_counter() - started, "s", target=5.0)
    used = time.process_time()
    time.sleep(IDLE_S)
    report("CPU time while training", (time.process_time() - used) / IDLE_S, "s/s", target=0.001)
    started = time.perf_counter()
    members.pop(ranks // 2).close()
    for member in members:
        assert b"verdict" in member.recv(10_000)
    report("a death was known to all after", time.perf_counter() - started, "s", target=1.0)


def report(figure: str, value: float, unit: str, *, target: float) -> None:
    """Print one figure; smaller is better."""
    print(json.dumps({"benchmark": "dead_rank", "figure": figure, "value": round(value, 5), "unit": unit, "target": target,
                      "holds": value <= target}))


if __name__ == "__main__":
    main()
