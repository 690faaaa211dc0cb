"""A model's folder: what it must hold, what is read from it, and which models are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from transformers import BertConfig, BertLMHeadModel, RwkvConfig, RwkvForCausalLM, T5Config, T5ForConditionalGeneration

from megatron_ft.errors import CheckpointError, ConfigError
from megatron_ft.evaluation import model_folder
from tests.evaluation import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize(("removed", "message"), [
    ("config.json", "has no config.json: it is no Hugging Face folder"),
    ("model.safetensors", "has no weights .*was it copied whole"),
    ("tokenizer.json", "has no tokenizer .*copy the one"),
])
def test_an_incomplete_folder_says_what_it_lacks(tmp_path: Path, folder: Path, removed: str, message: str) -> None:
    for path in folder.iterdir():
        if path.name != removed:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(CheckpointError, match=message):
        model_folder.check(str(tmp_path))


def test_a_megatron_checkpoint_is_sent_to_the_converter(tmp_path: Path) -> None:
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("5")
    with pytest.raises(CheckpointError, match=r"convert it with convert/megatron_to_hf.py"):
        model_folder.check(str(tmp_path))


def test_a_missing_folder_is_named() -> None:
    with pytest.raises(CheckpointError, match="--model: there is no folder /no/such/model; give a Hugging Face folder"):
        model_folder.check("/no/such/model")
    assert model_folder.check("bigcode/starcoderbase-1b") is False


def changed_copy(folder: Path, place: Path, **config: object) -> str:
    for path in folder.iterdir():
        (place / path.name).write_bytes(path.read_bytes())
    text = json.loads((folder / "config.json").read_text())
    (place / "config.json").write_text(json.dumps({**text, **config}))
    return str(place)


@pytest.mark.parametrize(("config", "message"), [
    ({"n_layer": 3}, "lacks .* weights that its config.json asks for, such as .*; they would be random"),
    ({"model_type": "unheard-of"}, "cannot be loaded"),
    ({"model_type": "unheard-of", "auto_map": {"AutoConfig": "own.Config"}}, "cannot be loaded"),
    ({"vocab_size": 200}, "cannot be loaded|do not belong together|lacks"),
])
def test_a_folder_that_would_give_a_wrong_model_is_refused(folder: Path, tmp_path: Path, config: dict, message: str
                                                           ) -> None:
    with pytest.raises(CheckpointError, match=message):
        model_folder.load(changed_copy(folder, tmp_path, **config), device="cpu", dtype="auto")


def test_a_config_that_is_no_json_is_refused(folder: Path, tmp_path: Path) -> None:
    changed_copy(folder, tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="config.json is not JSON"):
        model_folder.check(str(tmp_path))


def test_what_is_known_without_weights_is_what_the_loaded_model_has(folder: Path, tmp_path: Path) -> None:
    known, model = model_folder.outline(str(folder)), model_folder.load(str(folder), device="cpu", dtype="auto")
    assert (known.end_ids, known.positions) == (model.end_ids, model.positions) == ((0,), tiny.POSITIONS)
    changed_copy(folder, tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 0]}))
    assert model_folder.outline(str(tmp_path)).end_ids == (7, 0)
    (tmp_path / "generation_config.json").unlink()
    assert model_folder.outline(str(tmp_path)).end_ids == (0,)


def test_a_model_s_own_penalties_are_not_those_of_the_run(folder: Path, tmp_path: Path) -> None:
    changed_copy(folder, tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": 0, "repetition_penalty": 5.0, "top_k": 1}))
    loaded = model_folder.load(str(tmp_path), device="cpu", dtype="auto")
    assert loaded.network.generation_config.repetition_penalty in (None, 1.0)
    assert loaded.network.generation_config.top_k in (None, 50)


def with_tokenizer(folder: Path, model: transformers.PreTrainedModel, place: Path) -> str:
    tiny.write(place)
    for path in place.glob("model*"):
        path.unlink()
    model.save_pretrained(place)
    return str(place)


SMALL = {"vocab_size": 304, "d_model": 16, "num_layers": 1, "num_heads": 2, "d_ff": 24, "d_kv": 8}


def test_a_model_that_does_not_go_on_with_a_text_is_refused_before_its_weights_are_read(folder: Path, tmp_path: Path) -> None:
    place = with_tokenizer(folder, T5ForConditionalGeneration(T5Config(**SMALL)), tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"--model: .* \(t5\) is an encoder with a decoder, .*give a decoder-only model"):
        model_folder.load(place, device="cpu", dtype="auto")


def test_a_model_that_looks_ahead_is_refused(folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"vocab_size": 304, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    (tmp_path / "ahead").mkdir()
    (tmp_path / "causal").mkdir()
    ahead = with_tokenizer(folder, BertLMHeadModel(BertConfig(**sizes, initializer_range=0.5)), tmp_path / "ahead")
    with pytest.raises(CheckpointError, match=r"\(bert\) looks at the tokens that follow, so it cannot write from left"):
        model_folder.load(ahead, device="cpu", dtype="auto")
    causal = BertLMHeadModel(BertConfig(**sizes, initializer_range=0.5, is_decoder=True))
    model_folder.load(with_tokenizer(folder, causal, tmp_path / "causal"), device="cpu", dtype="auto")


def test_a_model_that_is_not_decoded_rightly_is_refused_by_name(folder: Path, tmp_path: Path) -> None:
    network = RwkvForCausalLM(RwkvConfig(vocab_size=304, hidden_size=16, num_hidden_layers=2, context_length=64))
    with pytest.raises(CheckpointError, match=r"\(rwkv\) remembers a text in a way of its own, .*score .* --generations"):
        model_folder.load(with_tokenizer(folder, network, tmp_path), device="cpu", dtype="auto")


@pytest.mark.parametrize(("device", "count", "visible", "chosen"), [
    ("auto", 0, 0, ["cpu"]), ("auto", 3, 0, ["cpu"] * 3), ("cpu", 0, 8, ["cpu"]), ("cpu", 2, 8, ["cpu"] * 2),
    ("auto", 0, 2, ["cuda:0", "cuda:1"]), ("cuda", 1, 2, ["cuda:0"]),
])
def test_devices_are_every_gpu_or_one_cpu_or_as_many_as_asked_for(monkeypatch: pytest.MonkeyPatch, device: str, count: int,
                                                                   visible: int, chosen: list[str]) -> None:
    monkeypatch.setattr(model_folder, "cuda_devices", lambda: visible)
    assert model_folder.choose_devices(device, count) == chosen


def test_devices_that_are_not_there_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="--device: cuda is not available here; use cpu or auto"):
        model_folder.choose_devices("cuda", 0)
    monkeypatch.setattr(model_folder, "cuda_devices", lambda: 2)
    with pytest.raises(ConfigError, match="--devices: 3 CUDA devices are asked for and 2 are visible; use up to 2, or 0"):
        model_folder.choose_devices("auto", 3)
