"""Hugging Face -> Megatron -> Hugging Face gives the same bits, and a folder that transformers loads as it is."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from megatron_ft.conversion import hf_to_megatron, megatron_to_hf
from megatron_ft.conversion.megatron_to_hf import Options
from megatron_ft.runtime import checkpoint_layout, hf_files
from tests.small_models import VARIANTS, make_hf_model


def tensors_of(folder):
    return {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}


def assert_same_bits(left, right):
    assert sorted(left) == sorted(right)
    for name in left:
        assert left[name].dtype == right[name].dtype, name
        assert torch.equal(left[name].view(torch.uint8), right[name].view(torch.uint8)), name


def logits(folder: Path, *, tokens: int) -> torch.Tensor:
    """transformers' logits for the ids 0, 1, 2, ..."""
    from transformers import AutoModelForCausalLM

    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(folder)(torch.arange(tokens)[None]).logits


def there_and_back(hf, folder, **options):
    hf_to_megatron.convert(hf, folder / "megatron")
    return megatron_to_hf.convert(folder / "megatron", folder / "back", Options(**options))


@pytest.mark.parametrize("family, variant", VARIANTS)
def test_every_variant_comes_back_bit_for_bit(family, variant, tmp_path):
    hf = make_hf_model(family, variant, tmp_path / "hf")
    back = there_and_back(hf, tmp_path)
    assert_same_bits(tensors_of(back), tensors_of(hf))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("family, variant", [("starcoder", "mqa"), ("llama", "gqa")])
def test_half_precision_comes_back_bit_for_bit(family, variant, dtype, tmp_path):
    hf = make_hf_model(family, variant, tmp_path / "hf", dtype=dtype)
    back = there_and_back(hf, tmp_path)
    assert_same_bits(tensors_of(back), tensors_of(hf))
    assert checkpoint_layout.Manifest.read(tmp_path / "megatron/release").dtype == dtype
    assert json.loads((back / "config.json").read_text())["dtype"] == dtype


def test_the_exported_folder_is_what_transformers_loads(tmp_path):
    hf = make_hf_model("llama", "mqa_tied_llama3", tmp_path / "hf")
    back = there_and_back(hf, tmp_path)
    assert torch.equal(*(logits(folder, tokens=40) for folder in (back, hf)))


def test_shards_hold_at_most_their_size_and_are_indexed(tmp_path):
    hf = make_hf_model("llama", "gqa", tmp_path / "hf")
    back = there_and_back(hf, tmp_path, max_shard_size="60KB")
    files = sorted(back.glob("*.safetensors"))
    assert len(files) > 3 and files[0].name == f"model-00001-of-{len(files):05d}.safetensors"
    for path in files:
        held = load_file(path)
        assert sum(tensor.nbytes for tensor in held.values()) <= 60_000
    index = json.loads((back / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors_of(hf).values())
    assert_same_bits(tensors_of(back), tensors_of(hf))
    again = there_and_back(back, tmp_path / "sharded_source")
    assert_same_bits(tensors_of(again), tensors_of(hf))


def test_pickled_weights_are_read(tmp_path):
    hf = make_hf_model("starcoder", "mqa", tmp_path / "hf")
    tensors = tensors_of(hf)
    (hf / "model.safetensors").unlink()
    names = sorted(tensors)
    weight_map = {}
    for number, half in enumerate((names[::2], names[1::2]), start=1):
        file = f"pytorch_model-{number:05d}-of-00002.bin"
        torch.save({name: tensors[name] for name in half}, hf / file)
        weight_map.update(dict.fromkeys(half, file))
    (hf / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert_same_bits(tensors_of(there_and_back(hf, tmp_path)), tensors)


def test_a_tied_head_that_is_stored_twice_is_not_exported(tmp_path):
    hf = make_hf_model("starcoder", "mqa", tmp_path / "hf")
    tensors = tensors_of(hf)
    doubled = {**tensors, "lm_head.weight": tensors["transformer.wte.weight"].clone(),
               "transformer.h.0.attn.bias": torch.ones(1, 1, 96, 96, dtype=torch.bool)}
    save_file(doubled, hf / "model.safetensors", metadata={"format": "pt"})
    assert_same_bits(tensors_of(there_and_back(hf, tmp_path)), tensors)


def test_tokenizer_and_generation_files_go_along_and_nothing_else(tmp_path):
    hf = make_hf_model("llama", "gqa", tmp_path / "hf")
    for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json",
                 "chat_template.jinja", "modeling_evil.py", "README.md", "optimizer.pt"):
        (hf / name).write_text(name)
    back = there_and_back(hf, tmp_path)
    assert {path.name for path in back.iterdir()} == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer.model",
        "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "conversion.json", "README.md"}
    assert (back / "README.md").read_text() != "README.md", "the source's model card is not this model's"
    assert (back / "tokenizer.model").read_text() == "tokenizer.model"


def test_a_requested_dtype_is_what_is_written(tmp_path):
    hf = make_hf_model("llama", "gqa", tmp_path / "hf")
    hf_to_megatron.convert(hf, tmp_path / "megatron", dtype="bfloat16")
    back = megatron_to_hf.convert(tmp_path / "megatron", tmp_path / "back", Options(dtype="float32"))
    expected = {name: tensor.bfloat16().float() for name, tensor in tensors_of(hf).items()}
    assert_same_bits(tensors_of(back), expected)


def test_a_checkpoint_without_its_source_files_gets_a_config_of_our_own(tmp_path):
    import shutil

    hf = make_hf_model("llama", "bias_linear", tmp_path / "hf")
    hf_to_megatron.convert(hf, tmp_path / "megatron")
    shutil.rmtree(tmp_path / "megatron/release/hf")
    back = megatron_to_hf.convert(tmp_path / "megatron", tmp_path / "back")
    assert torch.equal(*(logits(folder, tokens=60) for folder in (back, hf)))


def test_the_manifest_says_what_was_converted(tmp_path):
    hf = make_hf_model("starcoder", "mha", tmp_path / "hf")
    hf_to_megatron.convert(hf, tmp_path / "megatron")
    folder = checkpoint_layout.find(tmp_path / "megatron")
    manifest = checkpoint_layout.Manifest.read(folder)
    assert folder.name == "release" and manifest.iteration == 0
    assert (manifest.family, manifest.stored_vocabulary) == ("starcoder", 211)
    assert manifest.source["file_bytes"] == {"model.safetensors": (hf / "model.safetensors").stat().st_size}
    assert sorted(manifest.source["tensor_crc32"]) == sorted(tensors_of(hf))


@pytest.mark.parametrize("text, nbytes", [("5GB", 5 * 10**9), ("1.5 MiB", 3 * 2**19), ("800kb", 800_000), ("7", 7)])
def test_sizes_are_read_as_written(text, nbytes):
    assert hf_files.parse_size(text) == nbytes
