"""What is exported is a whole model folder: transformers and peft load it where neither megatron-core nor this project is."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from megatron_ft.config import Lora
from megatron_ft.conversion import hf_manifest, hf_to_megatron, lora_to_hf, megatron_to_hf, model_card
from megatron_ft.conversion.megatron_to_hf import Options
from megatron_ft.errors import CheckpointError
from megatron_ft.runtime import checkpoint_files, sums
from tests.small_models import VARIANTS, make_hf_model
from tests.training.lora_programs import write_adapters

ELSEWHERE = """
import json, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("megatron", "megatron_ft", "preprocess", "tests"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
import torch, transformers, peft
from safetensors.torch import save_file

logits = {}
for folder, adapter in json.loads(sys.argv[1]):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    if adapter:
        model = peft.PeftModel.from_pretrained(model, adapter)
    tokens = torch.arange(60)
    if "tokenizer" in folder:
        tokens = torch.tensor(transformers.AutoTokenizer.from_pretrained(folder)("def add(a, b): return a + b").input_ids)
    with torch.no_grad():
        logits[adapter or folder] = model(tokens[None]).logits
save_file(logits, sys.argv[2])
assert not any(name.partition(".")[0] in ("megatron", "megatron_ft") for name in sys.modules)
"""


def logits_elsewhere(folders, output):
    """(folder, adapter or None) -> logits, of a process that has no megatron-core and not this project."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", ELSEWHERE, json.dumps(folders), str(output)],
                          capture_output=True, text=True, check=False, timeout=300, cwd=output.parent)
    assert done.returncode == 0, done.stderr[-3000:]
    return load_file(output)


def test_every_exported_folder_loads_elsewhere(bases, tmp_path):
    folders, pairs = [], []
    for family, variant in VARIANTS:
        hf, checkpoint = bases(family, variant)
        back = megatron_to_hf.convert(checkpoint, tmp_path / f"{family}-{variant}", Options(max_shard_size="150KB"))
        folders += [(str(hf), None), (str(back), None)]
        pairs.append((str(hf), str(back)))
    for family, variant in (("starcoder", "mqa"), ("qwen2", "tied")):
        hf, checkpoint = bases(family, variant)
        lora = Lora(rank=3, alpha=6.0, linears=("qkv", "proj", "fc1", "fc2"))
        write_adapters(checkpoint, tmp_path / f"lora-{family}", lora)
        adapter = lora_to_hf.convert(tmp_path / f"lora-{family}", tmp_path / f"adapter-{family}", form="adapter")
        merged = lora_to_hf.convert(tmp_path / f"lora-{family}", tmp_path / f"merged-{family}", form="merged")
        folders += [(str(hf), str(adapter)), (str(merged), None)]
    found = logits_elsewhere(folders, tmp_path / "logits.safetensors")
    for hf, back in pairs:
        assert torch.equal(found[hf], found[back]), back
    for family in ("starcoder", "qwen2"):
        with_adapter, merged = found[str(tmp_path / f"adapter-{family}")], found[str(tmp_path / f"merged-{family}")]
        assert (with_adapter - merged).abs().max() < 3e-5 * merged.abs().max()


def test_the_tokenizer_goes_along(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    hf = make_hf_model("llama", "gqa", tmp_path / "hf_tokenizer")
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel()
    trained.train_from_iterator(["def add(a, b): return a + b", "def sub(a, b): return a - b"], trainers.BpeTrainer(
        vocab_size=203, special_tokens=["</s>"], show_progress=False))
    PreTrainedTokenizerFast(tokenizer_object=trained, eos_token="</s>").save_pretrained(hf)
    back = megatron_to_hf.convert(hf_to_megatron.convert(hf, tmp_path / "megatron"), tmp_path / "back_tokenizer")
    found = logits_elsewhere([(str(hf), None), (str(back), None)], tmp_path / "logits.safetensors")
    assert torch.equal(*found.values())
    ids = PreTrainedTokenizerFast(tokenizer_object=trained)("def add(a, b): return a + b").input_ids
    assert found[str(back)].shape == (1, len(ids), 203) and len(ids) > 5


@pytest.fixture
def exported(bases, tmp_path):
    """A Hugging Face folder and what comes back of it."""
    hf, checkpoint = bases("llama", "gqa")
    return hf, megatron_to_hf.convert(checkpoint, tmp_path / "back")


def test_the_manifest_has_the_sum_of_every_tensor_and_file(exported):
    _, back = exported
    manifest = hf_manifest.read(back)
    for name, tensor in load_file(back / "model.safetensors").items():
        assert manifest.tensor_crc32[name] == sums.text(sums.crc32(tensor.numpy().tobytes())), name
    assert set(manifest.files) == {path.name for path in back.iterdir()} - {hf_manifest.FILE, "README.md"}
    assert not checkpoint_files.damage(back, manifest.files)


def test_a_changed_tensor_of_an_exported_folder_is_named_when_it_is_converted(exported, tmp_path):
    _, back = exported
    tensors = load_file(back / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] += 1e-3
    save_file(tensors, back / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="model.layers.1.mlp.up_proj.weight has the checksum .* when it was written"):
        hf_to_megatron.convert(back, tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))


def test_the_card_says_what_a_model_was_trained_on_and_how_it_did(bases, tmp_path):
    import dataclasses
    import shutil

    from megatron_ft.runtime import checkpoint_layout

    hf, checkpoint = bases("starcoder", "mqa")
    trained = shutil.copytree(checkpoint / "release", tmp_path / "run/checkpoints/iter_0000250")
    manifest = checkpoint_layout.Manifest.read(trained)
    config = '[run]\ndir = "run"\n\n[data]\ntrain = ["0:0.95 data/mix"]\n\n[optim]\nlr = 5e-05\n'
    dataclasses.replace(manifest, iteration=250, source={
        "base": "hub/models--bigcode--starcoderbase/snapshots/1a2b", "data_order": "af3f", "config": config,
        "data": [{"for": "train", "entry": "0:0.95 data/mix", "documents": 1178, "template": "octocoder",
                  "inputs": [{"path": "rows.jsonl", "sha256": "0123456789abcdef"}]}]}).write(trained)
    evaluation = tmp_path / "results"
    evaluation.mkdir()
    (evaluation / "summary.json").write_text(json.dumps({"scores": [
        {"language": "python", "scenario": "synthesize", "problems": 164, "samples": 3280, "pass@k": {"1": 0.4622}},
        {"benchmark": "HumanEval+", "language": "python", "scenario": "synthesize", "problems": 163, "samples": 326,
         "pass@k": {"1": 0.5}}]}))
    back = megatron_to_hf.convert(trained, tmp_path / "back", Options(evaluations=(evaluation,)))
    card = (back / "README.md").read_text()
    front = card.split("---")[1]
    assert 'base_model: "bigcode/starcoderbase"' in front and "library_name: transformers" in front
    for words in ("Fine-tuned from bigcode/starcoderbase, step 250.", "lr = 5e-05",
                  "| train | `0:0.95 data/mix` | 1,178 | octocoder | `rows.jsonl` (sha256 0123456789ab) |",
                  "| HumanEvalPack | python | synthesize | 164 | 3,280 | pass@1 46.2% |",
                  "| HumanEval+ | python | synthesize | 163 | 326 | pass@1 50.0% |"):
        assert words in card, words
    (evaluation / "summary.json").write_text("{}")
    with pytest.raises(CheckpointError, match="--evaluation: .*summary.json: is not what the evaluator writes"):
        megatron_to_hf.convert(trained, tmp_path / "again", Options(evaluations=(evaluation,)))
    assert not list(tmp_path.glob("*again*"))


@pytest.mark.parametrize("source, name", [
    ({"folder": "models/starcoderbase-1b"}, "starcoderbase-1b"),
    ({"base": "hub/models--org--model/snapshots/1a"}, "org/model"), ({}, None)])
def test_the_base_model_has_its_own_name(source, name):
    assert model_card.base_model(source) == name
