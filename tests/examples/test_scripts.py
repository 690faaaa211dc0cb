"""What the shell scripts and the tools around the quickstart do when asked, misused or given a failing command."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from examples import plot_loss
from tests.examples.conftest import ROOT

SHELL = ("install.sh", "tests/run.sh", "examples/quickstart.sh", ".ci/run")
TOOLS = ("make_data", "make_model", "measured", "plot_loss", "summary")


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in command], cwd=ROOT, capture_output=True, text=True, check=False,
                          timeout=120, env={**os.environ, **environment})


def tool(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, f"examples/{name}.py", *arguments)


@pytest.mark.parametrize("script", SHELL)
def test_a_shell_script_parses_stops_at_errors_and_can_be_started(script):
    assert run("bash", "-n", script).returncode == 0
    assert "set -euo pipefail" in (ROOT / script).read_text()
    assert os.access(ROOT / script, os.X_OK)


@pytest.mark.parametrize("script", SHELL)
def test_no_registry_is_named(script):
    assert not re.search(r"index-url|https?://|find-links", (ROOT / script).read_text())


@pytest.mark.parametrize("script", ["install.sh", "examples/quickstart.sh"])
def test_help_says_what_it_does_and_an_unknown_argument_is_refused(script):
    asked = run("bash", script, "--help")
    assert asked.returncode == 0
    assert f"bash {script}" in asked.stdout
    refused = run("bash", script, "--colour")
    assert refused.returncode == 2
    assert "unknown argument '--colour'" in refused.stderr


@pytest.mark.parametrize("name", TOOLS)
def test_a_tool_explains_itself(name):
    asked = tool(name, "--help")
    assert asked.returncode == 0
    assert f"python examples/{name}.py" in asked.stdout


def test_install_names_what_is_wrong_with_the_python_that_it_was_given():
    refused = run("bash", "install.sh", PYTHON="false")
    assert refused.returncode == 1
    assert "no Python 3.10 or newer found" in refused.stderr


def test_quickstart_never_writes_into_a_folder_that_exists(tmp_path):
    refused = run("bash", "examples/quickstart.sh", "--output", tmp_path, "--device", "cpu")
    assert refused.returncode == 2
    assert f"--output: {tmp_path} exists already" in refused.stderr
    assert not list(tmp_path.iterdir())


def test_quickstart_refuses_an_unknown_device():
    refused = run("bash", "examples/quickstart.sh", "--device", "tpu")
    assert refused.returncode == 2
    assert "--device: 'tpu' is unknown" in refused.stderr


def test_measured_notes_time_memory_and_exit_code_of_the_whole_tree(tmp_path):
    record, holds = tmp_path / "stages.jsonl", 200 * 2**20
    child = f"import time; held = b'x' * {holds}; time.sleep(2)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}]); sys.exit(7)"
    done = tool("measured", "--record", record, "--stage", "seven", "--", sys.executable, "-c", parent)
    noted = json.loads(record.read_text())
    assert (done.returncode, noted["exit_code"], noted["stage"]) == (7, 7, "seven")
    assert noted["peak_bytes"] > holds
    assert noted["seconds"] >= 2


def test_measured_says_when_a_command_does_not_exist(tmp_path):
    done = tool("measured", "--record", tmp_path / "r", "--stage", "x", "--", "no-such-command-here")
    assert done.returncode == 2
    assert "no-such-command-here: cannot be started" in done.stderr


def finished(folder: Path, after: float) -> Path:
    """A quickstart's folder with these results."""
    stage = {"stage": "train", "seconds": 61.5, "peak_bytes": 3 * 2**30}
    (folder / "stages.jsonl").write_text(json.dumps(stage) + "\n")
    for name, score in (("before", 0.0), ("after", after), ("held_out", 0.25)):
        (folder / name).mkdir()
        (folder / name / "summary.json").write_text(json.dumps({"scores": [{"pass@k": {"1": score}, "problems": 4}]}))
    return folder


@pytest.mark.parametrize(("after", "code"), [(1.0, 0), (0.75, 1)])
def test_the_summary_shows_the_scores_and_fails_unless_all_was_learnt(after, code, tmp_path):
    done = tool("summary", finished(tmp_path, after))
    assert done.returncode == code
    assert f"{after:.2f}" in done.stdout and "0.25" in done.stdout and "3,072" in done.stdout
    assert ("expected 1.00" in done.stderr) == (code == 1)
    assert json.loads((tmp_path / "quickstart.json").read_text())["pass@1"]["after"] == after


def test_the_summary_of_an_unfinished_quickstart_is_refused(tmp_path):
    done = tool("summary", tmp_path)
    assert done.returncode == 2
    assert "is not the folder of a finished quickstart" in done.stderr


def test_the_loss_plot_reads_both_curves(tmp_path):
    rows = [{"step": 0, "valid_loss": 5.0}, {"step": 10, "loss": 3.0}, {"step": 20, "loss": 2.0},
            {"step": 20, "valid_loss": 4.0}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert plot_loss.read_losses(tmp_path, "loss") == ([10, 20], [3.0, 2.0])
    assert plot_loss.read_losses(tmp_path, "valid_loss") == ([0, 20], [5.0, 4.0])
    plot_loss.plot(tmp_path, tmp_path / "loss.png")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_the_loss_plot_says_what_it_did_not_find(tmp_path):
    assert "metrics.jsonl: no such file" in tool("plot_loss", tmp_path).stderr
    (tmp_path / "metrics.jsonl").write_text("")
    assert "holds no loss yet" in tool("plot_loss", tmp_path).stderr


def test_install_names_the_package_that_brings_pythons_venv_module(tmp_path):
    for name in ("install.sh", "setup.py"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    stubs = {"python": f'case "$*" in *ensurepip*) exit 1;; esac; exec {sys.executable} "$@"', "apt-get": "exit 100"}
    for name, body in stubs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    refused = run("bash", tmp_path / "install.sh", PYTHON="python", PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert refused.returncode == 1
    assert f"as root: apt-get install python3.{sys.version_info[1]}-venv" in refused.stderr
    assert not (tmp_path / ".venv").exists()
