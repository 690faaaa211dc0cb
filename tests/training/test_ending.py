"""How runs end: signals and the clock, no more improvement, steps that are skipped, ranks that die."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import tomli_w

from megatron_ft import cli
from megatron_ft.runtime import checkpoint_layout
from megatron_ft.runtime.groups import free_port
from megatron_ft.training.ending import Ending, process_age
from tests.processes import TaskError
from tests.training.runs import STEPS, config, curve, run, tensors

PROGRAMS = "tests.training.ending_programs:"
USR1, TERM, INT = signal.SIGUSR1, signal.SIGTERM, signal.SIGINT
TIMEOUT_S = 400.0


def end_of(*ranks: list[float]) -> tuple[str, int] | None:
    """What ranks that say this agree on."""
    ending = Ending(limit_s=600)
    ending.hear([sum(numbers) for numbers in zip(*ranks, strict=True)])
    return (ending.agreed.why, ending.agreed.exit_code) if ending.agreed else None


def test_one_rank_that_was_told_is_enough():
    assert end_of([0, 0, 0], [0, 0, 0]) is None
    assert end_of([0, 0, 0], [1, 0, 0]) == ("told to end by SIGUSR1 or SIGTERM on 1 rank", cli.EXIT_REQUEUE)
    assert end_of([1, 0, 1], [1, 0, 0]) == ("told to end by SIGUSR1 or SIGTERM on 2 ranks", cli.EXIT_REQUEUE)
    assert end_of([1, 0, 1], [1, 1, 0]) == ("interrupted by Ctrl-C", cli.EXIT_INTERRUPTED)
    assert end_of([0, 0, 1], [0, 0, 0]) == ("run.max_minutes=10 leaves no time for another step and its checkpoint",
                                            cli.EXIT_REQUEUE)


def test_time_is_up_while_another_step_and_two_saves_still_fit_once_and_no_more():
    age = 0.0
    ending = Ending(limit_s=100.0, age_s=lambda: age, keeps_time=True)
    ending.took(30.0)
    for _ in range(8):
        ending.took(5.0)  # the first steps compile, and are forgotten
    ending.save_s = 20.0
    age = 55.0
    assert ending.told() == [0, 0, 0]  # 55 + 5 + 2 * 20 = 100
    age = 55.1
    assert ending.told() == [0, 0, 1]
    assert Ending(limit_s=100.0, age_s=lambda: 1e6).told() == [0, 0, 0], "one rank's clock counts"
    assert Ending(age_s=lambda: 1e6, keeps_time=True).told() == [0, 0, 0], "no limit"


def test_a_process_is_older_than_its_imports():
    code = ("import time, sys; time.sleep(1); from megatron_ft.training.ending import process_age; age = process_age(); "
            "time.sleep(.1); print(age())")
    started = time.monotonic()
    age = float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert 1.0 < age < time.monotonic() - started + 0.1
    assert process_age()() > 0


def ended(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", "import os, signal, subprocess, sys, time\n"
                           "from megatron_ft.training.ending import Signals\nsignals = Signals(speaks=True)\n"
                           "signals.listen()\n" + code], capture_output=True, text=True, timeout=60,
                          # pytest itself may be a background job, which ignores Ctrl-C and lets its children inherit that
                          preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))


def test_signals_are_counted_and_end_nothing_also_at_the_very_end():
    done = ended("signals.is_training = True\n"
                 "for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGUSR1): os.kill(os.getpid(), number)\n"
                 "print(signals.requeue, signals.interrupt)\n"
                 "signals.stop_listening()\n"
                 "import atexit\n"
                 "for number in (signal.SIGUSR1, signal.SIGTERM): atexit.register(os.kill, os.getpid(), number)\n"
                 "class Late:\n"
                 "    def __del__(self, kill=os.kill, pid=os.getpid(), number=signal.SIGUSR1): kill(pid, number)\n"
                 "sys.late = Late()\n"
                 "sys.exit(75)\n")
    assert (done.returncode, done.stdout, done.stderr) == (75, "True False\n", "")


def test_the_first_interrupt_is_a_wish_the_second_an_end():
    done = ended("signals.is_training = True\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(.01)\n"
                 "print(signals.interrupt, flush=True)\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(9)\n")
    assert (done.returncode, done.stdout) == (-signal.SIGINT, "True\n")
    assert done.stderr.strip() == "Ctrl-C: the run saves a checkpoint and ends; once more ends it at once, without one"


def test_an_interrupt_while_there_is_nothing_to_save_ends_at_once():
    done = ended("from megatron_ft import cli\ndef command():\n    os.kill(os.getpid(), signal.SIGINT)\n    time.sleep(9)\n"
                 "cli.main(command)\n")
    assert (done.returncode, done.stderr) == (cli.EXIT_INTERRUPTED, "interrupted\n")


def test_a_shells_background_job_stays_deaf_to_interrupts():
    """The shell has it ignore Ctrl-C, which is meant for what runs in front."""
    done = subprocess.run([sys.executable, "-c", "import os, signal, time\nfrom megatron_ft.training.ending import Signals\n"
                           "Signals().listen()\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(.1)\nprint('alive')"],
                          preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN), capture_output=True, text=True)
    assert done.stdout == "alive\n"


def test_programs_that_a_run_has_started_survive_the_signal_for_all():
    """SLURM sends it to every process of a step."""
    done = ended("child = subprocess.Popen(['sleep', '1'])\nchild.send_signal(signal.SIGUSR1)\n"
                 "os.kill(os.getpid(), signal.SIGUSR1)\nprint(child.wait(), signals.requeue)\n"
                 "child = subprocess.Popen(['sleep', '9'])\nchild.terminate()\nprint(child.wait())\n")
    assert done.stdout == f"0 True\n{-signal.SIGTERM}\n"


@pytest.fixture
def settings(bases, dataset, tmp_path):
    """A run with two validation steps a validation, and dropout, which an inexact resume would show."""
    tree = config(bases("starcoder", "mqa")[1], dataset, tmp_path / "run", model__hidden_dropout=0.1, checkpoint__every_steps=2)
    tree["data"].update(train=[f"0:0.6 {dataset}"], valid=[f"0.6:1 {dataset}"])
    return {**tree, "parallel": {"pp": 2}}


def test_a_run_that_is_told_to_end_at_any_moment_loses_nothing(pool, settings, tmp_path):
    """Parts of one run, as after requeues: each ends after the step in which it was told, at whatever moment of it."""
    told = []
    for moment, ranks, numbers in (("loading", [1], [USR1]), ("first rows of a validation", [0], [USR1, TERM]),
                                   ("first step", [1], [TERM]), ("second step", [0, 1], [USR1, USR1, TERM]),
                                   ("saving", [1], [USR1, TERM, USR1]), ("publishing", [0, 1], [USR1, TERM])):
        ends = pool.run(2, PROGRAMS + "told", config=settings, moment=moment, ranks=ranks, numbers=numbers)
        assert ends[0] == ends[1]
        told.append((ends[0]["exit_code"], ends[0]["steps"], ends[0]["validations"]))
    assert told == [(75, 0, 0),  # no step, and no validation before it
                    (75, 0, 1),  # the validation is broken off after one of its two steps
                    (75, 1, 2),  # it is made up for before step 1
                    (75, 2, 0),  # step 3 is saved, its validation left for the next part
                    (75, 2, 2),  # while step 4 is saved: step 5 is the last
                    (0, 1, 2)]   # while the last step is saved: the run is done
    whole = run(pool, 2, {**settings, "run": {**settings["run"], "dir": str(tmp_path / "whole")}})
    parts = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    for field in ("step", "loss", "grad_norm", "valid_loss"):
        assert curve(parts, field) == curve(whole, field)
    newest = f"checkpoints/iter_{STEPS:07d}"
    expected, found = tensors(tmp_path / "whole" / newest), tensors(tmp_path / "run" / newest)
    assert set(found) == set(expected) and all(found[name].equal(expected[name]) for name in expected)
    assert not list((tmp_path / "run" / "checkpoints").glob(".*")), "nothing half-written is left"


def test_ctrl_c_saves_and_has_its_own_exit_code(pool, settings, tmp_path):
    ends = pool.run(2, PROGRAMS + "told", config=settings, moment="first step", ranks=[0, 1], numbers=[INT])
    assert {(end["why"], end["exit_code"]) for end in ends} == {("ended after step 1 of 6: interrupted by Ctrl-C", 130)}
    assert checkpoint_layout.find(tmp_path / "run" / "checkpoints").name == "iter_0000001"


def test_rank_0s_clock_ends_the_run_with_a_checkpoint(pool, settings, tmp_path):
    settings["data"]["valid"] = []
    ends = pool.run(2, PROGRAMS + "timed", config=settings, limit_s=300.0, step_ages_s=[0.0, 100.0, 200.0, 301.0])
    why = "ended after step 3 of 6: run.max_minutes=5 leaves no time for another step and its checkpoint"
    assert ends == [{"why": why, "exit_code": 75}] * 2
    assert checkpoint_layout.find(tmp_path / "run" / "checkpoints").name == "iter_0000003"


def test_a_time_limit_that_leaves_no_time_for_a_step_is_refused(pool, settings):
    """As something to be queued again it would be queued for ever."""
    with pytest.raises(TaskError, match="TrainingError: run.max_minutes: 5 minutes were over before the first step, and would"):
        pool.run(1, PROGRAMS + "timed", config={**settings, "parallel": {}}, limit_s=300.0, step_ages_s=[301.0])


def test_a_run_ends_when_validation_no_longer_improves_also_across_a_resume(pool, settings, tmp_path):
    settings["validation"].update(every_steps=1, patience=2)
    settings["checkpoint"].update(every_steps=1, keep_last=1)
    nan = float("nan")
    [cut] = pool.run(1, PROGRAMS + "validated", config={**settings, "parallel": {}}, losses=[5.0, 4.0, 4.5, 3.0], cut=2)
    assert cut["exit_code"] == 75 and cut["why"].startswith("ended after step 2 of 6")
    [end] = pool.run(1, PROGRAMS + "validated", config={**settings, "parallel": {}}, losses=[4.5, nan, 3.0])
    assert end == {"exit_code": 0, "left": 1,
                   "why": "done after step 3 of 6: the validation loss has not improved for 2 validations "
                          "(validation.patience), the best was 4.0000 after step 1"}
    newest = checkpoint_layout.find(tmp_path / "run" / "checkpoints")
    progress = checkpoint_layout.Manifest.read(newest).progress
    assert sorted(path.name for path in newest.parent.glob("iter_*")) == ["iter_0000001", "iter_0000003"], "best and last"
    assert (progress["best_loss"], progress["best_step"], progress["validated"]) == (4.0, 1, 3)
    [again] = pool.run(1, PROGRAMS + "validated", config={**settings, "parallel": {}}, losses=[3.0])
    assert again == {**end, "left": 1}, "started again, it is still done"


def test_a_last_validation_that_was_broken_off_is_made_up_for_once(pool, settings, tmp_path):
    settings = {**settings, "parallel": {}}
    settings["run"]["steps"], settings["validation"]["every_steps"] = 2, 0
    [cut] = pool.run(1, PROGRAMS + "validated", config=settings, losses=[5.0, 4.0], cut=1)
    assert cut["why"].startswith("ended after step 2 of 2: told to end by")
    ends = [pool.run(1, PROGRAMS + "validated", config=settings, losses=[4.5])[0] for _ in range(2)]
    assert [(end["why"], end["exit_code"], end["left"]) for end in ends] == [("done: 2 steps", 0, 0), ("done: 2 steps", 0, 1)]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert curve(lines, "valid_loss") == [5.0, 4.5]


def test_steps_that_come_to_nothing_are_skipped_and_several_in_a_row_end_the_run(pool, settings, tmp_path):
    settings["checkpoint"]["every_steps"] = 1
    [error, other] = pool.run(2, PROGRAMS + "failing", config=settings, steps=[2, 4, 5, 6])
    assert error == other
    assert error.startswith("TrainingError: step 6: loss nan, gradient norm nan: not finite, as in all of the last 3 steps")
    assert "They had rows 24..47: documents " in error and f"all with their losses are in {tmp_path}/run/spikes.jsonl" in error
    spikes = [json.loads(line) for line in (tmp_path / "run" / "spikes.jsonl").read_text().splitlines()]
    assert [line["step"] for line in spikes] == [2, 4, 5, 6]
    had = {f"{each['document']} of {each['prefix']}" for line in spikes[1:] for each in line["documents"]}
    named = error.split(": documents ")[1].split(" and ")[0].split(", ")
    assert len(named) == 10 and set(named) <= had
    manifest = checkpoint_layout.Manifest.read(checkpoint_layout.find(tmp_path / "run" / "checkpoints"))
    assert (manifest.progress["step"], manifest.progress["skipped"], manifest.progress["failures_in_row"]) == (5, 3, 2)
    assert pool.run(2, PROGRAMS + "failing", config=settings, steps=[6])[0].startswith("TrainingError: step 6")
    assert pool.run(2, PROGRAMS + "failing", config=settings, steps=[]) == ["done: 6 steps"] * 2


def test_a_loss_scale_that_is_being_found_is_no_failure(pool, settings):
    assert pool.run(2, PROGRAMS + "failing", config=settings, steps=[1, 2, 3, 4, 5], loss_scale=4096.0) == ["done: 6 steps"] * 2


@contextlib.contextmanager
def group(settings: dict, folder: Path, size: int) -> Iterator[tuple[list[subprocess.Popen], Path]]:
    """`python -m megatron_ft.train` on so many ranks, started by hand, when it has done two steps; all write to one file."""
    (folder / "config.toml").write_text(tomli_w.dumps(settings))
    environment = {**os.environ, "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1",
                   "MASTER_PORT": str(free_port())}
    with open(folder / "log", "ab") as log:
        ranks = [subprocess.Popen([sys.executable, "-m", "megatron_ft.train", str(folder / "config.toml")], stderr=log,
                                  env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(size)]
    try:
        deadline = time.monotonic() + TIMEOUT_S
        while "step 2/" not in (folder / "log").read_text() and time.monotonic() < deadline:
            assert all(rank.poll() is None for rank in ranks), (folder / "log").read_text()
            time.sleep(0.05)
        yield ranks, folder / "log"
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()


def test_a_signal_to_one_rank_of_four_is_a_checkpoint_and_an_exit_code_in_half_a_minute(pool, settings, tmp_path):
    settings["parallel"] = {"tp": 2, "pp": 2, "sequence_parallel": True}
    settings["optim"]["schedule"] = "constant"  # the same learning rates however many steps are planned
    settings["validation"]["every_steps"] = settings["checkpoint"]["every_steps"] = 0
    settings["run"]["steps"] = 100_000
    with group(settings, tmp_path, 4) as (ranks, log):
        started = time.monotonic()
        ranks[2].send_signal(USR1)
        while any(rank.poll() is None for rank in ranks) and time.monotonic() - started < TIMEOUT_S:
            time.sleep(0.02)
            if "ended after step" in log.read_text():  # as some schedulers do: again and again, also while processes end
                for rank in ranks:
                    rank.send_signal(USR1)
        assert [rank.poll() for rank in ranks] == [75] * 4
        assert time.monotonic() - started < 30
    newest = checkpoint_layout.find(tmp_path / "run" / "checkpoints")
    step = checkpoint_layout.Manifest.read(newest).iteration
    assert f"ended after step {step} of 100000: told to end by SIGUSR1 or SIGTERM on 1 rank; checkpoint in" in log.read_text()
    settings["run"]["steps"] = step + 2
    run(pool, 4, settings)
    run(pool, 4, {**settings, "run": {**settings["run"], "dir": str(tmp_path / "whole")}})
    expected, found = (tensors(tmp_path / name / "checkpoints" / f"iter_{step + 2:07d}") for name in ("whole", "run"))
    assert all(found[name].equal(expected[name]) for name in expected)


def test_the_end_of_rank_0_ends_a_training(settings, tmp_path):
    """By SIGKILL, while the others are in a collective with it; it holds the rendezvous and the hub of the watch."""
    settings["run"]["steps"] = 100_000
    with group(settings, tmp_path, 2) as (ranks, log):
        ranks[0].kill()
        assert ranks[1].wait(60) == cli.EXIT_FAILED
    errors = [line for line in log.read_text().splitlines() if "rror" in line]
    assert len(errors) == 1 and errors[0].startswith("error: rank 1 (host ")
    culprit = f"rank 0 (host {os.uname().nodename}, pid {ranks[0].pid})"
    assert f" ended because {culprit} ended without an error of its own: it was probably killed" in errors[0]


def test_torchrun_shows_the_error_of_the_rank_that_failed(settings, tmp_path):
    (tmp_path / "config.toml").write_text(tomli_w.dumps(settings))
    script = Path(__file__).with_name("failing_train.py")
    ended = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script),
                            str(tmp_path / "config.toml")], capture_output=True, text=True, timeout=TIMEOUT_S)
    assert ended.returncode == 1
    ours = [line for line in ended.stderr.splitlines() if line.startswith("error:")]
    assert len(ours) == 2 and ours[0].startswith("error: rank 1 (host ") and " ended because rank 1 (host " in ours[1]
    assert ours[0].endswith("): DataError: the third step is too much for me")
    assert ours[1].endswith("failed: DataError: the third step is too much for me")
    summary = ended.stderr[ended.stderr.index("Root Cause"):]
    for words in ("rank      : 1", "exitcode  : 2", "DataError: the third step is too much for me"):
        assert words in summary
    assert "Connection closed by peer" not in ended.stderr
