"""The commands in preprocess/ do what their help says and leave with the right exit code."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.curation.small_rows import commit, read_rows, write_rows

ROOT = Path(__file__).parents[2]
PROBLEM = {"task_id": "Made/0", "docstring": "Give the mean of all numbers whose weight lies above the threshold."}


def command(name, *arguments):
    return subprocess.run([sys.executable, ROOT / "preprocess" / f"{name}.py", *map(str, arguments)], capture_output=True,
                          text=True, check=False)


@pytest.fixture
def files(tmp_path):
    write_rows(tmp_path / "in.jsonl", [commit(), commit(), commit(subject="fix it")])
    write_rows(tmp_path / "benchmark.jsonl", [PROBLEM])
    (tmp_path / "rules.toml").write_text('off = ["token_length"]\n')
    return tmp_path


OPTIONS = {"filter_commits": ["--rules", "rules.toml"], "deduplicate": ["--method", "exact"],
           "decontaminate": ["--benchmark", "benchmark.jsonl"]}


@pytest.mark.parametrize("name, kept", [("filter_commits", 2), ("deduplicate", 2), ("decontaminate", 3)])
def test_a_command_writes_says_and_leaves_with_0_then_refuses_to_overwrite(files, name, kept):
    options = [files / option if "." in option else option for option in OPTIONS[name]]
    arguments = ["--input", files / "in.jsonl", "--output", files / "out.jsonl", *options, "--workers", 2]
    done = command(name, *arguments)
    assert done.returncode == 0, done.stderr
    assert len(read_rows(files / "out.jsonl")) == kept
    assert f"out.jsonl: {kept} of 3 rows kept" in done.stdout
    again = command(name, *arguments)
    assert again.returncode == 2
    assert "error: ConfigError: --output: " in again.stderr and "out.jsonl exists already" in again.stderr


@pytest.mark.parametrize("name", list(OPTIONS))
def test_bad_arguments_and_bad_rows_are_a_user_s_error(files, name):
    options = [files / option if "." in option else option for option in OPTIONS[name]]
    (files / "bad.jsonl").write_text('{"old_contents": "a"}\n{"old\n')
    failed = command(name, "--input", files / "bad.jsonl", "--output", files / "out.jsonl", *options)
    assert failed.returncode == 2 and "bad.jsonl:" in failed.stderr and "Traceback" not in failed.stderr
    failed = command(name, "--input", files / "in.jsonl", "--output", files / "out.jsonl", *options, "--workers", 0)
    assert failed.returncode == 2 and "--workers: 0 processes do nothing" in failed.stderr
    assert not list(files.glob("*out.jsonl*"))


def test_the_rules_can_be_listed_without_data(files):
    listed = command("filter_commits", "--list-rules")
    assert listed.returncode == 0 and "[rules.subject_length]\nfield = " in listed.stdout
    (files / "all.toml").write_text(listed.stdout)
    assert command("filter_commits", "--list-rules", "--rules", files / "all.toml").stdout == listed.stdout
    assert command("filter_commits", "--input", "x").returncode == 2
