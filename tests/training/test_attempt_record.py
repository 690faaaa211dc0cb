"""Each start of training leaves who, where and until when, its warnings, and how it ended, whatever ended it."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import psutil
import pytest

from megatron_ft import log
from megatron_ft.config import Config, parse
from megatron_ft.errors import ConfigError
from megatron_ft.runtime import checkpoint_layout
from megatron_ft.runtime.device import Process
from megatron_ft.training import attempt_record, attempts, run_folder


@pytest.fixture
def config(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    return parse({"run": {"dir": str(tmp_path / "run"), "steps": 5}, "load": {"from": "base"}, "data": {"train": ["mix"]},
                  "runtime": {"timeout_minutes": 7}})


def rank(number: int) -> Process:
    return Process(number, 6, number, 3, "127.0.0.1", 0)


def events(config: Config) -> list[dict]:
    return run_folder.read(Path(config.run.dir) / run_folder.EVENTS)


def test_a_start_says_who_it_is_and_what_the_one_before_left(config, monkeypatch):
    run = Path(config.run.dir)
    with attempt_record.recorded(config, rank(0)):
        pass
    for step in (250, 260):
        run_folder.append(run / run_folder.METRICS, {"step": step, "loss": 1.0})
    run_folder.append(run / run_folder.EVENTS, {"step": 250, "event": "checkpoint"})
    run_folder.write_now(run, {"step": 263, "phase": "training"})
    heard = run_folder.read_now(run)["time"]
    (run / "checkpoints" / "iter_0000250").mkdir(parents=True)
    checkpoint_layout.set_latest(run / "checkpoints", 250)
    run_folder.append(run / run_folder.EVENTS, {"step": 250, "event": "requeue", "granted": True})
    for name, value in (("ID", "4711"), ("NODELIST", "n[1-2]"), ("START_TIME", "1000"), ("END_TIME", "87400")):
        monkeypatch.setenv(f"SLURM_JOB_{name}", value)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    with attempt_record.recorded(config, rank(0)):
        first, *_, second = events(config)
        assert run_folder.read_now(run)["phase"] == "loading"
    assert (first["saved"], first["before"], first["job"], first["ranks"]) == (0, {}, None, 6)
    assert "ends_at" not in first, "nothing limits it"
    assert second["before"] == {"step": 263, "heard": heard}, "the question of a job script is no sign of life"
    assert (second["saved"], second["job"], second["restarts"], second["nodes"]) == (250, "4711", 2, "n[1-2]")
    assert (second["ends_at"], second["limit_s"], second["limit_from"]) == (87400, 86400, "SLURM")
    assert second["silence_s"] == 420 and attempt_record.lives(second)
    assert attempt_record.lives({**second, "boot": "another"}) is None
    assert attempt_record.lives({**second, "pid_namespace": "pid:[1]"}) is None, "a container's process 7 is another one"


def test_the_nearer_limit_counts_and_an_older_slurm_is_asked(config, monkeypatch, tmp_path):
    limited = config.model_copy(update={"run": config.run.model_copy(update={"max_minutes": 30.0})})
    with attempt_record.recorded(limited, rank(0)):
        pass
    started = psutil.Process().create_time()
    assert (events(config)[0]["ends_at"], events(config)[0]["limit_s"]) == (round(started + 1800), 1800)
    squeue = tmp_path / "bin" / "squeue"
    squeue.parent.mkdir()
    squeue.write_text('#!/bin/sh\n[ "$*" = "--noheader --jobs 7 --format %L" ] && echo 1-00:10:00\n')
    squeue.chmod(0o755)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("PATH", f"{squeue.parent}:{os.environ['PATH']}")
    asked = time.time()
    with attempt_record.recorded(config, rank(0)):
        pass
    event = events(config)[1]
    assert asked + 87000 - 1 <= event["ends_at"] <= time.time() + 87000 + 1 and event["limit_from"] == "SLURM"


@pytest.mark.parametrize("error, code, said", [
    (ConfigError("data.train: no"), 2, "ConfigError: data.train: no"),
    (ZeroDivisionError("1/0"), 1, "ZeroDivisionError: 1/0"),
    (OSError(errno.ENOSPC, "No space left"), 2, "OSError: [Errno 28] No space left"),
    (KeyboardInterrupt(), 130, "KeyboardInterrupt: ")])
def test_an_error_before_training_is_an_end(config, error, code, said):
    with pytest.raises(type(error)), attempt_record.recorded(config, rank(0)):
        raise error
    assert [(event["event"], event.get("exit_code"), event.get("error")) for event in events(config)[1:]] == [
        ("failed", code, said)]
    assert attempts.of(events(config))[0].exit_code == code


def test_what_the_loop_has_told_is_not_told_again_but_the_verdict_is(config):
    with pytest.raises(RuntimeError), attempt_record.recorded(config, rank(0)) as recorder:
        run_folder.append(Path(config.run.dir) / run_folder.EVENTS,
                          {"step": 3, "event": "failed", "error": "RuntimeError: closed", "exit_code": 1})
        recorder.failed("rank 2 (host n, pid 4) failed: DataError: no", 2, 2)
        raise RuntimeError("closed")
    assert [event.get("rank") for event in events(config)[1:]] == [None, 2]
    [attempt] = attempts.of(events(config))
    assert (attempt.exit_code, attempt.why) == (2, "rank 2 (host n, pid 4) failed: DataError: no")


def test_warnings_are_kept_while_it_runs_and_on_rank_0(config):
    with attempt_record.recorded(config, rank(0)):
        log.get().warning("%s has %d GB free", "run.dir", 3)
        log.get().info("not a warning")
    log.get().warning("too late")
    before = events(config)
    assert [event["text"] for event in before if event["event"] == "warning"] == ["run.dir has 3 GB free"]
    with pytest.raises(ConfigError), attempt_record.recorded(config, rank(1)) as recorder:
        log.get().warning("another rank's")
        recorder.failed("rank 1 failed", 1, 1)
        raise ConfigError("no")
    assert events(config) == before


def test_a_full_disk_does_not_hide_what_ended_the_run(config, monkeypatch):
    def full(path: Path, line: dict) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(ConfigError, match="the reason"), attempt_record.recorded(config, rank(0)):
        monkeypatch.setattr(run_folder, "append", full)
        log.get().warning("not written either")
        raise ConfigError("the reason")
