"""Which weights decay, what the optimizer choices do, and what fp16 and gradients that are not finite lead to."""

from __future__ import annotations

import pytest
import torch

from megatron_ft.config import parse
from megatron_ft.errors import ConfigError
from megatron_ft.training.kernels import choose
from tests.training.runs import STEPS, config, curve, run, tensors

GROUPS = {"biases": {"linear_qkv.bias", "input_layernorm.bias", "final_layernorm.bias"},
          "norms": {"input_layernorm.bias", "input_layernorm.weight", "final_layernorm.weight", "final_layernorm.bias"},
          "embeddings": {"word_embeddings.weight", "position_embeddings.weight"}, "nothing": set()}
NAMES = set().union(*GROUPS.values()) | {"linear_qkv.weight"}


@pytest.mark.parametrize("group", GROUPS)
def test_each_group_is_left_without_decay(pool, bases, dataset, tmp_path, group):
    settings = config(bases("starcoder", "mqa")[1], dataset, tmp_path, optim__no_decay=[] if group == "nothing" else [group])
    [decayed] = pool.run(1, "tests.training.programs:decayed_parameters", config=settings)
    for name in NAMES:
        assert any(found.endswith(name) for found in decayed) == (name not in GROUPS[group]), name


def test_transformer_engines_names_belong_to_the_same_groups():
    import fnmatch

    from megatron_ft.training.optimizer import DECAY_GROUPS

    def groups_of(name: str) -> set[str]:
        return {group for group, patterns in DECAY_GROUPS.items() if any(fnmatch.fnmatch(name, p) for p in patterns)}

    layer = "module.decoder.layers.3."
    assert groups_of(layer + "self_attention.linear_qkv.layer_norm_weight") == groups_of(layer + "input_layernorm.weight")
    assert groups_of(layer + "mlp.linear_fc1.layer_norm_bias") == groups_of(layer + "pre_mlp_layernorm.bias")
    assert groups_of(layer + "mlp.linear_fc1.weight") == set()


def test_sgd_is_torchs_and_resumes_exactly(pool, bases, dataset, tmp_path):
    """Against momentum worked out by hand from the weights of the first steps' checkpoints."""
    settings = {**config(bases("llama", "gqa")[1], dataset, tmp_path / "whole", optim__optimizer="sgd", optim__lr=0.1,
                         optim__min_lr=0.1, optim__schedule="constant", optim__weight_decay=0.0, optim__momentum=0.5,
                         optim__clip_norm=0.0, checkpoint__every_steps=1, checkpoint__keep_last=9, validation__every_steps=0),
                "parallel": {"tp": 2, "distributed_optimizer": False}}
    run(pool, 2, settings)
    name = "decoder.layers.mlp.linear_fc1.weight"
    at = [tensors(tmp_path / "whole" / "checkpoints" / f"iter_{step:07d}") for step in (4, 5, 6)]
    buffer = next(key for key in at[0] if "momentum" in key and key.endswith(name))
    assert torch.allclose(at[0][name] - at[1][name], 0.1 * at[1][buffer], atol=1e-7)
    gradient = at[2][buffer] - 0.5 * at[1][buffer]
    assert torch.allclose(at[1][name] - at[2][name], 0.1 * (0.5 * at[1][buffer] + gradient), atol=1e-7)

    settings["run"]["dir"] = str(tmp_path / "cut")
    run(pool, 2, settings, stop_after=5)
    run(pool, 2, settings)
    again = tensors(tmp_path / "cut" / "checkpoints" / "iter_0000006")
    assert set(again) == set(at[2]) and all(torch.equal(again[key], at[2][key]) for key in again)


def test_adam_decays_through_the_gradient_and_adamw_beside_it(pool, bases, dataset, tmp_path):
    """With a decay this strong, L2 gradients are nearly the weights themselves, and Adam's normalization hides their size."""
    found = {}
    for name in ("adam", "adamw"):
        settings = config(bases("llama", "gqa")[1], dataset, tmp_path / name, optim__optimizer=name, run__steps=1,
                          optim__weight_decay=50.0, validation__every_steps=0, optim__warmup_steps=0)
        run(pool, 1, settings)
        found[name] = tensors(tmp_path / name / "checkpoints" / "iter_0000001")["decoder.layers.mlp.linear_fc1.weight"]
    base = tensors(bases("llama", "gqa")[1] / "release")["decoder.layers.mlp.linear_fc1.weight"]
    assert (base - found["adam"]).abs().max() == pytest.approx(1e-3, rel=1e-2), "one step of Adam moves by the rate"
    assert ((base - found["adamw"]) / base)[base.abs() > 0.1].median() == pytest.approx(1e-3 * 50, rel=0.1)


@pytest.mark.slow
def test_fp16_finds_its_loss_scale_and_stays_near_fp32(pool, bases, dataset, tmp_path):
    """The first steps overflow on purpose: they change nothing, are counted, and halve the scale until it fits."""
    base = bases("llama", "gqa")[1]
    exact = curve(run(pool, 1, config(base, dataset, tmp_path / "fp32", validation__every_steps=0)))
    half = {**config(base, dataset, tmp_path / "fp16", model__precision="fp16", validation__every_steps=0,
                     optim__initial_loss_scale=256.0), "parallel": {"tp": 2}}
    assert curve(run(pool, 2, half)) == pytest.approx(exact, rel=5e-3)
    half["run"]["dir"], half["optim"]["initial_loss_scale"] = str(tmp_path / "large"), 2.0 ** 14
    lines = run(pool, 2, half)
    scales = curve(lines, "loss_scale")
    assert scales[0] == 2.0 ** 14 and scales[-1] < 2.0 ** 14
    assert 2 <= curve(lines, "skipped_steps")[-1] < STEPS
    assert curve(lines)[0] == pytest.approx(exact[0], rel=5e-3)


def test_sgd_with_the_distributed_optimizer_is_refused(bases, dataset, tmp_path):
    with pytest.raises(ConfigError, match="distributed_optimizer: true, but megatron-core cuts up Adam's state only"):
        parse(config(bases("llama", "gqa")[1], dataset, tmp_path, optim__optimizer="sgd"))


def test_transformer_engine_is_insisted_on_in_vain():
    with pytest.raises(ConfigError, match="'transformer_engine', which runs on CUDA only, and runtime.device is 'cpu'"):
        choose("cpu", "transformer_engine")
