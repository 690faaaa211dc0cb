"""A job requeues itself as long as that leads somewhere: the rule, the record that it is read from, the command that asks."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_ft.runtime import checkpoint_layout
from megatron_ft.training import attempts, run_folder


def note(run: Path, kind: str, **details: object) -> None:
    run_folder.append(run / run_folder.EVENTS, {"step": 0, "event": kind, **details})


def begin(run: Path, job: str | None = "7") -> None:
    note(run, "attempt", job=job, saved=attempts.saved_step(run))


def save(run: Path, step: int) -> None:
    (run / "checkpoints" / checkpoint_layout.folder_name(step)).mkdir(parents=True)
    checkpoint_layout.set_latest(run / "checkpoints", step)


def ask(run: Path, code: int | None = 75, *, job: str | None = "7", most: int = 3) -> tuple[bool, str]:
    return attempts.ask_requeue(run, job=job, exit_code=code, most=most)


@pytest.mark.parametrize("code, expected", [
    (75, (True, "1 of at most 3 attempts in a row saved no new step, there is no checkpoint yet")),
    (1, (True, "1 of at most 3 attempts in a row saved no new step, there is no checkpoint yet")),
    (137, (True, "1 of at most 3 attempts in a row saved no new step, there is no checkpoint yet")),
    (0, (False, "exit code 0: the run is done")),
    (2, (False, "exit code 2: what is wrong stays wrong until somebody changes it")),
    (130, (False, "exit code 130: somebody ended it by Ctrl-C"))])
def test_the_exit_code_decides_first(tmp_path, code, expected):
    begin(tmp_path)
    assert ask(tmp_path, code) == expected
    assert run_folder.read(tmp_path / run_folder.EVENTS)[-1]["granted"] == expected[0]


def test_attempts_are_counted_as_a_list_of_what_they_did_says(tmp_path):
    """Jobs whose attempts save or not, and write their first event or not, drawn at random; jobs share a run."""
    chance = random.Random(3)
    step = 0
    for number in range(60):
        job, most = f"{number}", chance.choice([1, 2, 3, 4])
        run = tmp_path / f"{number // 3}"
        run.mkdir(exist_ok=True)
        step, outcomes, going = attempts.saved_step(run), [], True
        while going and len(outcomes) < 12:
            writes = chance.random() < 0.6
            saves = writes and chance.random() < 0.4
            if writes:
                begin(run, job)
            if saves:
                step += 5
                save(run, step)
            outcomes.append(saves)
            idle = outcomes[::-1].index(True) if True in outcomes else len(outcomes)
            going, why = ask(run, chance.choice([1, 75, 137]), job=job, most=most)
            assert going == (idle < most), (outcomes, most, why)
            if idle == 0:
                assert why == f"it goes on from step {step}"
            elif going:
                assert why.startswith(f"{idle} of at most {most} attempts in a row saved no new step, ")
            else:
                assert why.startswith("the last attempt " if idle == 1 else f"the last {idle} attempts ")


def test_kills_that_slurm_itself_requeues_after_count_too(tmp_path):
    """A node that fails takes the script along: nobody asks, there are only starts."""
    for _ in range(3):
        begin(tmp_path)
    assert ask(tmp_path, 1)[0] is False


def test_what_the_attempt_says_of_itself_counts_beside_the_launchers_code(tmp_path):
    begin(tmp_path)
    note(tmp_path, "end", why="done: 6 steps", exit_code=0)
    assert ask(tmp_path, 137) == (False, "exit code 0: the run is done")
    begin(tmp_path)
    note(tmp_path, "failed", error="DataError: no", exit_code=2)
    assert ask(tmp_path, 143)[1].startswith("exit code 2: ")
    begin(tmp_path)
    assert ask(tmp_path, None, most=9)[0], "the record of an attempt before is none of this one, which was killed"


def test_only_the_same_job_counts(tmp_path):
    for _ in range(3):
        begin(tmp_path, "6")
        ask(tmp_path, job="6")
    assert ask(tmp_path, job="6")[0] is False
    begin(tmp_path, "7")
    assert ask(tmp_path)[1].startswith("1 of at most 3 ")


def command(*arguments: object, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "megatron_ft.status", *map(str, arguments)], capture_output=True, text=True,
                          env=environment, check=False)


def test_a_job_script_gets_a_code_and_a_line(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    run, config = tmp_path / "run", tmp_path / "run.toml"
    run.mkdir()
    save(run, 500)
    config.write_text('[run]\ndir = "elsewhere"\nsteps = 5\n[load]\nfrom = "base"\n[data]\ntrain = ["mix"]\n')
    first = command(run, "--may-requeue", "--exit-code", 1, "--most", 2)
    assert (first.returncode, first.stdout) == (
        0, "requeue: 1 of at most 2 attempts in a row saved no new step, the newest checkpoint is of step 500\n")
    second = command(config, f"run.dir={run}", "--may-requeue", "--exit-code", 1, "--most", 2)
    assert (second.returncode, second.stdout) == (
        1, "no requeue: the last 2 attempts of this job saved no new step, the newest checkpoint is of step 500; mend what "
           "ended them, then submit the job anew, or allow more (--most)\n")
    events = [json.loads(line) for line in (run / run_folder.EVENTS).read_text().splitlines()]
    assert [(event["job"], event["saved"], event["granted"]) for event in events] == [("4711", 500, True), ("4711", 500, False)]


@pytest.mark.parametrize("arguments, words", [
    (["nowhere", "--may-requeue"], "RUN_DIR: nowhere is no folder; name the run.dir of a training run that has started"),
    ([".", "--may-requeue", "--most", "0"], "--most: 0 attempts; give 1 or more"),
    ([".", "run.dir=x"], "run.dir=x: overrides follow a CONFIG.toml, but . is none; leave them out"),
    (["nowhere.toml"], "nowhere.toml: no such config file"),
    ([".", "--exit-code", "1"], "--exit-code: 1 is for --may-requeue; add it, or leave the code out"),
    ([".", "--watch", "0"], "--watch: 0 seconds; give a number above 0, and no --json"),
    ([".", "--watch", "2", "--json"], "--watch: 2 with --json; give a number above 0, and no --json"),
    (["tests"], "RUN_DIR: tests holds no metrics.jsonl and no config.toml")])
def test_what_cannot_be_asked_is_refused_in_words(arguments, words):
    done = command(*arguments)
    assert done.returncode == 2 and words in done.stderr, done.stderr
