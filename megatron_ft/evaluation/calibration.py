"""How slow this machine is: limits in seconds mean the same work everywhere."""

from __future__ import annotations

import subprocess
import sys

REFERENCE_S = 0.08
"""CPU seconds of the work on the machine on which the languages' limits were chosen, with all its cores busy."""
MOST = 20.0
WORK = """
import time
begun = time.process_time()
total = 0
for number in range(1_000_000):
    total += number * number % 7
print(time.process_time() - begun)
"""


def slowness(workers: int) -> float:
    """How many times longer this machine takes for some work than the reference did, while all workers do it; at least 1.

    CPU time is measured, so that what else the machine does changes little.
    """
    command = [sys.executable, "-I", "-c", WORK]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(workers)]
    took = sorted(float(each.communicate()[0]) for each in running)
    return min(max(took[-1] / REFERENCE_S, 1.0), MOST)
