"""verify says equal when it is, different when it is not, and its exit code and its JSON tell."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from megatron_ft.config import Lora
from megatron_ft.conversion import hf_to_megatron, lora_to_hf, megatron_to_hf, verify, verify_files
from megatron_ft.conversion.megatron_to_hf import Options
from megatron_ft.conversion.opening import Hints
from megatron_ft.conversion.verify import Settings
from megatron_ft.errors import CheckpointError, ConfigError
from megatron_ft.runtime.device import Process
from tests.conversion.legacy_writer import write
from tests.small_models import make_hf_model, make_random_model
from tests.training.lora_programs import write_adapters

SCRIPT = Path(__file__).parents[2] / "convert/verify.py"
ALONE = Process(0, 1, 0, 1, "127.0.0.1", 0)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folder with a llama model and its checkpoint."""
    root = tmp_path_factory.mktemp("verify")
    make_hf_model("llama", "gqa", root / "hf")
    hf_to_megatron.convert(root / "hf", root / "megatron")
    return root


@pytest.fixture
def report(pool):
    """(Settings) -> the report of a worker process alone, or of tp * pp that a launcher has started."""
    def made(settings: Settings, program: str = "verified"):
        found = pool.run(settings.ranks, f"tests.conversion.verify_programs:{program}", settings=settings)
        assert all(each == found[0] for each in found)
        return found[0]

    return made


def run(*arguments):
    return subprocess.run([sys.executable, str(SCRIPT), *map(str, arguments)], capture_output=True, text=True, check=False,
                          timeout=300)


def change(folder: Path, name: str, position: int, value: float) -> None:
    """Set one number of a tensor."""
    tensors = load_file(folder / "model.safetensors")
    tensors[name].view(-1)[position] = value
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def with_a_flipped_bit(hf: Path, copy: Path, name: str, *, bit: int = 0) -> Path:
    """A copy in which one bit of number 5 of a tensor is another: bit 0 is the last of the mantissa."""
    shutil.copytree(hf, copy)
    content = bytearray((copy / "model.safetensors").read_bytes())
    numbers = load_file(copy / "model.safetensors")[name].numpy().tobytes()
    content[content.index(numbers) + 5 * 4 + bit // 8] ^= 1 << bit % 8
    (copy / "model.safetensors").write_bytes(content)
    return copy


def flip_byte(path: Path, position: int) -> None:
    with path.open("r+b") as stream:
        stream.seek(position)
        byte = stream.read(1)[0]
        stream.seek(position)
        stream.write(bytes([byte ^ 0x10]))


def test_the_command_says_equal_at_tp2_pp2_with_processes_of_its_own(models, tmp_path):
    done = run("--hf", models / "hf", "--checkpoint", models / "megatron", "--tp", 2, "--pp", 2, "--json", tmp_path / "json")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("EQUAL (tolerance 0.0001)") == 1 and "DIFFERENT" not in done.stdout
    for figure in ("39 of 39", "TP2 x PP2", "100.00%", "256, 9"):
        assert figure in done.stdout
    found = json.loads((tmp_path / "json").read_text())
    assert (found["verdict"], found["tp"], found["pp"], found["layers"], found["stopped"]) == ("EQUAL", 2, 2, None, "")
    assert found["weights"] == {"tensors": 39, "equal": 39, "different": [], "unreadable": [], "damaged": [],
                                "hf_dtypes": ["float32"], "checkpoint_dtypes": ["float32"]}
    logits = found["logits"]
    assert (logits["tokens"], logits["documents"], logits["layers"], logits["top1_agreement"]) == (256, 9, 4, 1.0)
    assert 0 < logits["mean_difference"] < logits["largest_difference"] < 1e-4 < 1 < logits["largest_logit"]
    assert 0 <= logits["kl_mean"] <= logits["kl_largest"] < 1e-9
    assert found["files"]["checked"] == 6 and not found["files"]["damaged"]
    again = run("--hf", models / "hf", "--checkpoint", models / "megatron", "--json", tmp_path / "json")
    assert again.returncode == 2 and "--json: " in again.stderr and "exists already" in again.stderr


@pytest.mark.parametrize("one, other", [("self_attn.k_proj", "self_attn.v_proj"), ("mlp.gate_proj", "mlp.up_proj")])
def test_swapped_projections_are_different_in_weights_and_logits(models, tmp_path, report, one, other):
    make_hf_model("llama", "gqa", tmp_path / "hf")
    tensors = load_file(tmp_path / "hf/model.safetensors")
    first, second = f"model.layers.1.{one}.weight", f"model.layers.1.{other}.weight"
    tensors[first], tensors[second] = tensors[second], tensors[first]
    save_file(tensors, tmp_path / "hf/model.safetensors", metadata={"format": "pt"})
    found = report(Settings(tmp_path / "hf", models / "megatron"))
    assert not found.equal and not found.logits.equal and found.logits.kl_mean > 1e-3
    assert [each.hf for each in found.weights.different] == [first, second] and found.weights.equal == 37


def test_an_order_that_is_wrong_both_ways_shows_in_the_logits_alone(models, tmp_path, report):
    found = report(Settings(models / "hf", tmp_path / "megatron"), "verified_with_gate_and_up_swapped")
    assert found.weights.all_equal and not found.logits.equal and not found.equal


def test_a_flipped_bit_is_named_although_no_logit_shows_it_and_the_command_ends_with_1(models, tmp_path):
    name = "model.layers.1.self_attn.v_proj.weight"
    hf = with_a_flipped_bit(models / "hf", tmp_path / "hf", name)
    done = run("--hf", hf, "--checkpoint", models / "megatron", "--json", tmp_path / "json")
    assert done.returncode == 1, done.stderr[-3000:]
    assert "DIFFERENT" in done.stdout and "38 of 39" in done.stdout and f"{name} (decoder.layers.1." in done.stdout
    found = json.loads((tmp_path / "json").read_text())
    [difference] = found["weights"]["different"]
    assert (found["verdict"], difference["hf"], difference["numbers"]) == ("DIFFERENT", name, 1)
    assert 0 < difference["largest"] < 1e-7 and found["logits"]["largest_difference"] < found["logits"]["tolerance"]


def test_numbers_of_another_dtype_are_compared_as_an_export_casts_them(models, tmp_path):
    half = megatron_to_hf.convert(models / "megatron", tmp_path / "half", Options(dtype="bfloat16"))
    found = verify.compare_stored(Settings(half, models / "megatron")).weights
    assert found.all_equal and (found.hf_dtypes, found.checkpoint_dtypes) == (["bfloat16"], ["float32"])
    hf_to_megatron.convert(half, tmp_path / "megatron")
    found = verify.compare_stored(Settings(models / "hf", tmp_path / "megatron")).weights
    assert not found.all_equal and found.equal < found.tensors, "float32 numbers are not bfloat16 ones"


def test_a_flipped_byte_of_any_listed_file_is_named(models, tmp_path):
    hf, root = tmp_path / "hf", tmp_path / "megatron"
    shutil.copytree(models / "megatron", root)
    (root / "release/hf/tokenizer.json").write_text("{}")
    megatron_to_hf.convert(models / "megatron", hf, Options(max_shard_size="200KB"))
    release, checked = root / "release", set()
    for folder, listed in ((hf, verify_files.hf_manifest.read(hf).files), (release, verify_files.manifest_of(release).files)):
        for name, record in listed.items():
            position = record.bytes * len(checked) // 20  # another part of each file
            flip_byte(folder / name, position)
            [problem] = verify_files.check_files(hf, root).damaged
            assert problem.startswith(f"{folder / name} has the checksum ")
            flip_byte(folder / name, position)
            checked.add(name)
    assert {"model-00001-of-00003.safetensors", "config.json", "__0_0.distcp", ".metadata", "hf/config.json"} <= checked
    assert not verify_files.check_files(hf, root).damaged


def test_damage_is_the_verdict_also_where_nothing_can_be_opened_for_it(models, tmp_path):
    root = shutil.copytree(models / "megatron", tmp_path / "megatron")
    flip_byte(root / "release/.metadata", 700)
    done = run("--hf", models / "hf", "--checkpoint", root, "--json", tmp_path / "json")
    assert done.returncode == 1, done.stderr[-3000:]
    found = json.loads((tmp_path / "json").read_text())
    assert found["verdict"] == "DIFFERENT" and ".metadata has the checksum" in found["files"]["damaged"][0]
    assert found["weights"] is found["logits"] is None and "DIFFERENT" in done.stdout and "not compared" in done.stdout


def test_a_damaged_weight_is_named_by_its_own_sum_where_training_s_files_have_none_that_is_read(models, tmp_path):
    """Files with optimizer state are many times the weights: they are not summed."""
    root = shutil.copytree(models / "megatron", tmp_path / "megatron")
    path = root / "release/megatron_ft.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "optimizer_state": ["exp_avg"], "tensor_crc32": {}}))
    data = root / "release/__0_0.distcp"
    name = "model.layers.2.mlp.down_proj.weight"
    flip_byte(data, data.read_bytes().index(load_file(models / "hf/model.safetensors")[name].numpy().tobytes()) + 40)
    found = verify.verify(Settings(models / "hf", root), ALONE)
    assert not found.equal and not found.files.damaged
    assert f"1 files, {data.stat().st_size / 1e3:.1f} kB, with optimizer state" in found.files.not_checked[1]
    assert "decoder.layers.2.mlp.linear_fc2.weight" in found.weights.unreadable[0] and found.weights.equal == 38
    assert found.logits is None and found.stopped == "logits, since 1 weights cannot be read"
    with data.open("ab") as stream:
        stream.write(b"x")
    assert "__0_0.distcp has 4" in verify_files.check_files(models / "hf", root).damaged[0]


@pytest.mark.parametrize("family, variant, layers, tp, pp", [
    ("llama", "gqa", 2, 2, 2), ("starcoder", "mqa", 3, 1, 1), ("qwen2", "untied_window", 1, 1, 1)])
def test_quick_computes_the_first_layers_only(bases, tmp_path, report, family, variant, layers, tp, pp):
    hf, checkpoint = bases(family, variant)
    found = report(Settings(hf, checkpoint, layers=layers, tp=tp, pp=pp))
    assert found.equal and found.logits.layers == layers and found.weights.equal == found.weights.tensors
    other = shutil.copytree(hf, tmp_path / "hf")
    where = {"starcoder": "transformer.h.{}.mlp.c_fc.weight"}.get(family, "model.layers.{}.mlp.up_proj.weight")
    change(other, where.format(layers), 7, 50.0)
    found = report(Settings(other, checkpoint, layers=layers, tp=tp, pp=pp))
    assert [each.hf for each in found.weights.different] == [where.format(layers)] and found.logits.equal and not found.equal
    change(other, where.format(layers - 1), 7, 50.0)
    assert not report(Settings(other, checkpoint, layers=layers, tp=tp, pp=pp)).logits.equal


@pytest.mark.parametrize("layers", [None, 2])
def test_adapters_on_their_base_are_the_merged_model(bases, tmp_path, report, layers):
    _, base = bases("llama", "gqa")
    write_adapters(base, tmp_path / "lora", Lora(rank=5, alpha=7.0, linears=("qkv", "fc1")))
    merged = lora_to_hf.convert(tmp_path / "lora", tmp_path / "merged", form="merged")
    found = report(Settings(merged, tmp_path / "lora", layers=layers))
    assert found.equal and found.weights.equal == 39
    name = "model.layers.0.mlp.gate_proj.weight"
    other = with_a_flipped_bit(merged, tmp_path / "other", name)
    found = verify.compare_stored(Settings(other, tmp_path / "lora"))
    assert [each.hf for each in found.weights.different] == [name]
    assert "model.safetensors has the checksum" in found.files.damaged[0]
    assert name in found.weights.damaged[0]


def test_merging_gives_the_same_bits_in_pieces_of_any_size_by_any_number_of_threads():
    generator = torch.Generator().manual_seed(2)
    weight, a, b = (torch.randn(shape, generator=generator) for shape in ((301, 70), (24, 70), (301, 24)))
    lora = Lora(rank=24, alpha=7.0)
    exact = weight.double() + 7.0 / 24 * b.double() @ a.double()

    class Base:
        finish = dict

        def rows(self, start, stop):
            return weight[start:stop].clone()

    threads, expected = torch.get_num_threads(), None
    try:
        for number, piece in ((1, 301), (2, 301), (2, 64), (1, 1)):
            torch.set_num_threads(number)
            rows = lora_to_hf._MergedRows(Base(), a, b, lora)
            found = torch.cat([rows.rows(start, min(start + piece, 301)) for start in range(0, 301, piece)])
            expected = found if expected is None else expected
            assert torch.equal(found.view(torch.int32), expected.view(torch.int32)), (number, piece)
    finally:
        torch.set_num_threads(threads)
    assert (found - exact).abs().max() < 2e-7 * exact.abs().max()


def test_a_legacy_folder_is_verified_as_it_is(tmp_path, report):
    from transformers import LlamaConfig

    config = LlamaConfig(vocab_size=203, hidden_size=48, intermediate_size=92, num_hidden_layers=4, num_attention_heads=8,
                         num_key_value_heads=4, head_dim=10, max_position_embeddings=112, rms_norm_eps=1e-5)
    hf = make_random_model(config, tmp_path / "hf")
    root = write(tmp_path / "legacy", load_file(hf / "model.safetensors"), config, dialect="core", tp=2, pp=2)
    settings = Settings(hf, root, hints=Hints(vocabulary=203), tp=2)
    found = report(settings)
    assert found.equal and found.kind == "legacy, core" and found.logits.layers == 4
    other = with_a_flipped_bit(hf, tmp_path / "other", "lm_head.weight", bit=20)
    found = report(dataclasses.replace(settings, hf=other))
    assert [each.megatron for each in found.weights.different] == ["output_layer.weight"] and not found.equal


def test_another_model_is_refused_before_anything_is_read(models, tmp_path):
    make_hf_model("llama", "mha", tmp_path / "hf")
    with pytest.raises(CheckpointError, match="groups is 6, but 2 in .*the two belong to different models"):
        verify.verify(Settings(tmp_path / "hf", models / "megatron"), ALONE)


@pytest.mark.parametrize("given, message", [
    ({"layers": 5}, "--layers: 5, but the model has 4; name 1 to 4"),
    ({"layers": 0}, "--layers: 0, but"),
    ({"layers": 2, "pp": 3}, "--pp: 3 stages, but logits are computed with 2 layers; use at most --pp 2 or more --layers"),
    ({"pp": 5}, "--pp: 5 stages, .* 4 layers; use at most --pp 4$"),
    ({"tp": 4}, "parallel.tp: 4 does not divide the 6 attention heads"),
    ({"tp": 0}, "--tp: 0, expected at least 1"),
    ({"tokens": 0}, "--tokens: 0, expected at least 1"),
    ({"device": "cuda"}, "torch sees no GPU")])
def test_settings_that_cannot_work_are_refused_before_anything_is_read(models, given, message):
    with pytest.raises(ConfigError, match=message):
        verify.verify(Settings(models / "hf", models / "megatron", **given), ALONE)


def test_the_wrong_number_of_processes_is_refused_with_what_to_do(models):
    with pytest.raises(ConfigError, match="--tp 2 x --pp 2 takes 4 processes, but 3 run; leave torchrun or srun away"):
        verify.verify(Settings(models / "hf", models / "megatron", tp=2, pp=2), Process(0, 3, 0, 3, "127.0.0.1", 0))


def test_an_error_is_in_the_json_too_with_what_was_known_before(models, tmp_path, monkeypatch):
    def crash(*_):
        raise ZeroDivisionError("within the logits")

    with pytest.raises(CheckpointError, match="absent: no such folder"):
        verify.run(Settings(models / "hf", tmp_path / "absent"), output=tmp_path / "json")
    found = json.loads((tmp_path / "json").read_text())
    assert found["verdict"] == "ERROR" and found["error"].startswith("CheckpointError: ")
    monkeypatch.setattr(verify, "_of_rank", crash)
    with pytest.raises(ZeroDivisionError):
        verify.run(Settings(models / "hf", models / "megatron"), output=tmp_path / "known")
    found = json.loads((tmp_path / "known").read_text())
    assert (found["verdict"], found["error"]) == ("ERROR", "ZeroDivisionError: within the logits")
    assert found["weights"]["equal"] == 39 and found["logits"] is None
    with pytest.raises(ConfigError, match="--json: .*nowhere is no folder"):
        verify.run(Settings(models / "hf", models / "megatron"), output=tmp_path / "nowhere/json")
