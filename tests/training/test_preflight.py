"""What one process checks before a job is queued, and what a rank says of its machine."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import tomli_w

from megatron_ft import cli, preflight
from megatron_ft import config as configs
from megatron_ft.config import parse
from megatron_ft.data import tokenizer
from megatron_ft.runtime import checkpoint_files, checkpoint_layout, source_code
from megatron_ft.training import (
    attempt_record,
    base_model,
    gpus,
    preflight_check,
    preflight_files,
    preflight_machine,
    preflight_packages,
    preflight_run,
    run_folder,
)
from megatron_ft.training.estimate import estimate
from megatron_ft.training.preflight_check import Check
from tests.data.small_tokenizers import bytes_tokenizer
from tests.training.runs import config

ROOT = Path(__file__).parents[2]


@pytest.fixture
def file(bases, dataset, tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("SLURM_") or name in ("RANK", "WORLD_SIZE")]:
        monkeypatch.delenv(name)
    path = tmp_path / "run.toml"
    path.write_text(tomli_w.dumps(config(bases("starcoder", "mqa")[1], dataset, tmp_path / "runs" / "run")))
    return path


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the command; (exit code, its checks by name, its error)."""

    def command(*arguments: object) -> tuple[int, dict[str, Any], str]:
        monkeypatch.setattr(sys, "argv", ["preflight", *map(str, arguments), "--json"])
        with pytest.raises(SystemExit) as ended:
            cli.main(preflight.main)
        printed = capsys.readouterr()
        return ended.value.code, {each["name"]: each for each in json.loads(printed.out)["checks"]} if printed.out else {}, \
            printed.err

    return command


def test_a_run_that_can_work_leaves_no_trace(run, file, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    code, lines, _ = run(file, "--gpus", 4, "parallel.tp=2", "--gpu", "h100")
    assert code == 0, lines
    for name, words in (("plan", "4 processes = 2 tp x 1 pp x 2 dp\n8 rows/step"), ("data", "180 documents, "),
                        ("base model", "starcoder, 90,744 parameters"), ("room", "= 3 x 1.1 MB for the 2 checkpoints that "),
                        ("run.dir", "starts anew; files can be written, synced and renamed"),
                        ("packages", "megatron-core 0.16."), ("GPU memory", "h100-80g: the fullest (stage 0) needs 1."),
                        ("tokenizer", "")):
        assert words in lines[name]["found"], (name, lines[name])
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("arguments, size", [
    (["--gpus", 6], 6), (["--nodes", 3], 24), (["--nodes", 3, "--tasks-per-node", 2], 6),
    (["--gpus", 6, "--nodes", 3, "--tasks-per-node", 2], 6), ([], 1)])
def test_the_size_of_the_job_is_as_named(run, file, arguments, size):
    _, lines, _ = run(file, *arguments, "data.rows_per_step=48")
    assert lines["plan"]["found"].startswith(f"{size} processes = 1 tp x 1 pp x {size} dp")


def test_an_allocation_says_its_size_itself(run, file, monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "4")
    assert run(file)[1]["plan"]["found"].startswith("4 processes")


@pytest.mark.parametrize("arguments, words", [
    (["nowhere.toml"], "nowhere.toml: no such config file"),
    (["--gpus", "0"], "--gpus: 0 is not above 0"),
    (["--tasks-per-node", "4"], "--tasks-per-node: 4 on how many nodes? add --nodes N"),
    (["--gpus", "9", "--nodes", "1"], "--gpus: 9, but --nodes 1 x --tasks-per-node 8 are 8; give one of them"),
    (["--min-bandwidth", "-1"], "--min-bandwidth: -1 is not above 0"),
    (["--max-skew", "0"], "--max-skew: 0 is not above 0"),
    (["--gpu", "a100"], "a100 comes with 40 and with 80 GB"),
    (["parallel.tq=2"], "parallel.tq=2")])
def test_what_cannot_be_read_ends_with_2(run, file, arguments, words):
    code, lines, error = run(*([] if arguments[0].endswith(".toml") else [file]), *arguments)
    assert (code, lines) == (2, {}) and words in error


@pytest.mark.parametrize("changes, name, words, advice", [
    (["--gpus", "3", "parallel.tp=2"], "config and data", "3 processes cannot be split into tp=2", "start 2 or 4 processes"),
    (["data.train=['nowhere/mix']"], "config and data", "nowhere/mix", ""),
    (["load.from=nowhere"], "config and data", "load.from: nowhere: no such folder", "name a Hugging Face model folder"),
    (["run.dir=/proc/run"], "run.dir", "/proc/run", "")])
def test_what_cannot_work_is_said_and_the_rest_is_still_looked_at(run, file, changes, name, words, advice):
    code, lines, _ = run(file, *changes)
    assert code == 1 and lines[name]["verdict"] == "fail"
    assert words in lines[name]["found"] and advice in lines[name]["advice"], lines[name]
    assert lines["packages"]["verdict"] == "ok" and ("run.dir" in lines)


def test_memory_that_a_gpu_has_not_is_refused(run, file, monkeypatch):
    settings = configs.read(file, [])
    architecture = base_model.find(settings.load.base).architecture
    needed = estimate(settings, architecture, gpus.GPUS["l40s-48g"], processes=1).fullest.total
    for memory_bytes, verdict in ((int(1.05 * needed), "warn"), (needed - 1, "fail")):
        monkeypatch.setitem(gpus.GPUS, "l40s-48g", dataclasses.replace(gpus.GPUS["l40s-48g"], memory_bytes=memory_bytes))
        code, lines, _ = run(file, "--gpu", "l40s")
        assert lines["GPU memory"]["verdict"] == verdict and "--search" in lines["GPU memory"]["advice"], lines["GPU memory"]
        assert code == (verdict == "fail")
    code, lines, _ = run(file, "--gpu", "v100", "model.precision=bf16")
    assert code == 1 and "v100-32g has no bf16 units" in lines["layout"]["found"] and "fp16" in lines["layout"]["advice"]


def test_room_is_counted_for_what_stays_and_what_is_there(file, bases):
    settings = configs.read(file, ["checkpoint.keep_last=3"])
    architecture = checkpoint_layout.Manifest.read(checkpoint_layout.find(bases("starcoder", "mqa")[1])).architecture
    one = 12 * architecture.parameters  # fp32: the weight and two moments
    (Path(settings.run.dir) / "checkpoints" / "iter_0000003").mkdir(parents=True)
    for free, verdict in ((3 * one, "ok"), (3 * one - 1, "warn"), (one - 1, "fail")):
        with mock.patch.object(checkpoint_files, "free_bytes", lambda folder, free=free: free):
            assert preflight_run.room(settings, architecture).verdict == verdict
    assert "3 x 1.1 MB for the 3 checkpoints that stay and the one that is being written, 1 are there" in preflight_run.room(
        settings, architecture).found


def test_the_tokenizer_of_the_data_is_the_models(tmp_path):
    """Two with as many tokens, so that a start takes either."""
    one = bytes_tokenizer(tmp_path / "one", ["<a>"])
    other = bytes_tokenizer(tmp_path / "other", ["<b>"])
    assert tokenizer.load(one).vocabulary == tokenizer.load(other).vocabulary
    mine, others = tokenizer.load(one).fingerprint, tokenizer.load(other).fingerprint
    assert preflight_run.same_tokenizer([mine], one) == Check("tokenizer", "ok", f"data were made with the base model's "
                                                              f"({mine[:12]})")
    line = preflight_run.same_tokenizer([mine, others], one)
    assert line.verdict == "warn" and f"made with {others[:12]}, the base model's is {mine[:12]}" in line.found
    assert preflight_run.same_tokenizer([], one).verdict == "warn"
    assert "cannot be read" in preflight_run.same_tokenizer([mine], tmp_path / "none").found


def test_a_folder_is_tried_and_left_as_it_was(tmp_path):
    assert preflight_run.probe(tmp_path / "a" / "b") == "" and not (tmp_path / "a").exists()
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "mine").touch()
    with mock.patch("fcntl.flock", side_effect=OSError(errno.ENOLCK, "No locks available")):
        assert "has no locks" in preflight_run.probe(tmp_path / "a")
    for call in ("fcntl.flock", "pathlib.Path.rename"):
        with mock.patch(call, side_effect=OSError(errno.EIO, "Input/output error")):
            [line] = preflight_run.run_dir(tmp_path / "a")
        assert line.verdict == "fail" and "Input/output error" in line.found
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["mine"]


def test_a_run_that_goes_on_in_the_folder_is_seen(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    about = {"step": 0, "event": "attempt", "job": "7", "nodes": "n[1-2]", "boot": "elsewhere"}
    run_folder.append(tmp_path / run_folder.EVENTS, about)
    line = list(preflight_run.run_dir(tmp_path))[-1]
    assert line.verdict == "warn" and "job 7 on n[1-2]" in line.found
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert len(list(preflight_run.run_dir(tmp_path))) == 1, "its own earlier start"
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    run_folder.append(tmp_path / run_folder.EVENTS, {"step": 0, "event": "end", "why": "done", "exit_code": 0})
    assert len(list(preflight_run.run_dir(tmp_path))) == 1, "it has ended"
    here = {**about, **attempt_record.identity()}
    run_folder.append(tmp_path / run_folder.EVENTS, {**here, "pid_started": here["pid_started"] - 1000})
    assert len(list(preflight_run.run_dir(tmp_path))) == 1, "it was killed"


def test_packages_are_compared_with_the_ranges_of_setup_py(tmp_path):
    wanted = preflight_packages.requirements()
    block = (ROOT / "setup.py").read_text().partition("install_requires=[")[2].partition("],\n    extras")[0]
    assert len(wanted) == block.count(",\n") - (sys.version_info >= (3, 11)), "tomli is for Python 3.10"
    found = preflight_packages.versions()
    assert preflight_packages.check(found, wanted).verdict == "ok"
    line = preflight_packages.check({**found, "megatron-core": "0.17.1", "numpy": "missing"}, wanted)
    assert line.verdict == "fail"
    assert line.found == "megatron-core 0.17.1 (<0.17,>=0.16.1 is needed), numpy missing (>=1.26 is needed)"
    installed = {each.name for each in preflight_packages.requirements(tmp_path / "no setup.py")}
    assert {"torch", "megatron-core", "numpy"} <= installed and "pytest" not in installed


SETTINGS = parse({"run": {"dir": "run", "steps": 5}, "load": {"from": "base"}, "data": {"train": ["mix"]},
                  "parallel": {"tp": 2}})


def test_facts_of_this_machine_are_those_of_other_tools(monkeypatch, tmp_path):
    monkeypatch.setenv("SLURMD_NODENAME", "n5")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "0")
    process = preflight.Process(3, 4, 0, 2, "127.0.0.1", 0)
    found = preflight_machine.facts(process, SETTINGS.model_copy(update={"runtime": SETTINGS.runtime.model_copy(
        update={"device": "cpu"})}))
    assert (found["rank"], found["node"], found["offline"]) == (3, "n5", ["HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"])
    assert found["versions"]["files of megatron_ft"] == source_code.fingerprint() and found["gpu"] is None
    available = int(next(line.split()[1] for line in Path("/proc/meminfo").read_text().splitlines() if "MemAvailable" in line))
    assert found["machine"]["memory_bytes"] < 1.3 * 1024 * available
    assert "machine" not in preflight_machine.facts(dataclasses.replace(process, local_rank=1), SETTINGS.model_copy(
        update={"runtime": SETTINGS.runtime.model_copy(update={"device": "cpu"})}))
    json.dumps(found)


def test_code_that_differs_in_a_byte_or_a_name_is_other_code(tmp_path):
    for name, text in (("a.py", "one"), ("b.py", "two")):
        (tmp_path / name).write_text(text)
    before = source_code.fingerprint(tmp_path)
    (tmp_path / "b.py").write_text("twi")
    changed = source_code.fingerprint(tmp_path)
    (tmp_path / "b.py").rename(tmp_path / "c.py")
    assert len({before, changed, source_code.fingerprint(tmp_path)}) == 3
    (tmp_path / "notes.txt").write_text("no code")
    assert source_code.commit(tmp_path) is None, "not a package in a checkout"


def test_a_commit_is_that_of_git(tmp_path):
    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", *arguments], check=True,
                              capture_output=True, text=True).stdout.strip()

    git("init")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "a.py").write_text("1")
    git("add", ".")
    git("commit", "-m", "one")
    git("tag", "-a", "v1", "-m", "a tag is no commit")
    assert source_code.commit(tmp_path / "package") == git("rev-parse", "HEAD")[:12]
    (tmp_path / "package" / "a.py").write_text("2")
    assert source_code.commit(tmp_path / "package") == git("rev-parse", "HEAD")[:12] + "-dirty"


def test_the_files_of_a_run_are_found_and_compared(bases, dataset, tmp_path):
    model = bases("starcoder", "mqa")[1]
    settings = parse(config(model, dataset, tmp_path))
    paths = preflight_files.of(settings, tmp_path / "run.toml")
    names = {Path(path).name for path in paths}
    assert {"run.toml", "documents.bin", "documents.idx", "documents.json", "config.json", "metadata.json"} <= names
    seen = preflight_files.seen(paths)
    assert seen[str(tmp_path / "run.toml")] == ["No such file or directory"] and len(seen[f"{dataset}.bin"]) == 3
    del seen[str(tmp_path / "run.toml")]
    [line] = preflight_files.compare({"n0": seen, "n1": seen, "n2": seen})
    assert line.verdict == "ok" and f"3 nodes see {len(paths) - 1} files" in line.found
    gone = parse({**config(model, dataset, tmp_path), "load": {"from": "gone"}, "data": {"train": ["gone/mix"], "valid": []}})
    assert {str(Path("gone").absolute()), str(Path("gone/mix").absolute())} <= set(preflight_files.of(gone, tmp_path / "x"))


def test_more_findings_than_fit_are_counted():
    views = {f"n{number}": {f"/data/{each}": ["no such file"] for each in range(9)} for number in range(12)}
    [line] = preflight_files.compare(views)
    assert line.found.count("\n") == preflight_check.LISTED and line.found.endswith("\nand 4 more")
    assert "n0, n1, n2, n3, n4, n5, n6, n7 and 4 more" in line.found


def test_the_table_fits_a_terminal_and_has_the_worst_last(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "100")
    preflight_check.show("preflight", [Check("x", "fail", "n" * 150, "do [this]"), Check("y", "ok", "fine"),
                                       Check("z", "warn", "so")])
    lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert max(map(len, lines)) <= 100 and "…" not in "".join(lines)
    assert [line.split()[1] for line in lines if line[2:3] in ("x", "y", "z")] == ["y", "z", "x"]
