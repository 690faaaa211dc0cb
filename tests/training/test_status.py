"""How a run stands is read from its folder alone, also of one that was killed, hangs, is elsewhere or has just begun."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from megatron_ft import status
from megatron_ft.runtime import checkpoint_layout
from megatron_ft.training import attempt_record, run_folder, run_record, status_facts, status_text
from megatron_ft.training.status_facts import Status

NOW = 1_000_000.0
ELSEWHERE = {"host": "n1", "boot": "another machine", "pid": 4711, "pid_namespace": "pid:[1]", "pid_started": NOW - 5000}
JOB = {"job": "7", "restarts": 0, "nodes": "n[1-2]", "ranks": 8, "silence_s": 600.0, "saved": 0, "commit": None}
LIMIT = {"ends_at": NOW + 100, "limit_s": 1000, "limit_from": "SLURM"}


def write(run: Path, name: str, at: float, **line: object) -> None:
    run.mkdir(exist_ok=True)
    with (run / name).open("a") as stream:
        stream.write(json.dumps({"time": at, **line}) + "\n")


def event(run: Path, kind: str, at: float, step: int = 0, **details: object) -> None:
    write(run, run_folder.EVENTS, at, step=step, event=kind, **details)


def begin(run: Path, at: float, *, step: int = 0, loads_s: float | None = 100.0, **about: object) -> None:
    event(run, "attempt", at, step, **{**JOB, **ELSEWHERE, "pid_started": at, "saved": step, **about})
    if loads_s is not None:
        event(run, "resume" if step else "start", at + loads_s, step, steps=500)


def train(run: Path, at: float, first: int, last: int, *, wall_s: float = 3.0) -> float:
    """A line every ten steps, of 2 s each, and 1 s more of wall time; when the last was written."""
    for step in range(first, last + 1, 10):
        write(run, run_folder.METRICS, at, step=step, loss=100 / step, lr=1e-4, grad_norm=None, tokens_per_s=1000.0,
              tflops_per_gpu=150.0, mfu=0.48, seconds_per_step=2.0, memory_bytes=61e9, epoch=step / 250, skipped_steps=0,
              eta_s=2.0 * (500 - step))
        at += 10 * wall_s
    return at - 10 * wall_s


def now(run: Path, at: float, step: int, phase: str = "training") -> None:
    (run / run_folder.NOW).write_text(json.dumps({"step": step, "phase": phase, "time": at}))


def save(run: Path, step: int, *, without: str = "") -> None:
    folder = run / "checkpoints" / checkpoint_layout.folder_name(step)
    folder.mkdir(parents=True)
    for name in ("metadata.json", ".metadata", "common.pt", "megatron_ft.json"):
        if name != without:
            (folder / name).write_bytes(b"x" * 1000)
            os.utime(folder / name, (NOW - 50, NOW - 50))
    checkpoint_layout.set_latest(run / "checkpoints", step)


def seen(run: Path, at: float = NOW) -> Status:
    return status_facts.of(run_record.read(run), now=at)


def text(found: Status, width: int = 100) -> str:
    console = Console(width=width, highlight=False, file=io.StringIO(), record=True)
    console.print(status_text.drawn(found))
    return console.export_text()


def test_a_run_that_trains_on_another_machine(tmp_path):
    begin(tmp_path, NOW - 900, **LIMIT)
    train(tmp_path, NOW - 605, 10, 210)
    now(tmp_path, NOW - 4, 211)
    save(tmp_path, 200)
    (tmp_path / "checkpoints" / ".iter_0000211.partial").mkdir()
    found = seen(tmp_path)
    assert (found.state, found.is_well, found.step, found.steps, found.steps_at_risk) == ("training", True, 211, 500, 11)
    assert found.recent_loss == pytest.approx(sum(100 / step for step in range(20, 211, 10)) / 20)
    shown = text(found)
    for words in ("training, heard of 4 s ago", "211 of 500 (42.2%), epoch 0.84", "1,000 tokens/s", "MFU 48.0%", "2 s/step",
                  "step 200, 4.0 kB, 50 s old", "iter_0000211 is being written", "11 steps would be lost if it died now",
                  "8 ranks on n[1-2]", "training now", "not finite"):
        assert words in " ".join(shown.split()), words
    assert max(map(len, shown.splitlines())) <= 100 and "…" not in shown


def attempts_needed(rest_s: float, left_s: float, limit_s: float, loading_s: float) -> int:
    """Attempt after attempt, second by second."""
    rest, count = rest_s - left_s, 0
    while rest > 0:
        count += 1
        for second in range(int(limit_s)):
            rest -= second >= loading_s
    return count


@pytest.mark.parametrize("left_s, limit_s", [(100, 1000), (866, 1000), (868, 1000), (100, 300), (3, 200), (100, 867)])
def test_the_rest_is_given_in_wall_time_and_in_attempts(tmp_path, left_s, limit_s):
    begin(tmp_path, NOW - 900, ends_at=NOW + left_s, limit_s=limit_s, limit_from="SLURM")
    train(tmp_path, NOW - 605, 10, 210)
    now(tmp_path, NOW, 211)
    pace = seen(tmp_path).pace
    assert pace.step_s == pytest.approx(3.0), "validations and saves take time too"
    assert pace.rest_s == pytest.approx(289 * 3.0) and pace.left_s == left_s
    assert pace.more_attempts == attempts_needed(867, left_s, limit_s, loading_s=100)


def test_what_is_left_says_what_is_needed(tmp_path):
    begin(tmp_path, NOW - 900, **LIMIT)
    train(tmp_path, NOW - 605, 10, 210)
    now(tmp_path, NOW, 210)
    assert dict(status_text.rows(seen(tmp_path)))["left"] == (
        f"0:14:30 at 3 s/step of wall time, until {status_facts.clock(NOW + 870, NOW)}; this attempt has 0:01:40 left of "
        "0:16:40; needs 1 more attempt of 0:16:40")
    assert seen(tmp_path, NOW - 5000).pace.more_attempts == 0
    assert "which is enough" in dict(status_text.rows(seen(tmp_path, NOW - 5000)))["left"]
    event(tmp_path, "end", NOW, 210, why="ended after step 210 of 500: told to end", exit_code=75)
    assert dict(status_text.rows(seen(tmp_path)))["left"] == "0:14:30 at 3 s/step of wall time; needs 1 attempt of 0:16:40"


@pytest.mark.parametrize("phase, quiet_s, expected", [
    ("training", 110, "training"), ("training", 130, "silent"), ("validating", 650, "validating"),
    ("validating", 730, "silent"), ("saving", 650, "saving"), ("saving", 730, "silent")])
def test_silence_is_measured_by_what_the_run_does(tmp_path, phase, quiet_s, expected):
    """Steps take 2 s; ten of them are less than two minutes."""
    begin(tmp_path, NOW - 2000)
    train(tmp_path, NOW - 1800, 10, 100)
    now(tmp_path, NOW - quiet_s, 101, phase)
    found = seen(tmp_path)
    assert (found.state, found.is_well) == (expected, expected != "silent")
    if expected == "silent":
        assert found.sentence == (f"silent for {status_facts.span(quiet_s)} after step 101, while {phase}: killed, or it "
                                  f"hangs; last heard {status_facts.clock(NOW - quiet_s, NOW)}")


def test_loading_may_take_half_an_hour_without_a_sign(tmp_path):
    begin(tmp_path, NOW - 1700, loads_s=None)
    now(tmp_path, NOW - 1700, 0, "loading")
    assert seen(tmp_path).sentence == "loading, heard of 28 min ago"
    assert seen(tmp_path, NOW + 200).state == "silent"
    assert "before training began, while loading: killed, or it hangs" in seen(tmp_path, NOW + 200).sentence


def test_a_process_of_this_machine_is_looked_for(tmp_path):
    """One that is gone, one that lives and is silent, one whose number somebody else has now."""
    code = "import json; from megatron_ft.training.attempt_record import identity; print(json.dumps(identity()))"
    gone = json.loads(subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True).stdout)
    here = attempt_record.identity()
    for name, process, expected in (("gone", gone, "killed"), ("here", here, "training"),
                                    ("other", {**here, "pid_started": here["pid_started"] - 100}, "killed")):
        begin(tmp_path / name, NOW - 900, **process)
        train(tmp_path / name, NOW - 700, 10, 200)
        now(tmp_path / name, NOW - 4, 204)
        assert seen(tmp_path / name).state == expected, name
    assert seen(tmp_path / "gone").sentence == ("ended without a word after step 204: its process is gone; last heard "
                                                f"{status_facts.clock(NOW - 4, NOW)}")
    assert "its process is there: it hangs, or is stopped" in seen(tmp_path / "here", NOW + 500).sentence


def test_every_attempt_is_told_of_also_what_a_resume_took_out(tmp_path):
    begin(tmp_path, NOW - 9000, commit="abc")
    event(tmp_path, "checkpoint", NOW - 8000, 100)
    save(tmp_path, 100)
    begin(tmp_path, NOW - 7000, step=100, restarts=1, before={"step": 187, "heard": NOW - 7600})
    event(tmp_path, "failed", NOW - 6900, 100, error="RuntimeError: Connection closed by peer", exit_code=1)
    event(tmp_path, "failed", NOW - 6899, 100, error="rank 3 (host n2, pid 4) failed: DataError: no", exit_code=2, rank=3)
    event(tmp_path, "failed", NOW - 6898, 100, error="RuntimeError: Broken pipe", exit_code=1)
    begin(tmp_path, NOW - 5000, step=100, loads_s=None, restarts=2)
    event(tmp_path, "failed", NOW - 4990, 100, error="CheckpointError: damaged", exit_code=2)
    begin(tmp_path, NOW - 900, step=100, restarts=3)
    train(tmp_path, NOW - 700, 110, 150)
    event(tmp_path, "end", NOW - 5, 153, why="told to end by SIGUSR1", exit_code=75)
    found = seen(tmp_path)
    first, second, third, fourth = found.attempts
    assert (first.reached, first.heard, first.has_ended, first.exit_code) == (187, NOW - 7600, False, None)
    assert (second.why, second.exit_code) == ("rank 3 (host n2, pid 4) failed: DataError: no", 2)
    assert (third.from_step, third.reached, fourth.from_step, fourth.reached) == (None, None, 100, 153)
    assert found.saved == [100, 100, 100, 100] and found.without_progress == 3
    shown = " ".join(text(found, 150).split())
    for words in (f"without a word after step 187, last heard {status_facts.clock(NOW - 7600, NOW)}", "7, restart 3",
                  "100 - 153", "CheckpointError: damaged (exit code 2)", "that have ended, the last 3 saved no new step",
                  "(exit code 75: the same command goes on)", "53 steps are not in it"):
        assert words in shown, words


def test_an_attempt_that_runs_is_not_counted_as_one_that_saved_nothing(tmp_path):
    for number in range(3):
        begin(tmp_path, NOW - 900 + 100 * number, ends_at=NOW, limit_s=1000)
    now(tmp_path, NOW - 1, 5)
    assert seen(tmp_path).without_progress == 2


@pytest.mark.parametrize("kind, details, state, well", [
    ("end", {"why": "done: 500 steps", "exit_code": 0}, "done", True),
    ("end", {"why": "told to end", "exit_code": 75}, "ended", True),
    ("end", {"why": "Ctrl-C", "exit_code": 130}, "ended", True),
    ("failed", {"error": "TrainingError: nan", "exit_code": 2}, "failed", False),
    ("failed", {"error": "TrainingError: nan"}, "failed", False)])
def test_how_it_ended_decides_the_exit_code(tmp_path, monkeypatch, capsys, kind, details, state, well):
    begin(tmp_path, NOW)
    event(tmp_path, kind, NOW + 200, 7, **details)
    assert seen(tmp_path, NOW + 300).state == state
    monkeypatch.setattr(sys, "argv", ["status", str(tmp_path)])
    assert status.main() == (0 if well else 1)
    assert (details.get("why") or details["error"]) in capsys.readouterr().out
    event(tmp_path, "requeue", NOW + 201, granted=False, why="the last 3 attempts", job="7", saved=0)
    assert status.main() == (0 if state == "done" else 1)
    assert "not requeued" in capsys.readouterr().out
    begin(tmp_path, NOW + 400)
    assert seen(tmp_path, NOW + 500).refusal == "", "it was submitted anew"


def test_a_damaged_checkpoint_is_none(tmp_path):
    begin(tmp_path, NOW - 900)
    train(tmp_path, NOW - 700, 10, 230)
    save(tmp_path, 100)
    save(tmp_path, 200, without="common.pt")
    found = seen(tmp_path)
    assert (found.checkpoint.step, found.damaged, found.steps_at_risk) == (100, [200], 130)
    assert "the checkpoint of step 200" in text(found)


def test_trouble_is_shown(tmp_path):
    begin(tmp_path, NOW - 900)
    at = train(tmp_path, NOW - 700, 10, 200)
    write(tmp_path, run_folder.METRICS, at, **{**seen(tmp_path).line, "step": 210, "skipped_steps": 4, "time": at})
    for step in (5, 8, 9, 12):
        write(tmp_path, run_folder.SPIKES, NOW, step=step, reason="spike", loss=step / 2)
    event(tmp_path, "warning", NOW - 60, text="run.dir: 3 GB free [not bold]")
    shown = " ".join(text(seen(tmp_path)).split())
    for words in ("4 steps whose loss or gradients were not finite", "run.dir: 3 GB free [not bold]",
                  "4 in spikes.jsonl, the last: step 8 spike 4; step 9 spike 4.5; step 12 spike 6"):
        assert words in shown, words


def test_a_run_from_before_attempts_were_recorded(tmp_path):
    event(tmp_path, "start", NOW - 9000)
    event(tmp_path, "resume", NOW - 900, 100)
    train(tmp_path, NOW - 700, 110, 200)
    found = seen(tmp_path)
    assert (found.state, found.step, found.steps) == ("training", 200, 500)
    assert [(each.from_step, each.about) for each in found.attempts] == [(0, {}), (100, {})]
    text(found)


def test_json_holds_what_the_text_does(tmp_path, capsys, monkeypatch):
    begin(tmp_path, NOW - 900, **LIMIT)
    train(tmp_path, NOW - 605, 10, 210)
    save(tmp_path, 200)
    monkeypatch.setattr(sys, "argv", ["status", str(tmp_path), "--json"])
    assert status.main() == 1, "that was long ago"
    facts = json.loads(capsys.readouterr().out)
    assert (facts["state"], facts["step"], facts["checkpoint"]["step"], facts["pace"]["step_s"]) == ("silent", 210, 200, 3.0)
    assert (facts["attempts"][0]["saved_step"], facts["attempts"][0]["about"]["job"]) == (200, "7")


def test_a_folder_without_an_attempt(tmp_path):
    (tmp_path / run_folder.CONFIG).write_text("")
    found = seen(tmp_path)
    assert (found.state, found.is_well) == ("silent", False) and "nothing has been written" in found.sentence
    text(found)


def test_a_watch_goes_on_until_the_run_ends(tmp_path):
    begin(tmp_path, NOW, loads_s=0, **attempt_record.identity())
    write(tmp_path, run_folder.METRICS, 3e9, step=3, loss=2.5, lr=1e-4, grad_norm=1.0, tokens_per_s=10.0, tflops_per_gpu=1.0,
          seconds_per_step=2.0, memory_bytes=1, epoch=0.1)
    watch = subprocess.Popen([sys.executable, "-m", "megatron_ft.status", str(tmp_path), "--watch", "0.01"],
                             stdout=subprocess.PIPE, text=True)
    try:
        lines = [watch.stdout.readline() for _ in range(3)]
        assert all("  training  step 3/500  loss 2.5  left 0:16:34\n" in line for line in lines)
        event(tmp_path, "end", 3e9, 4, why="done: 4 steps", exit_code=0)
        rest = watch.communicate(timeout=120)[0]
        assert f"{tmp_path}: done: 4 steps (exit code 0)" in rest.replace("\n", " ") and watch.returncode == 0
    finally:
        watch.kill()
        watch.wait()
