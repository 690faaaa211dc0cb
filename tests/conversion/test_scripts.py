"""What a user types: the scripts' exit codes and messages."""

import subprocess
import sys
from pathlib import Path

from tests.small_models import make_hf_model

SCRIPTS = Path(__file__).parents[2] / "convert"


def run(script, *arguments):
    return subprocess.run([sys.executable, str(SCRIPTS / script), *map(str, arguments)], capture_output=True, text=True,
                          check=False, timeout=120)


def test_there_and_back_from_the_command_line(tmp_path):
    make_hf_model("starcoder", "mqa", tmp_path / "hf")
    there = run("hf_to_megatron.py", "--hf", tmp_path / "hf", "--output", tmp_path / "megatron")
    assert there.returncode == 0 and "starcoder with 90,744 parameters in float32" in there.stderr, there.stderr
    assert "B/s]" in there.stderr, "no progress with its rate"
    back = run("megatron_to_hf.py", "--checkpoint", tmp_path / "megatron", "--output", tmp_path / "back")
    assert back.returncode == 0 and (tmp_path / "back/model.safetensors").is_file(), back.stderr
    again = run("megatron_to_hf.py", "--checkpoint", tmp_path / "megatron", "--output", tmp_path / "back")
    assert again.returncode == 2 and "exists already" in again.stderr


def test_a_users_mistake_is_one_line_and_exit_code_2(tmp_path):
    done = run("hf_to_megatron.py", "--hf", tmp_path / "absent", "--output", tmp_path / "out")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.startswith("error: CheckpointError: ") and "config.json: not found" in done.stderr
