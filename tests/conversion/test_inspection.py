"""What a folder is, said without anything but the folder."""

import json
import shutil

import pytest
from safetensors.torch import load_file

from megatron_ft.config import Lora
from megatron_ft.conversion import inspection, lora_to_hf
from megatron_ft.errors import CheckpointError
from tests.conversion.legacy_writer import write
from tests.conversion.test_scripts import run
from tests.small_models import hf_config
from tests.training.lora_programs import write_adapters


def facts(path):
    report = inspection.inspect(path)
    assert not report.problems, report.problems
    return report.format, report.facts, report


def test_a_hugging_face_folder(bases):
    kind, found, report = facts(bases("llama", "gqa")[0])
    assert kind == "Hugging Face model"
    assert found["family"] == "llama" and found["heads"] == "6, 2 for keys and values, 10 wide"
    assert found["vocabulary"] == "203" and found["tensors"] == "39: 39 float32" and found["tokenizer"] == "none in the folder"
    assert report.tensors["model.layers.3.mlp.up_proj.weight"] == ((92, 48), "float32")
    assert report.next.startswith("python convert/hf_to_megatron.py --hf ")


def test_a_checkpoint_of_ours_and_its_run_dir(bases, tmp_path):
    checkpoint = bases("starcoder", "mqa")[1]
    kind, found, _ = facts(checkpoint)
    assert kind == "torch_dist checkpoint of megatron_ft"
    assert (found["iteration"], found["optimizer state"], found["dtype"]) == ("converted weights", "none", "float32")
    (tmp_path / "run").mkdir()
    shutil.copytree(checkpoint, tmp_path / "run/checkpoints")
    assert facts(tmp_path / "run")[1] == found


def test_adapters_say_what_they_are_for(bases, tmp_path):
    write_adapters(bases("llama", "gqa")[1], tmp_path / "lora", Lora(rank=3, alpha=6.0, linears=("qkv", "fc2")))
    kind, found, report = facts(tmp_path / "lora")
    assert found["adapters"] == "LoRA, rank 3 on qkv, fc2; the base is not in it" and report.next.endswith("--lora merged")
    kind, found, _ = facts(lora_to_hf.convert(tmp_path / "lora", tmp_path / "adapter", form="adapter"))
    assert (kind, found["rank"]) == ("PEFT adapter", "3") and "down_proj" in found["modules"]


@pytest.mark.parametrize("family, variant, dialect, known", [
    ("llama", "gqa", "nvidia", False), ("llama", "gqa", "megatron-llm", False), ("starcoder", "mqa", "bigcode", True)])
def test_a_legacy_folder(bases, tmp_path, family, variant, dialect, known):
    tensors = load_file(bases(family, variant)[0] / "model.safetensors")
    write(tmp_path / "legacy", tensors, hf_config(family, variant), dialect=dialect, tp=2, pp=2, iteration=70)
    kind, found, report = facts(tmp_path / "legacy")
    assert kind == f"Megatron, a folder for each rank ({dialect})"
    assert (found["TP x PP"], found["iteration"], found["family"], found["layers"]) == ("2 x 2", "70", family, "4")
    assert ("vocabulary" in found) == known and report.next.endswith("--vocab-size N") != known
    if not known:
        assert found["stored vocabulary"].startswith("256 rows, padding included")


def test_what_a_folder_lacks_is_a_problem_and_not_the_end(bases, tmp_path):
    checkpoint = shutil.copytree(bases("llama", "gqa")[1], tmp_path / "checkpoint")
    (checkpoint / "release/metadata.json").unlink()
    report = inspection.inspect(checkpoint)
    assert report.problems[0] == "unfinished: metadata.json missing" and report.facts["family"] == "llama"
    hf = shutil.copytree(bases("llama", "gqa")[0], tmp_path / "hf")
    (hf / "model.safetensors").unlink()
    report = inspection.inspect(hf)
    assert "holds no weights" in report.problems[0] and report.facts["layers"] == "4" and not report.next


def test_nothing_is_taken_for_something(tmp_path):
    for path, message in ((tmp_path, "is neither a Hugging Face folder"), (tmp_path / "absent", "no such folder")):
        with pytest.raises(CheckpointError, match=message):
            inspection.inspect(path)


def test_the_script_prints_tables_or_json_and_its_exit_code_is_true(bases, tmp_path):
    hf = bases("llama", "gqa")[0]
    done = run("inspect_checkpoint.py", hf, "--tensors")
    assert done.returncode == 0 and "model.layers.3.mlp.up_proj.weight" in done.stdout and "92 x 48" in done.stdout, done.stderr
    done = run("inspect_checkpoint.py", hf, "--json")
    assert json.loads(done.stdout)["facts"]["layers"] == "4"
    broken = shutil.copytree(hf, tmp_path / "broken")
    (broken / "config.json").write_text("{}")
    done = run("inspect_checkpoint.py", broken)
    assert done.returncode == 1 and "model_type is None" in done.stdout
    done = run("inspect_checkpoint.py", tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("error: CheckpointError: ")


def test_a_word_in_brackets_is_printed_as_it_is(bases, tmp_path):
    hf = shutil.copytree(bases("llama", "gqa")[0], tmp_path / "[bold]hf")
    assert "[bold]hf" in run("inspect_checkpoint.py", hf).stdout


def test_legacy_files_are_found_without_their_numbers_being_read(bases, tmp_path, monkeypatch):
    from megatron_ft.runtime.stored_tensor import StoredTensor

    tensors = load_file(bases("llama", "gqa")[0] / "model.safetensors")
    write(tmp_path / "legacy", tensors, hf_config("llama", "gqa"), dialect="nvidia", tp=1, pp=1)
    monkeypatch.setattr(StoredTensor, "rows", lambda *_: pytest.fail("numbers were read"))
    assert facts(tmp_path / "legacy")[2].tensors["output_layer.weight (tp rank 0)"] == ((256, 48), "float32")
