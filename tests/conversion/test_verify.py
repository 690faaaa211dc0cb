"""verify says equal when it is, different when it is not, and its exit code tells."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from megatron_ft.conversion import hf_to_megatron, verify
from megatron_ft.errors import CheckpointError, ConfigError
from tests.small_models import make_hf_model

SCRIPTS = Path(__file__).parents[2] / "convert"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folder with a llama model and its checkpoint."""
    root = tmp_path_factory.mktemp("verify")
    make_hf_model("llama", "gqa", root / "hf")
    hf_to_megatron.convert(root / "hf", root / "megatron")
    return root


def run(*arguments, processes=1):
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    launcher = torchrun if processes > 1 else []
    return subprocess.run([sys.executable, *launcher, str(SCRIPTS / "verify.py"), *map(str, arguments)],
                          capture_output=True, text=True, check=False, timeout=300)


def test_a_converted_model_is_equal(models):
    done = run("--hf", models / "hf", "--checkpoint", models / "megatron")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "EQUAL (tolerance 0.0001)" in done.stdout and "100.00%" in done.stdout and "256, 9" in done.stdout


@pytest.mark.slow
def test_a_converted_model_is_equal_at_tp2_pp2(models):
    done = run("--hf", models / "hf", "--checkpoint", models / "megatron", "--tp", 2, "--pp", 2, processes=4)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("EQUAL (tolerance 0.0001)") == 1


@pytest.mark.parametrize("one, other", [("self_attn.k_proj", "self_attn.v_proj"), ("mlp.gate_proj", "mlp.up_proj")])
def test_swapped_projections_are_different_although_they_come_back_bit_for_bit(models, tmp_path, one, other):
    make_hf_model("llama", "gqa", tmp_path / "hf")
    tensors = load_file(tmp_path / "hf/model.safetensors")
    first, second = f"model.layers.1.{one}.weight", f"model.layers.1.{other}.weight"
    tensors[first], tensors[second] = tensors[second], tensors[first]
    save_file(tensors, tmp_path / "hf/model.safetensors", metadata={"format": "pt"})
    done = run("--hf", tmp_path / "hf", "--checkpoint", models / "megatron")
    assert done.returncode == 1, done.stderr[-3000:]
    assert "DIFFERENT" in done.stdout


def test_another_model_is_refused_before_anything_is_built(models, tmp_path):
    make_hf_model("llama", "mha", tmp_path / "hf")
    with pytest.raises(CheckpointError, match="groups is 6, but 2 in .*the two belong to different models"):
        verify.checked(tmp_path / "hf", models / "megatron")


def test_the_wrong_number_of_processes_is_refused_with_the_command_to_use(models):
    with pytest.raises(ConfigError, match="--tp 2 x --pp 2 takes 4 processes, but 1 run; .*torchrun"):
        verify.verify(models / "hf", models / "megatron", tolerance=1e-4, tokens=10, tp=2, pp=2)


def test_no_number_at_all_is_never_equal():
    logits = torch.zeros(3, 5)
    broken = logits.clone()
    broken[1, 2] = float("nan")
    assert verify.compare(logits, logits, [1, 2], tolerance=0.0).equal
    assert not verify.compare(logits, broken, [1, 2], tolerance=1e9).equal


def test_documents_of_many_lengths_fill_the_row():
    assert verify.document_lengths(7, longest=96) == [1, 2, 4]
    with pytest.raises(ConfigError, match="--tokens: 0, expected at least 1"):
        verify.document_lengths(0, longest=96)
