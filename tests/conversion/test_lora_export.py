"""LoRA checkpoints as PEFT folders and merged models: the logits of peft, of megatron-core at any layout, of the merged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from megatron_ft.config import Lora
from megatron_ft.conversion import lora_to_hf, megatron_to_hf, verify_files, verify_logits
from megatron_ft.conversion.megatron_to_hf import Options
from megatron_ft.errors import CheckpointError, ConfigError
from tests.conversion.test_scripts import run
from tests.small_models import VARIANTS
from tests.training.lora_programs import write_adapters

LENGTHS = [17, 1, 5, 29, 2, 42]  # sums to 96: a multiple of tp for sequence parallelism
ALL = ("qkv", "proj", "fc1", "fc2")
LAYOUTS = {"one rank": {}, "tp2, sequence parallel": {"tp": 2, "sequence_parallel": True}, "tp2 x pp2": {"tp": 2, "pp": 2}}


def documents(vocabulary: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(verify_logits.SEED)
    return [torch.randint(0, vocabulary, (length,), generator=generator) for length in LENGTHS]


def hf_logits(model: torch.nn.Module) -> np.ndarray:
    with torch.no_grad():
        return torch.cat([model(ids[None]).logits[0] for ids in documents(model.config.vocab_size)]).numpy()


def load(folder: Path) -> torch.nn.Module:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def with_peft(hf: Path, adapter: Path) -> torch.nn.Module:
    from peft import PeftModel

    return PeftModel.from_pretrained(load(hf), adapter).eval()


@pytest.fixture(scope="module")
def exported(bases, tmp_path_factory):
    """(family, variant, linears) -> base's Hugging Face folder, LoRA checkpoint root, its PEFT folder, its merged folder."""
    made = {}

    def export(family: str, variant: str, linears: tuple[str, ...] = ALL) -> tuple[Path, Path, Path, Path]:
        if (family, variant, linears) not in made:
            hf, base = bases(family, variant)
            root = tmp_path_factory.mktemp("lora")
            write_adapters(base, root / "checkpoints", Lora(rank=5, alpha=7.0, linears=linears))
            made[family, variant, linears] = (
                hf, root / "checkpoints", lora_to_hf.convert(root / "checkpoints", root / "adapter", form="adapter"),
                lora_to_hf.convert(root / "checkpoints", root / "merged", form="merged"))
        return made[family, variant, linears]

    return export


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    # In float32 the most sensitive of the small models is itself 1e-5 of the largest logit away from float64.
    assert np.abs(found - expected).max() < 3e-5 * np.abs(expected).max()


@pytest.mark.parametrize("family, variant", VARIANTS)
def test_merged_is_what_peft_computes_on_top_of_the_base(exported, family, variant):
    hf, _, adapter, merged = exported(family, variant)
    expected = hf_logits(with_peft(hf, adapter))
    assert_close(hf_logits(load(merged)), expected)
    assert np.abs(hf_logits(load(hf)) - expected).max() > 0.1 * np.abs(expected).max(), "the adapters must matter"


@pytest.mark.parametrize("parallel", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("family, variant", [("starcoder", "mqa"), ("llama", "gqa"), ("llama", "mqa_tied_llama3")])
def test_megatron_core_computes_what_peft_does_at_any_layout(pool, exported, family, variant, parallel):
    hf, checkpoints, adapter, _ = exported(family, variant)
    found = pool.run(parallel.get("tp", 1) * parallel.get("pp", 1), "tests.training.programs:logits",
                     checkpoint=str(checkpoints), parallel=parallel, lengths=LENGTHS)
    [logits] = [logits for logits in found if logits is not None]
    assert_close(logits, hf_logits(with_peft(hf, adapter)))


@pytest.mark.parametrize("family, variant, linears, modules", [
    ("starcoder", "mqa", ALL, ["c_attn", "c_fc", "c_proj"]),
    ("starcoder", "mqa", ("proj",), ["attn.c_proj"]),
    ("starcoder", "mqa", ("qkv", "fc2"), ["c_attn", "mlp.c_proj"]),
    ("llama", "gqa", ("qkv", "fc1"), ["gate_proj", "k_proj", "q_proj", "up_proj", "v_proj"]),
])
def test_the_adapter_config_names_exactly_the_adapted_linears(exported, family, variant, linears, modules):
    """Both of a StarCoder layer's output projections are called c_proj: an adapter on one must not land on the other."""
    hf, _, adapter, merged = exported(family, variant, linears)
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["target_modules"] == modules
    assert (config["r"], config["lora_alpha"], config["base_model_name_or_path"]) == (5, 7, str(hf))
    model = with_peft(hf, adapter)
    stored = load_file(adapter / "adapter_model.safetensors")
    assert {name.replace(".default", "") for name in model.state_dict() if "lora_" in name} == set(stored)
    assert_close(hf_logits(load(merged)), hf_logits(model))


def test_weights_without_an_adapter_are_the_bases_bit_for_bit(exported):
    hf, _, _, merged = exported("llama", "gqa", ("qkv", "fc1"))
    before, after = load_file(hf / "model.safetensors"), load_file(merged / "model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert sorted(before) == sorted(after)
    assert changed == {f"model.layers.{layer}.{linear}.weight" for layer in range(4) for linear in
                       ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj")}


def test_the_base_may_be_named_and_may_be_a_hugging_face_folder(exported, tmp_path):
    hf, checkpoints, _, merged = exported("llama", "gqa")
    again = lora_to_hf.convert(checkpoints, tmp_path / "merged", form="merged", base=hf)
    expected, found = load_file(merged / "model.safetensors"), load_file(again / "model.safetensors")
    assert sorted(found) == sorted(expected) and all(torch.equal(found[name], expected[name]) for name in expected)
    adapter = lora_to_hf.convert(checkpoints, tmp_path / "adapter", form="adapter", base="org/model")
    assert json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"] == "org/model"


def test_adapters_are_added_in_float32_and_then_rounded_once(exported, tmp_path):
    _, checkpoints, adapter, merged = exported("starcoder", "mqa")
    half = load_file(lora_to_hf.convert(checkpoints, tmp_path / "merged", Options(dtype="bfloat16"), form="merged")
                     / "model.safetensors")
    assert all(torch.equal(half[name], tensor.bfloat16()) for name, tensor in load_file(merged / "model.safetensors").items())
    half = load_file(lora_to_hf.convert(checkpoints, tmp_path / "adapter", Options(dtype="bfloat16"), form="adapter")
                     / "adapter_model.safetensors")
    stored = load_file(adapter / "adapter_model.safetensors")
    assert all(torch.equal(half[name], tensor.bfloat16()) for name, tensor in stored.items())


def test_adapters_of_a_bf16_run_are_added_in_float32(bases, tmp_path):
    hf, base = bases("starcoder", "mqa")
    write_adapters(base, tmp_path / "lora", Lora(rank=5, alpha=7.0, linears=("fc1",)), dtype=torch.bfloat16)
    merged = load_file(lora_to_hf.convert(tmp_path / "lora", tmp_path / "merged", form="merged") / "model.safetensors")
    adapter = load_file(lora_to_hf.convert(tmp_path / "lora", tmp_path / "adapter", form="adapter")
                        / "adapter_model.safetensors")
    a, b = (adapter[f"base_model.model.transformer.h.2.mlp.c_fc.lora_{part}.weight"] for part in "AB")
    assert a.dtype == b.dtype == torch.bfloat16
    expected = load_file(hf / "model.safetensors")["transformer.h.2.mlp.c_fc.weight"] + 7.0 / 5 * b.float() @ a.float()
    torch.testing.assert_close(merged["transformer.h.2.mlp.c_fc.weight"], expected, rtol=1e-6, atol=1e-6)


def test_the_command_exports_adapters_and_verify_takes_them_for_the_model_on_their_base(exported, tmp_path):
    hf, checkpoints, _, merged = exported("llama", "gqa")
    assert verify_files.open_pair(merged, checkpoints).opened.folder.name == "iter_0000007"
    said = run("megatron_to_hf.py", "--checkpoint", checkpoints, "--output", tmp_path / "out", "--base", hf)
    assert said.returncode == 2 and "--base goes with --lora" in said.stderr
    said = run("megatron_to_hf.py", "--checkpoint", checkpoints, "--output", tmp_path / "out", "--lora", "adapter")
    assert said.returncode == 0, said.stderr
    assert "adapters of rank 5 on down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj in float32" in said.stderr


def test_the_form_is_asked_for(exported, tmp_path):
    with pytest.raises(CheckpointError, match="--checkpoint: .*iter_0000007 is a LoRA checkpoint: .* --lora merged"):
        megatron_to_hf.convert(exported("llama", "gqa")[1], tmp_path / "out")


@pytest.fixture
def checkpoint(bases, tmp_path):
    """A LoRA checkpoint and its base, both to be damaged."""
    base = shutil.copytree(bases("llama", "gqa")[1], tmp_path / "base")
    return write_adapters(base, tmp_path / "lora", Lora(rank=5)), base / "release"


def refuse(folder: Path, tmp_path: Path, message: str, *, form: str = "merged", base: object = None,
           error: type = CheckpointError) -> None:
    with pytest.raises(error, match=message):
        lora_to_hf.convert(folder, tmp_path / "out", form=form, base=base)
    assert not [path for path in tmp_path.iterdir() if "out" in path.name], "something half-written is left"


def test_a_checkpoint_of_a_whole_model_has_no_adapters_to_export(checkpoint, tmp_path):
    refuse(checkpoint[1], tmp_path, "--lora: .*release is no LoRA checkpoint but a whole model; leave", error=ConfigError)


def test_a_base_that_is_not_there_or_not_the_one_is_refused(checkpoint, tmp_path, bases):
    folder, base = checkpoint
    base.rename(tmp_path / "moved")
    refuse(folder, tmp_path, "the base model .*base/release is not there; name its place with --base DIR")
    refuse(folder, tmp_path, "--base: the base model nowhere is not there", base="nowhere")
    refuse(folder, tmp_path, "groups is 6, but 2 in .*the two belong to different models", base=bases("llama", "mha")[0])
    refuse(folder, tmp_path, "--base: .*iter_0000007 is a LoRA checkpoint", base=folder)
    lora_to_hf.convert(folder, tmp_path / "adapter", form="adapter")  # does not read it
    (tmp_path / "moved").rename(base)
    with next(base.glob("*.distcp")).open("r+b") as weights:
        weights.write(b"x")
    refuse(folder, tmp_path, "the weight files of .*base/release have the fingerprint .* another model, or it was written anew")


@pytest.mark.parametrize("change, message", [
    ({"rank": 4}, r"linear_qkv_adapter.lora_A has shape \[5, 48\], expected \[4, 48\] in each of 4 layers"),
    ({"linears": ["qkv"]}, "holds decoder.layers.mlp.linear_fc1_adapter.lora_A, .*, which is no adapter of lora.linears = qkv"),
])
def test_adapters_that_are_not_those_of_the_manifest_are_refused(checkpoint, tmp_path, change, message):
    path = checkpoint[0] / "megatron_ft.json"
    content = json.loads(path.read_text())
    content["source"]["lora"].update(change)
    path.write_text(json.dumps(content))
    refuse(checkpoint[0], tmp_path, message, form="adapter")
