"""A run starts from a Hugging Face folder as it lies, as if it had been converted; the folder is left as it was."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from megatron_ft.conversion import hf_to_megatron
from megatron_ft.errors import CheckpointError, ConfigError
from megatron_ft.training import base_model
from tests.small_models import VARIANTS, make_hf_model
from tests.training.runs import config, curve, run

DIFFER = "tests.training.checkpoint_programs:weights_that_differ"
LAYOUTS = [{"tp": 2, "pp": 2, "sequence_parallel": True}, {"pp": 2, "virtual_stages": 2}, {"tp": 2}, {"pp": 4}]


@pytest.mark.parametrize("family, variant", VARIANTS)
def test_weights_are_those_of_convert_and_load_at_every_layout(pool, bases, family, variant):
    hf, checkpoint = bases(family, variant)
    cases = [{"parallel": layout, "precision": "fp32"} for layout in LAYOUTS] + [{"parallel": LAYOUTS[0], "precision": "bf16"}]
    assert not any(pool.run(4, DIFFER, hf=str(hf), checkpoint=str(checkpoint), cases=cases))
    assert not any(pool.run(1, DIFFER, hf=str(hf), checkpoint=str(checkpoint), cases=[{"parallel": {}, "precision": "fp16"}]))


@pytest.mark.parametrize("form", ["sharded safetensors", "one .bin", "sharded .bin"])
def test_every_form_of_a_folder_is_read(pool, tmp_path, form):
    hf = make_hf_model("llama", "gqa", tmp_path / "hf", dtype="bfloat16")
    checkpoint = hf_to_megatron.convert(hf, tmp_path / "checkpoint")
    tensors = load_file(hf / "model.safetensors")
    (hf / "model.safetensors").unlink()
    write, suffix, stem = (save_file, "safetensors", "model") if "safetensors" in form else (torch.save, "bin", "pytorch_model")
    if form == "one .bin":
        write(tensors, hf / f"{stem}.{suffix}")
    else:
        shards = {name: f"{stem}-0000{number % 3 + 1}-of-00003.{suffix}" for number, name in enumerate(tensors)}
        for file in set(shards.values()):
            write({name: tensors[name] for name, place in shards.items() if place == file}, hf / file)
        (hf / f"{stem}.{suffix}.index.json").write_text(json.dumps({"weight_map": shards}))
    assert not any(pool.run(2, DIFFER, hf=str(hf), checkpoint=str(checkpoint),
                            cases=[{"parallel": {"tp": 2}, "precision": "bf16"}]))


def test_a_run_from_a_folder_is_the_run_from_its_conversion_and_leaves_it_as_it_was(pool, bases, dataset, tmp_path):
    hf, checkpoint = bases("llama", "mqa_tied_llama3")
    parallel = {"tp": 2, "pp": 2}
    before = {path: path.stat().st_mtime_ns for path in (hf, *hf.rglob("*"))}
    lines = {name: run(pool, 4, {**config(base, dataset, tmp_path / name, run__steps=2), "parallel": parallel})
             for name, base in (("hf", hf), ("converted", checkpoint))}
    assert curve(lines["hf"]) == curve(lines["converted"])
    assert before == {path: path.stat().st_mtime_ns for path in (hf, *hf.rglob("*"))}
    saved = tmp_path / "hf" / "checkpoints" / "iter_0000002" / "hf"
    assert {path.name for path in saved.iterdir()} == {"config.json", "generation_config.json"}
    assert (saved / "config.json").read_bytes() == (hf / "config.json").read_bytes()


def refused(kind: type[Exception], folder, words: str) -> None:
    with pytest.raises(kind, match=words):
        base_model.check(base_model.find(folder))


def test_a_folder_that_is_neither_says_what_it_lacks(bases, tmp_path):
    refused(CheckpointError, tmp_path / "nowhere", "nowhere: no such folder; name a Hugging Face model folder or a checkpoint")
    refused(CheckpointError, tmp_path, "holds neither config.json and weights.*nor latest_checkpointed_iteration.txt or meg")
    hf = shutil.copytree(bases("llama", "gqa")[0], tmp_path / "hf")
    (hf / "model.safetensors").unlink()
    refused(CheckpointError, hf, "holds no weights; expected model.safetensors")
    (hf / "config.json").write_text('{"model_type": "bert"}')
    refused(ConfigError, hf, "model_type is 'bert', supported")


def test_weights_that_are_not_the_configs_are_refused_before_a_device_is_touched(bases, tmp_path):
    hf = shutil.copytree(bases("llama", "gqa")[0], tmp_path / "hf")
    tensors = load_file(hf / "model.safetensors")
    save_file({**tensors, "model.norm.weight": tensors["model.norm.weight"][:5].clone()}, hf / "model.safetensors")
    refused(CheckpointError, hf, r"model.norm.weight has shape \[5\], expected \[48\]")
    save_file({**tensors, "model.norm.weight": tensors["model.norm.weight"].to(torch.int8)}, hf / "model.safetensors")
    refused(CheckpointError, hf, "model.norm.weight is int8, expected one of float32, bfloat16, float16; take the unquantized")


def test_a_second_head_that_differs_is_refused_on_all_ranks(pool, bases, tmp_path):
    hf = shutil.copytree(bases("llama", "mqa_tied_llama3")[0], tmp_path / "hf")
    tensors = load_file(hf / "model.safetensors")
    save_file({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"] + 1}, hf / "model.safetensors")
    with pytest.raises(Exception, match="lm_head.weight differs from model.embed_tokens.weight, but config.json ties them"):
        pool.run(2, DIFFER, hf=str(hf), checkpoint=str(bases("llama", "mqa_tied_llama3")[1]),
                 cases=[{"parallel": {"tp": 2}, "precision": "fp32"}])
