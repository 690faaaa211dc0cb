"""Run a command and note how long it took and how much memory all its processes together held at most.

    python examples/measured.py --record runs/demo/stages.jsonl --stage train -- torchrun ... -m megatron_ft.train ...

Appends {"stage", "command", "exit_code", "seconds", "peak_bytes"} to the record; leaves with the command's exit code.
"""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import subprocess
import time
from pathlib import Path

import psutil

from megatron_ft import cli
from megatron_ft.errors import ConfigError

SAMPLE_EVERY_S = 0.5


def held_bytes(process: psutil.Process) -> int:
    """Memory of one process: its proportional share where the kernel tells it (shared pages count once), else RSS."""
    try:
        for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # no such file in this kernel, not ours to read, or the process has just ended: RSS says which
    try:
        return process.memory_info().rss
    except psutil.Error:
        return 0


def tree_bytes(root: psutil.Process) -> int:
    """Memory of a process and all its descendants."""
    try:
        return sum(held_bytes(process) for process in [root, *root.children(recursive=True)])
    except psutil.Error:
        return 0


def run(command: list[str]) -> dict[str, object]:
    """Run to the end; what is noted about it."""
    started, peak = time.monotonic(), 0
    try:
        child = subprocess.Popen(command)
    except OSError as error:
        raise ConfigError(f"{command[0]}: cannot be started: {error}") from error
    # Ctrl-C reaches the command too (one process group); this process stays to note how it ended.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    root = psutil.Process(child.pid)
    while child.poll() is None:
        peak = max(peak, tree_bytes(root))
        try:
            child.wait(SAMPLE_EVERY_S)
        except subprocess.TimeoutExpired:
            continue
    return {"command": shlex.join(command), "exit_code": child.returncode,
            "seconds": round(time.monotonic() - started, 2), "peak_bytes": peak}


def main() -> int:
    """Parse the command line, run, note."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", required=True, type=Path, help="JSONL file to append a line to")
    parser.add_argument("--stage", required=True, help="the name that the line gets")
    parser.add_argument("command", nargs="+", metavar="COMMAND", help="after --: what to run")
    given = parser.parse_args()
    noted = run(given.command)
    with open(given.record, "a", encoding="utf-8") as stream:
        stream.write(json.dumps({"stage": given.stage, **noted}) + "\n")
    code = int(noted["exit_code"])
    return code if code >= 0 else 128 - code  # as a shell says it: 128 + the signal


if __name__ == "__main__":
    cli.main(main)
