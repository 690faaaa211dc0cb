"""What a start of the training command leaves in events.jsonl: where and as what it runs, its warnings, an end before its time.

Rank 0 writes it, from before the first check to the end; `attempts` reads it. Torch-free.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from megatron_ft import cli, log
from megatron_ft.config import Config
from megatron_ft.runtime import source_code
from megatron_ft.runtime.device import Process
from megatron_ft.training import attempts, run_folder

SQUEUE_TIMEOUT_S = 10.0
SAME_START_S = 30.0  # a process's start is told from the machine's, which moves when its clock is set


class Recorder:
    """Writes this attempt's events on rank 0; on other ranks nothing."""

    def __init__(self, folder: Path, *, writes: bool) -> None:
        self._folder, self._writes = folder, writes

    def begin(self, config: Config, process: Process) -> None:
        """The first event: who, where, until when, and what the attempt before left."""
        if not self._writes:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        saved = attempts.saved_step(self._folder)
        run_folder.append(self._folder / run_folder.EVENTS, {
            "step": saved, "event": attempts.ATTEMPT, "saved": saved, "before": _left_by_the_one_before(self._folder),
            "job": os.environ.get("SLURM_JOB_ID"), "restarts": _number("SLURM_RESTART_COUNT"), "ranks": process.size,
            "nodes": os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_JOB_NODELIST") or socket.gethostname(),
            **identity(), **_limit(config.run.max_minutes), "silence_s": 60 * config.runtime.timeout_minutes,
            "commit": source_code.commit()})
        run_folder.write_now(self._folder, {"step": saved, "phase": "loading"})

    def failed(self, error: str, exit_code: int, rank: int | None = None) -> None:
        """An end that the loop has not told of. Where `rank` is given, all ranks have agreed that it failed first."""
        if not self._writes:
            return
        with contextlib.suppress(OSError):  # a full disk must not hide what ended the run
            last = (run_folder.read(self._folder / run_folder.EVENTS) or [{}])[-1]
            if rank is not None or last.get("event") not in ("failed", "end"):
                culprit = {} if rank is None else {"rank": rank}
                run_folder.append(self._folder / run_folder.EVENTS, {
                    "step": _step(self._folder), "event": "failed", "error": error, "exit_code": exit_code, **culprit})


@contextlib.contextmanager
def recorded(config: Config, process: Process) -> Iterator[Recorder]:
    """One attempt: its first event, the warnings that are logged within it, and the error that leaves it."""
    recorder = Recorder(Path(config.run.dir), writes=process.rank == 0)
    recorder.begin(config, process)
    warnings = _Warnings(Path(config.run.dir))
    if process.rank == 0:
        log.get().addHandler(warnings)
    try:
        yield recorder
    except BaseException as error:
        recorder.failed(f"{type(error).__name__}: {error}", cli.outcome(error)[0])
        raise
    finally:
        log.get().removeHandler(warnings)


class _Warnings(logging.Handler):
    """Keeps the run's warnings where somebody looks who has not read the log."""

    def __init__(self, folder: Path) -> None:
        super().__init__(logging.WARNING)
        self._folder = folder

    def emit(self, record: logging.LogRecord) -> None:
        if record.module != "spikes":  # these are in spikes.jsonl, with their documents
            with contextlib.suppress(OSError):
                run_folder.append(self._folder / run_folder.EVENTS, {"step": _step(self._folder), "event": "warning",
                                                                     "text": record.getMessage()})


def identity() -> dict[str, Any]:
    """What tells this process from every other, also one of the same number on another machine or in a container."""
    import psutil

    return {"host": socket.gethostname(), "boot": _boot(), "pid": os.getpid(), "pid_namespace": _pid_namespace(),
            "pid_started": psutil.Process().create_time()}


def lives(process: dict[str, Any]) -> bool | None:
    """Whether a process, as `identity` told of it, still runs; None where it cannot be seen from here."""
    import psutil

    if not process.get("boot") or (process["boot"], process.get("pid_namespace")) != (_boot(), _pid_namespace()):
        return None
    try:
        found = psutil.Process(process["pid"])
        same = abs(found.create_time() - process["pid_started"]) < SAME_START_S
        return same and found.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return None


def _boot() -> str:
    """A name of this machine since it was switched on; a host's name may stand for several machines."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return ""


def _pid_namespace() -> str:
    with contextlib.suppress(OSError):
        return str(Path("/proc/self/ns/pid").readlink())
    return ""


def _left_by_the_one_before(folder: Path) -> dict[str, Any]:
    """How far it came and when it was last heard of: a resume takes out the lines of the steps that were lost."""
    now = run_folder.read_now(folder)
    signs = [*run_folder.read(folder / run_folder.METRICS), *([now] if now else [])]
    said = [event for event in run_folder.read(folder / run_folder.EVENTS) if event.get("event") != attempts.REQUEUE]
    heard = max((line["time"] for line in (*signs, *said) if "time" in line), default=None)
    return {} if heard is None else {"step": max((line["step"] for line in signs), default=0), "heard": heard}


def _step(folder: Path) -> int:
    return run_folder.read_now(folder).get("step") or attempts.saved_step(folder)


def _number(variable: str) -> int | None:
    text = os.environ.get(variable, "")
    return int(text) if text.isdecimal() else None


def _limit(max_minutes: float) -> dict[str, Any]:
    """When the attempt will be over at the latest, and how long one of its kind has; {} where nothing says so."""
    import psutil

    now, started, limits = time.time(), psutil.Process().create_time(), []
    if max_minutes:
        limits.append((started + 60 * max_minutes, 60 * max_minutes, "run.max_minutes"))
    ends_at = _number("SLURM_JOB_END_TIME") or _asked_slurm(now)
    if ends_at is not None:
        limits.append((ends_at, ends_at - (_number("SLURM_JOB_START_TIME") or started), "SLURM"))
    if not limits:
        return {}
    ends_at, length_s, source = min(limits)
    return {"ends_at": round(ends_at), "limit_s": round(length_s), "limit_from": source}


def _asked_slurm(now: float) -> float | None:
    """When the job's time limit is, of a SLURM that does not put it into the environment (before 23.02)."""
    job = os.environ.get("SLURM_JOB_ID")
    if not job:
        return None
    try:
        asked = subprocess.run(["squeue", "--noheader", "--jobs", job, "--format", "%L"], capture_output=True, text=True,
                               timeout=SQUEUE_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):  # a container without SLURM's commands, a controller that is busy
        return None
    left = seconds_of(asked.stdout.strip())
    return None if left is None else now + left


def seconds_of(text: str) -> float | None:
    """A time span as SLURM writes it; None for UNLIMITED and the like.

    >>> seconds_of("1-02:03:04"), seconds_of("03:04"), seconds_of("UNLIMITED")
    (93784.0, 184.0, None)
    """
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text)
    if match is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return float(((24 * days + hours) * 60 + minutes) * 60 + seconds)
