"""LoRA: gradients are peft's, layouts do not matter, the base stays as it is, and a resumed run goes on exactly."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from megatron_ft.config import Lora, parse
from megatron_ft.conversion import lora_to_hf
from megatron_ft.errors import CheckpointError, ConfigError
from megatron_ft.families import get, rules
from megatron_ft.runtime import checkpoint_layout, lora_layout
from megatron_ft.training import flops
from tests.conversion.test_lora_export import LENGTHS, assert_close, hf_logits, load, with_peft
from tests.training.lora_programs import write_adapters
from tests.training.runs import STEPS, config, curve, run, tensors
from tests.training.test_gradients import ROW_TOKENS, SIZES
from tests.training.test_setup import prepared

RANK = {"rank": 5, "alpha": 7.0}
VARIANTS = {"starcoder": "mqa", "llama": "mqa_tied_llama3"}  # both tied, padded, and with fewer groups than tp
TP2_PP2_SP = {"tp": 2, "pp": 2, "sequence_parallel": True}
LAYOUTS = {
    2: {"tp2": {"parallel": {"tp": 2}}, "pp2, virtual stages": {"parallel": {"pp": 2, "virtual_stages": 2}},
        "dp2, plain optimizer": {"parallel": {"distributed_optimizer": False}}},
    4: {"tp2 x pp2, sequence parallel, full recomputation": {"parallel": TP2_PP2_SP, "memory": {"recompute": "full"}},
        "tp2 x dp2, selective recomputation": {"parallel": {"tp": 2}, "memory": {
            "recompute": "selective", "modules": ["core_attn", "layernorm", "mlp"]}}},
}
"""Ranks -> name -> sections of the config."""


def settings(bases, dataset, folder: Path, family: str = "starcoder", **overrides) -> dict:
    """A run with adapters; a rate at which B, zero at first, and so A's gradients become felt in a few steps."""
    lora = {name.removeprefix("lora__"): overrides.pop(name) for name in list(overrides) if name.startswith("lora__")}
    tree = config(bases(family, VARIANTS[family])[1], dataset, folder, optim__lr=2e-2, optim__schedule="constant", **overrides)
    return {**tree, "lora": {**RANK, **lora}}


def hf_gradients(hf: Path, adapter: Path, rows) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of peft's adapters on a transformers model, one document at a time."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(hf, attn_implementation="eager"), adapter,
                                      is_trainable=True).eval()
    total, count = 0.0, 0
    for ids, supervised in (document for row in rows for document in row):
        losses = torch.nn.functional.cross_entropy(model(torch.tensor([ids])).logits[0, :-1], torch.tensor(ids[1:]),
                                                   reduction="none")[torch.tensor(supervised[1:])]
        total, count = total + losses.sum(), count + len(losses)
    loss = total / count
    loss.backward()
    return loss.item(), {name.replace(".default", ""): parameter.grad for name, parameter in model.named_parameters()
                         if parameter.grad is not None}


@pytest.mark.parametrize("size, parallel, memory", [
    (1, {}, {}), (1, {}, {"recompute": "full"}), (2, {"tp": 2}, {}), (4, TP2_PP2_SP, {})],
    ids=["one rank", "recomputed", "tp2", "tp2 x pp2 x sp"])
@pytest.mark.parametrize("family, variant", [("starcoder", "mqa"), ("llama", "gqa")])
def test_gradients_equal_pefts(pool, bases, tmp_path, family, variant, size, parallel, memory):
    """A fused linear has one A where peft has one for each part: its gradient is the sum of theirs."""
    hf, base = bases(family, variant)
    write_adapters(base, tmp_path / "lora", Lora(**RANK))
    random = np.random.RandomState(11)
    rows = [[(random.randint(0, 200, prompt + answer).tolist(), [False] * prompt + [True] * answer)
             for prompt, answer in row] for row in SIZES]
    losses = pool.run(size, "tests.training.lora_programs:gradients", checkpoint=str(tmp_path / "lora"), parallel=parallel,
                      memory=memory, rows=rows, row_tokens=ROW_TOKENS, output=str(tmp_path / "gradients"))
    found = load_file(lora_to_hf.convert(tmp_path / "gradients", tmp_path / "of_ours", form="adapter")
                      / "adapter_model.safetensors")
    adapter = lora_to_hf.convert(tmp_path / "lora", tmp_path / "adapter", form="adapter")
    expected_loss, expected = hf_gradients(hf, adapter, rows)
    assert losses == pytest.approx([expected_loss] * size, rel=1e-5)
    assert set(found) == set(expected)
    architecture = checkpoint_layout.Manifest.read(checkpoint_layout.find(base)).architecture
    for weight in rules.weights(get(family).RULES, architecture):
        names = [f"base_model.model.{name.removesuffix('.weight')}.lora_A.weight" for name, _ in weight.hf]
        if names[0] in expected:
            whole = sum(expected[name] for name in names)
            expected.update(dict.fromkeys(names, whole))
    for name, gradient in found.items():
        relative = (gradient - expected[name]).norm() / expected[name].norm()
        assert relative < 1e-4, f"{name}: relative error {relative:.2e}"


@pytest.fixture(scope="module")
def one_rank(pool, bases, dataset, tmp_path_factory):
    """family -> folder and metrics of a run on one rank."""
    made = {}

    def lines(family):
        if family not in made:
            folder = tmp_path_factory.mktemp(family)
            made[family] = folder, run(pool, 1, settings(bases, dataset, folder, family))
        return made[family]

    return lines


@pytest.mark.parametrize("size", LAYOUTS)
@pytest.mark.parametrize("family", VARIANTS)
def test_the_layout_does_not_matter(pool, bases, dataset, one_rank, tmp_path, family, size):
    tree, expected = settings(bases, dataset, tmp_path, family, run__steps=3), one_rank(family)[1]
    curves = pool.run(size, "tests.training.programs:curves", config=tree, layouts=list(LAYOUTS[size].values()))[0]
    for name, found in zip(LAYOUTS[size], curves, strict=True):
        assert [loss for loss, _ in found] == pytest.approx(curve(expected)[:3], rel=2e-5), name
        assert [norm for _, norm in found] == pytest.approx(curve(expected, "grad_norm")[:3], rel=1e-4), name
    assert curve(expected)[-1] < curve(expected)[0] - 0.1, "it must have learnt something"


def test_a_checkpoint_holds_the_adapters_and_their_state_alone(bases, one_rank):
    folder = one_rank("llama")[0] / "checkpoints" / f"iter_{STEPS:07d}"
    found = tensors(folder)
    manifest = checkpoint_layout.Manifest.read(folder)
    count = flops.adapter_weights(manifest.architecture, Lora(**RANK))
    for prefix in ("", "optimizer.state.exp_avg.", "optimizer.state.exp_avg_sq."):
        own = {name: tensor for name, tensor in found.items() if name.startswith(f"{prefix}decoder.")}
        assert sum(tensor.numel() for tensor in own.values()) == count
        assert all(tensor.count_nonzero() > 0.9 * tensor.numel() for tensor in own.values())
        found = {name: tensor for name, tensor in found.items() if name not in own}
    assert not found
    assert manifest.source["lora"] == {"rank": 5, "alpha": 7.0, "dropout": 0.0, "linears": ["qkv", "proj", "fc1", "fc2"]}
    assert manifest.source["base"] == str(bases("llama", VARIANTS["llama"])[1] / "release")


@pytest.mark.parametrize("size, layout", [(4, {"parallel": TP2_PP2_SP}), (2, {"model": {"precision": "bf16"}})],
                         ids=["tp2 x pp2 x sp", "dp2, bf16"])
def test_training_leaves_the_base_bit_for_bit_and_trains_adapters_alone(pool, bases, dataset, tmp_path, size, layout):
    tree = settings(bases, dataset, tmp_path)
    tree = {**tree, **{section: {**tree.get(section, {}), **values} for section, values in layout.items()}}
    for rank in pool.run(size, "tests.training.lora_programs:what_training_changes", config=tree):
        assert rank["changed"] == rank["trained"] and all(map(lora_layout.is_adapter, rank["changed"]))
        assert rank["unchanged"] and not any(map(lora_layout.is_adapter, rank["unchanged"]))
        numbers = sum(rank["trained"].values())
        assert numbers <= rank["buffered"] < 1.1 * numbers, "gradient buffers for adapters alone"
        assert rank["moments"] == pytest.approx(numbers / rank["owners"], rel=0.1), "optimizer state for adapters alone"


def test_every_layout_starts_with_the_same_adapters(pool, bases):
    base = str(bases("llama", "gqa")[1])

    def first(size: int, **parallel: int) -> list[dict[str, np.ndarray]]:
        return pool.run(size, "tests.training.lora_programs:first_adapters", checkpoint=base, parallel=parallel, lora=RANK)

    [whole] = first(1)
    parts = first(4, tp=2, pp=2)
    assert {name for part in parts for name in part} == set(whole)
    for name, expected in whole.items():
        if name.endswith("lora_B"):
            assert not expected.any()
            continue
        found = [part[name] for part in parts if name in part]
        cut = "linear_proj" in name or "linear_fc2" in name
        assert np.array_equal(np.concatenate(found, axis=1) if cut else found[0], expected)
        bound = expected.shape[1] ** -0.5  # kaiming_uniform with a = sqrt(5), as peft's
        assert 0.9 * bound < np.abs(expected).max() <= bound
    firsts = [array.ravel()[:3].tolist() for name, array in whole.items() if name.endswith("lora_A")]
    assert len({tuple(numbers) for numbers in firsts}) == len(firsts), "each linear of each layer has its own"


def test_resume_is_exact_with_dropout_of_the_adapters(pool, bases, dataset, tmp_path):
    def of(name: str) -> dict:
        tree = settings(bases, dataset, tmp_path / name, lora__dropout=0.2, model__precision="bf16", run__steps=4,
                        checkpoint__every_steps=2, validation__every_steps=0)
        return {**tree, "parallel": {"tp": 2}}

    whole = run(pool, 4, of("whole"))
    run(pool, 4, of("cut"), stop_after=3)  # one step after the checkpoint of step 2
    cut = run(pool, 4, of("cut"))
    assert curve(cut) == curve(whole) and curve(cut, "valid_loss") == curve(whole, "valid_loss")
    expected, found = (tensors(tmp_path / name / "checkpoints" / "iter_0000004") for name in ("whole", "cut"))
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_resume_at_another_layout(pool, bases, dataset, one_rank, tmp_path):
    folder, whole = one_rank("llama")
    moved = tmp_path / "checkpoints"
    shutil.copytree(folder / "checkpoints" / "iter_0000003", moved / "iter_0000003")
    checkpoint_layout.set_latest(moved, 3)
    resumed = run(pool, 4, {**settings(bases, dataset, tmp_path, "llama"), "parallel": TP2_PP2_SP})
    assert curve(resumed) == pytest.approx(curve(whole)[3:], rel=2e-5)
    assert curve(resumed, "grad_norm") == pytest.approx(curve(whole, "grad_norm")[3:], rel=1e-4)


def test_dropout_of_the_adapters_is_felt_in_training_alone(pool, bases, dataset, one_rank, tmp_path):
    tree = settings(bases, dataset, tmp_path, lora__dropout=0.5, run__steps=2, checkpoint__every_steps=0)
    lines, expected = run(pool, 2, {**tree, "parallel": {"tp": 2}}), one_rank("starcoder")[1]
    assert curve(lines)[0] == pytest.approx(curve(expected)[0], rel=1e-5), "B is zero in the first step"
    assert abs(curve(lines)[1] - curve(expected)[1]) > 1e-3
    assert curve(lines, "valid_loss")[0] == pytest.approx(curve(expected, "valid_loss")[0], rel=1e-5)


def test_tp_ranks_drop_the_same_of_what_they_share_and_their_own_of_what_is_cut(pool, bases):
    for parallel, shared in (({"tp": 2}, True), ({"tp": 2, "sequence_parallel": True}, False)):
        masks = pool.run(2, "tests.training.lora_programs:dropped", checkpoint=str(bases("llama", "gqa")[1]),
                         parallel=parallel, lora={**RANK, "dropout": 0.5})
        for name in masks[0]:
            column = name in ("linear_qkv", "linear_fc1")
            assert np.array_equal(masks[0][name], masks[1][name]) == (column and shared), (parallel, name)


def test_some_linears_of_a_hugging_face_folder_from_training_to_both_exports(pool, bases, dataset, tmp_path):
    """What was trained is what is exported: megatron-core's logits, peft's and the merged model's are the same."""
    hf = bases("starcoder", "mqa")[0]
    tree = settings(bases, dataset, tmp_path, run__steps=2, lora__linears=["fc2", "qkv"])
    run(pool, 2, {**tree, "load": {"from": str(hf)}, "parallel": {"pp": 2}})
    root = tmp_path / "checkpoints"
    names = {name for name in tensors(root / "iter_0000002") if not name.startswith("optimizer")}
    assert names == {f"decoder.layers.{linear}_adapter.lora_{part}" for part in "AB"
                     for linear in ("self_attention.linear_qkv", "mlp.linear_fc2")}
    adapter = lora_to_hf.convert(root, tmp_path / "adapter", form="adapter")
    assert json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"] == str(hf)
    expected = hf_logits(with_peft(hf, adapter))
    assert_close(hf_logits(load(lora_to_hf.convert(root, tmp_path / "merged", form="merged"))), expected)
    [found] = pool.run(1, "tests.training.programs:logits", checkpoint=str(root), parallel={}, lengths=LENGTHS)
    assert_close(found, expected)
    assert np.abs(hf_logits(load(hf)) - expected).max() > 1e-3 * np.abs(expected).max()


@pytest.mark.parametrize("lora, message", [
    ({"rank": 4, "linears": []}, r"lora.linears: \[\] with lora.rank=4; name each linear"),
    ({"rank": 4, "linears": ["qkv", "qkv"]}, r"lora.linears: \['qkv', 'qkv'\] with lora.rank=4; name each linear .* once"),
    ({"rank": 4, "linears": ["gate"]}, "lora.linears.0: .*'qkv', 'proj', 'fc1' or 'fc2'"),
    ({"rank": -1}, "lora.rank: .* greater than or equal to 0, got -1"),
    ({"rank": 4, "dropout": 1.0}, "lora.dropout: .* less than 1"),
])
def test_settings_that_cannot_work_are_refused(bases, dataset, tmp_path, lora, message):
    with pytest.raises(ConfigError, match=message):
        parse({**settings(bases, dataset, tmp_path), "lora": lora})


def test_adapters_and_transformer_engines_layers_do_not_go_together(bases, dataset, tmp_path):
    tree = settings(bases, dataset, tmp_path)
    with pytest.raises(ConfigError, match=r"runtime.kernels: 'transformer_engine', but adapters \(lora.rank=5\) go on"):
        parse({**tree, "runtime": {**tree["runtime"], "kernels": "transformer_engine"}})


@pytest.mark.parametrize("changed, message", [
    ({"rank": 6}, "lora.rank: 6, but .*iter_0000006 was trained with 5; restore it"),
    ({"rank": 0}, "lora.rank: 0, but .* was trained with 5"),
    ({"alpha": 8.0}, "lora.alpha: 8.0, but .* was trained with 7.0"),
    ({"linears": ["qkv"]}, r"lora.linears: \['qkv'\], but .* was trained with \['qkv', 'proj', 'fc1', 'fc2'\]"),
])
def test_other_adapters_are_not_resumed(bases, dataset, one_rank, changed, message):
    folder = one_rank("starcoder")[0]
    tree = settings(bases, dataset, folder)
    prepared(tree)
    prepared({**tree, "lora": {**tree["lora"], "linears": ["fc2", "fc1", "proj", "qkv"], "dropout": 0.3}})
    with pytest.raises(ConfigError, match=message):
        prepared({**tree, "lora": {**tree["lora"], **changed}})


def test_adapters_are_not_resumed_on_a_base_that_has_changed(bases, dataset, one_rank, tmp_path):
    folder, _ = one_rank("starcoder")
    tree = settings(bases, dataset, folder)
    moved = shutil.copytree(tree["load"]["from"], tmp_path / "moved")
    tree["load"]["from"] = str(moved)
    prepared(tree)
    weights = next((moved / "release").glob("*.distcp"))
    content = bytearray(weights.read_bytes())
    content[len(content) // 15 * 7] ^= 1
    weights.write_bytes(content)
    with pytest.raises(CheckpointError, match="load.from: the weight files of .*moved/release have the fingerprint .*, but "
                                              "the adapters in .* another model, or it was written anew"):
        prepared(tree)


def test_a_whole_runs_checkpoint_is_not_resumed_with_adapters(bases, dataset, tmp_path):
    tree = settings(bases, dataset, tmp_path)
    base = checkpoint_layout.find(tree["load"]["from"])
    manifest = checkpoint_layout.Manifest.read(base)
    with pytest.raises(ConfigError, match="lora.rank: 5, but .*release was trained with 0"):
        lora_layout.require_same(manifest, base, Lora(**RANK), base)
    lora_layout.require_same(manifest, base, Lora(), base)


def test_a_lora_checkpoint_is_no_base_model(bases, dataset, one_rank, tmp_path):
    tree = settings(bases, dataset, tmp_path)
    tree["load"]["from"] = str(one_rank("starcoder")[0] / "checkpoints")
    with pytest.raises(CheckpointError, match="load.from: .*iter_0000006 is a LoRA checkpoint: it holds adapters of rank 5 for "
                                              ".*release and no whole model; make one with .*--lora merged --checkpoint"):
        prepared(tree)
