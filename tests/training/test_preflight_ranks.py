"""The preflight of a job's ranks names the node that differs, and ends in time whatever a rank does or leaves undone."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from megatron_ft.runtime.groups import free_port
from tests.training.runs import config

PROGRAM = "tests.training.preflight_programs:checked"


@pytest.fixture(scope="module")
def settings(bases, dataset, tmp_path_factory) -> dict[str, Any]:
    return config(bases("starcoder", "mqa")[1], dataset, tmp_path_factory.mktemp("preflight") / "run")


@pytest.fixture
def check(pool, settings, tmp_path):
    """Runs it on four ranks of two nodes; (every rank's answer, the table's lines by name)."""

    def command(*arguments: str, timeout_s: float = 60, **fault: Any) -> tuple[list[dict[str, Any]], dict[str, dict[str, str]]]:
        file = tmp_path / "run.toml"
        file.write_text(tomli_w.dumps({**settings, "parallel": {"tp": 2}}))
        answers = pool.run(4, PROGRAM, config=str(file), arguments=[*arguments, "--timeout", str(timeout_s), "--json"], **fault)
        assert [answer["out"] for answer in answers[1:]] == [""] * 3, "one table"
        return answers, {line["name"]: line for line in json.loads(answers[0]["out"])["checks"]}

    return command


def codes(answers: list[dict[str, Any]]) -> list[Any]:
    return [answer["code"] for answer in answers]


def test_ranks_that_are_alike_find_nothing(check, settings):
    answers, lines = check()
    assert codes(answers) == [0] * 4, lines
    assert {name for name, line in lines.items() if line["verdict"] != "ok"} <= {"tokenizer", "host memory"}
    for name, words in (("ranks", "4 ranks on 2 nodes: n0, n1"), ("plan", "4 processes = 2 tp x 1 pp x 2 dp"),
                        ("shared run.dir", "what each of 2 nodes wrote there is seen by all"), ("files", "2 nodes see "),
                        ("clocks", "at most 0.0"), ("versions", "the same on all: python 3."),
                        ("all-reduce, all ranks", "4 ranks, 2 MiB in "),
                        ("all-reduce, tensor parallel", "2 groups of 2: "), ("all-reduce, data parallel", "2 groups of 2: ")):
        assert words in lines[name]["found"], name
    assert not list(Path(settings["run"]["dir"]).parent.rglob(".preflight*")), "it leaves nothing"


@pytest.mark.parametrize("fault, culprits, name, words", [
    ("skew", [2], "clocks", "n1 is 7.5 s ahead of rank 0's; the limit is 2 s"),
    ("stale", [2], "file contents", "documents.bin: another content on n"),
    ("missing", [2], "files", "documents.bin: No such file or directory on n1"),
    ("versions", [3], "versions", "torch: 2.13.0+cpu on most, but rank 3 (n1) 1.0\nnumpy: "),
    ("broken", [1], "broken ranks", "rank 1 (n0): JSONDecodeError: "),
    ("blind", [3], "GPUs", "rank 3 (n1): torch sees no GPU"),
    ("wrong sum", [1], "all-reduce", "wrong sums on rank 1 (n0)"),
    ("stranger to run.dir", [2, 3], "shared run.dir", "/run: n1 and n0 do not see each other's files")])
def test_what_differs_is_named_with_its_place_and_ends_all_ranks_alike(check, fault, culprits, name, words):
    answers, lines = check(fault=fault, culprits=culprits)
    assert codes(answers) == [1] * 4
    if name == "versions":
        words = words.replace("2.13.0+cpu", importlib.metadata.version("torch"))
    assert lines[name]["verdict"] == "fail" and words in lines[name]["found"] and lines[name]["advice"], lines[name]
    assert {other for other, line in lines.items() if line["verdict"] == "fail"} == {name}
    assert ("all-reduce" in lines and "not tried" in lines["all-reduce"]["found"]) == (fault in ("broken", "blind"))


def test_a_nodes_own_copies_are_only_a_warning_and_a_skew_may_be_allowed(check):
    answers, lines = check(fault="copy", culprits=[2])
    assert codes(answers) == [0] * 4 and lines["file copies"]["verdict"] == "warn"
    assert "same samples" in lines["file copies"]["found"]
    answers, lines = check("--max-skew", "9", fault="skew", culprits=[2])
    assert codes(answers) == [0] * 4 and "at most 7.5" in lines["clocks"]["found"]


def test_a_bandwidth_that_is_asked_for_decides(check):
    answers, lines = check("--min-bandwidth", "1000")
    assert codes(answers) == [1] * 4
    assert lines["all-reduce, all ranks"]["found"].endswith("; --min-bandwidth is 1e+03 GB/s")


def test_a_rank_that_does_not_come_is_named(check):
    answers, lines = check(timeout_s=10, culprits=[2], absent=True)
    assert codes(answers) == [1, 1, None, 1]
    assert "3 of 4 processes came within 10 s" in lines["rendezvous"]["found"] and "not rank 2" in lines["rendezvous"]["found"]
    for rank in (1, 3):
        assert answers[rank]["err"].startswith(f"error: preflight of rank {rank}: rendezvous at 127.0.0.1:")


def test_a_rank_that_hangs_before_it_speaks_is_named(check):
    answers, lines = check(timeout_s=10, fault="hang before words", culprits=[3])
    assert [answers[rank]["code"] for rank in range(3)] == [1] * 3
    assert lines["silent ranks"]["found"] == "no word within 10 s from rank 3, which came to the rendezvous"


def test_a_rank_that_hangs_in_a_collective_ends_with_the_others(check, pool):
    answers, lines = check(timeout_s=10, fault="hang in all-reduce", culprits=[3])
    assert codes(answers) == ["os._exit(1)"] * 4, "what hangs cannot be told to stop"
    assert lines["all-reduce"]["found"] == ("not done within 10 s by rank 0 (n0), rank 1 (n0), rank 2 (n1), rank 3 (n1)")
    pool.close()  # their threads still hang, and would meddle with the next test's process groups


@pytest.mark.slow
def test_two_real_processes_print_one_table(settings, tmp_path):
    (tmp_path / "run.toml").write_text(tomli_w.dumps(settings))
    common = {**os.environ, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1",
              "MASTER_PORT": str(free_port())}
    command = [sys.executable, "-m", "megatron_ft.preflight", str(tmp_path / "run.toml")]
    ranks = [subprocess.Popen(command, env={**common, "RANK": str(rank), "SLURMD_NODENAME": f"n{rank}"}, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True) for rank in range(2)]
    try:
        printed = [rank.communicate(timeout=600) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], printed
    assert "all-reduce, all ranks" in printed[0][0] and printed[0][0].endswith("nothing is in the way\n")
    assert printed[1][0] == "" and "2 ranks on 2 nodes: n0, n1" in printed[0][0]
