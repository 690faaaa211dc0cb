"""What one process checks before a job is queued, and how the words of many ranks compare."""

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
    preflight_compare,
    preflight_files,
    preflight_machine,
    preflight_network,
    preflight_packages,
    preflight_run,
    run_folder,
)
from megatron_ft.training.estimate import estimate
from megatron_ft.training.gpus import GIB
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


def rank(number: int, node: str = "n0", *, local: int = 0, **changed: Any) -> dict[str, Any]:
    """A rank's facts."""
    gpu = {"name": "NVIDIA A100-SXM4-80GB", "bytes": 79 * GIB, "free_bytes": 78 * GIB, "count": 2, "id": f"GPU-{number}",
           "bf16": True}
    machine = {"memory_bytes": 500 * GIB, "shm_bytes": 9 * GIB, "driver": "550.1", "tmp": "/tmp", "tmp_bytes": 50 * GIB}
    found = {"rank": number, "node": node, "local_rank": local, "local_size": 2, "device": "cuda", "offline": [], "gpu": gpu,
             "versions": {"python": "3.11", "torch": "2.13", "megatron-core": "0.16.1", "commit": "abc"},
             "gpu_libraries": {"NCCL": "2.27"}, **({} if local else {"machine": machine})}
    for name, value in changed.items():
        found[name] = {**found[name], **value} if isinstance(value, dict) else value
    return found


def four(**of_last_node: Any) -> list[dict[str, Any]]:
    return [rank(0), rank(1, local=1), rank(2, **{"node": "n1", **of_last_node}), rank(3, "n1", local=1)]


SETTINGS = parse({"run": {"dir": "run", "steps": 5}, "load": {"from": "base"}, "data": {"train": ["mix"]},
                  "parallel": {"tp": 2}})


def lines_of(found: list[dict[str, Any]], *, checkpoint_bytes: int = 200 * GIB) -> dict[str, Check]:
    return {line.name: line for line in preflight_compare.compare(found, SETTINGS, checkpoint_bytes=checkpoint_bytes)}


def test_ranks_that_are_alike():
    assert {line.verdict for line in lines_of(four()).values()} == {"ok"}
    assert lines_of(four())["GPUs"].found == "4 x NVIDIA A100-SXM4-80GB, 79.0 GiB"
    assert preflight_compare.gpu_of(four()).memory_bytes == 79 * GIB


@pytest.mark.parametrize("changed, name, verdict, words", [
    ({"gpu": {"name": "NVIDIA A100-SXM4-40GB", "bytes": 39 * GIB}}, "GPUs", "fail", "rank 2 (n1) NVIDIA A100-SXM4-40GB, 39.0 "),
    ({"gpu": {"id": "GPU-0"}}, "GPUs", "ok", "4 x "),
    ({"gpu": {"free_bytes": 60 * GIB}}, "GPUs in use", "warn", "rank 2 (n1) 19.0 GiB"),
    ({"device": "cpu", "gpu": None}, "GPUs", "fail", "most ranks run on cuda, but rank 2 (n1) on cpu"),
    ({"gpu_error": "shows 1 GPU to its 2 ranks"}, "GPUs", "fail", "rank 2 (n1): shows 1 GPU to its 2 ranks"),
    ({"versions": {"megatron-core": "0.16.0"}}, "versions", "fail", "megatron-core: 0.16.1 on most, but rank 2 (n1) 0.16.0"),
    ({"gpu_libraries": {"NCCL": "2.26"}}, "versions", "fail", "NCCL: 2.27 on most, but rank 2 (n1) 2.26"),
    ({"machine": {"driver": "535.2"}}, "drivers", "warn", "n1 535.2"),
    ({"machine": {"memory_bytes": 105 * GIB}}, "host memory", "fail", "105.0 GiB free on n1; its 2 ranks take about 106.0"),
    ({"machine": {"shm_bytes": GIB // 16}}, "/dev/shm", "warn", "n1 0.06 GiB"),
    ({"machine": {"tmp_bytes": None, "tmp_error": "Read-only file system"}}, "TMPDIR", "fail", "n1: Read-only file system"),
    ({"machine": {"tmp_bytes": GIB // 2}}, "TMPDIR", "warn", "n1 0.50 GiB"),
    ({"offline": ["HF_HUB_OFFLINE"]}, "offline", "warn", "HF_HUB_OFFLINE not set on rank 2 (n1)"),
    ({"node": "n7"}, "ranks", "warn", "1 tensor-parallel groups of 2 reach over nodes")])
def test_a_rank_or_node_that_differs_is_named(changed, name, verdict, words):
    line = lines_of(four(**changed))[name]
    assert line.verdict == verdict and words in line.found and (line.advice or verdict == "ok"), line


def test_one_gpu_for_two_ranks_of_a_node_is_refused():
    found = four()
    found[1]["gpu"]["id"] = "GPU-0"
    assert "one GPU for several ranks: ranks 0, 1 on n0" in lines_of(found)["GPUs"].found


def test_uneven_nodes_are_named():
    found = [*four(), rank(4, "n2"), rank(5, "n2", local=1), rank(6, "n3")]
    assert "most have 2, n3 1" in lines_of(found)["ranks"].found


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


@pytest.mark.parametrize("count, per_node", [(1, 4), (2, 4), (3, 2), (4, 2), (7, 1), (8, 3)])
def test_each_node_meets_both_neighbours_once_and_one_at_a_time(count, per_node):
    nodes = [list(range(per_node * node, per_node * (node + 1))) for node in range(count)]
    met = []
    for kind, pairs in preflight_network.groups(nodes, tp=1, dp=1):
        if kind.startswith("neighbour"):
            flat = [member for pair in pairs for member in pair]
            assert len(set(flat)) == len(flat), "a link is not shared"
            met += [tuple(sorted(member // per_node for member in pair)) for pair in pairs]
    ring = {tuple(sorted((node, (node + 1) % count))) for node in range(count)} if count > 2 else set()
    assert sorted(met) == sorted([pair for pair in ring for _ in range(per_node)])


def test_groups_are_those_of_the_layout():
    """tp 2 x dp 3 x pp 2 on three nodes of four: against megatron-core's order, written out."""
    kinds = dict(preflight_network.groups([[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]], tp=2, dp=3))
    assert kinds["tensor parallel"] == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10, 11]]
    assert kinds["data parallel"] == [[0, 2, 4], [1, 3, 5], [6, 8, 10], [7, 9, 11]]
    assert kinds["all ranks"] == [list(range(12))] and kinds["inside nodes"][1] == [4, 5, 6, 7]
    alike = preflight_network.groups([[0, 1], [2, 3]], tp=2, dp=2)
    assert "inside nodes" not in dict(alike), "the same as the tensor parallel ones"


def measured(nodes: int, speed_of: dict[int, float]) -> tuple[dict[int, dict], dict[str, list[int]]]:
    """What nodes of two ranks would measure whose network has these speeds in GB/s, others 20."""
    ranks = {f"n{node}": [2 * node, 2 * node + 1] for node in range(nodes)}
    results: dict[int, dict] = {rank: {} for node in ranks.values() for rank in node}
    size = preflight_network.SIZES["cuda"][0]
    for kind, groups in preflight_network.groups(list(ranks.values()), tp=2, dp=nodes):
        for members in groups:
            touched = {member // 2 for member in members}
            speed = 1e9 * (200 if len(touched) == 1 else min(speed_of.get(node, 20.0) for node in touched))
            for member in members:
                results[member][kind] = [members, size * 2 * (len(members) - 1) / len(members) / speed, True]
    return results, ranks


@pytest.mark.parametrize("nodes", [3, 4, 5, 8])
@pytest.mark.parametrize("slow", [0, 1, 2])
def test_the_node_with_the_slow_link_is_named_and_no_other(nodes, slow):
    found = preflight_network.checks(*measured(nodes, {slow: 4.0}), device="cuda", least_bandwidth=None)
    lines = {line.name: line for line in found}
    assert lines["slow nodes"].verdict == "warn"
    assert lines["slow nodes"].found == f"to the better of its neighbours: n{slow} 4 GB/s; the median is 20 GB/s"
    assert f"{2 * nodes} ranks, 256 MiB in " in lines["all-reduce, all ranks"].found
    assert lines["all-reduce, all ranks"].found.endswith("4 GB/s bus")
    assert lines["all-reduce, tensor parallel"].found.startswith(f"{nodes} groups of 2: 200 GB/s bus in the middle")


def test_nodes_that_are_alike_and_a_bandwidth_that_is_too_low():
    results, nodes = measured(4, {})
    lines = {line.name: line for line in preflight_network.checks(results, nodes, device="cuda", least_bandwidth=21e9)}
    assert lines["slow nodes"].verdict == "ok"
    assert [name for name, line in lines.items() if line.verdict == "fail"] == ["all-reduce, all ranks"]
    assert preflight_network.checks(results, nodes, device="cuda", least_bandwidth=19e9)[0].verdict == "ok"
    results[3]["tensor parallel"][1] *= 10
    lines = {line.name: line for line in preflight_network.checks(results, nodes, device="cuda", least_bandwidth=None)}
    assert "least 20 GB/s of ranks 2, 3 (n1)" in lines["all-reduce, tensor parallel"].found
    assert lines["all-reduce, tensor parallel"].verdict == "warn"


def test_the_table_fits_a_terminal_and_has_the_worst_last(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "100")
    preflight_check.show("preflight", [Check("x", "fail", "n" * 150, "do [this]"), Check("y", "ok", "fine"),
                                       Check("z", "warn", "so")])
    lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert max(map(len, lines)) <= 100 and "…" not in "".join(lines)
    assert [line.split()[1] for line in lines if line[2:3] in ("x", "y", "z")] == ["y", "z", "x"]
