"""Weight rules: complete on both sides, exact both ways, and in the order that the models mean."""

import pytest
import torch
from safetensors.torch import load_file

from megatron_ft import families
from megatron_ft.errors import CheckpointError
from megatron_ft.families import rules
from tests.small_models import VARIANTS, make_hf_model


@pytest.fixture(params=VARIANTS, ids="-".join)
def model(request, tmp_path):
    """(architecture, rule table, the Hugging Face tensors) of a small model."""
    folder = make_hf_model(*request.param, tmp_path / "hf")
    return (families.architecture_of_folder(folder), families.get(request.param[0]).RULES,
            load_file(folder / "model.safetensors"))


def test_the_rules_cover_exactly_the_tensors_of_the_hugging_face_model(model):
    architecture, table, tensors = model
    listed = [name for weight in rules.weights(table, architecture) for name, _ in weight.hf]
    assert sorted(listed) == sorted(tensors)
    rules.check_hf_tensors(table, architecture, {name: tensor.shape for name, tensor in tensors.items()}, where="hf")


def test_there_and_back_gives_the_same_bits_and_no_number_is_lost(model):
    architecture, table, tensors = model
    numbers = 0
    for weight in rules.weights(table, architecture):
        merged = rules.to_megatron(weight, [tensors[name] for name, _ in weight.hf])
        assert tuple(merged.shape) == weight.megatron_shape
        numbers += merged.numel()
        for (name, _), tensor in zip(weight.hf, rules.split_rows(weight, merged), strict=True):
            assert torch.equal(tensor, tensors[name]), name
    assert numbers == architecture.parameters


def llama(**changes):
    hf = {"model_type": "llama", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 4, "head_dim": 2,
          "num_key_value_heads": 2, "vocab_size": 5, "intermediate_size": 3}
    return families.from_hf_config({**hf, **changes}, where="test")


def weight_named(architecture, name):
    found = rules.weights(families.get(architecture.family).RULES, architecture)
    return next(weight for weight in found if weight.megatron == name)


def test_queries_keys_and_values_are_laid_out_group_by_group():
    # 4 query heads in 2 groups, 2 rows a head: rows named by head, the order worked out by hand
    q = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3]).repeat(8, 1).T.float()
    k = torch.tensor([10, 10, 11, 11]).repeat(8, 1).T.float()
    v = torch.tensor([20, 20, 21, 21]).repeat(8, 1).T.float()
    weight = weight_named(llama(), "decoder.layers.0.self_attention.linear_qkv.weight")
    merged = rules.to_megatron(weight, [q, k, v])
    assert merged[:, 0].tolist() == [0, 0, 1, 1, 10, 10, 20, 20, 2, 2, 3, 3, 11, 11, 21, 21]


def test_the_gate_comes_before_the_up_projection():
    weight = weight_named(llama(), "decoder.layers.0.mlp.linear_fc1.weight")
    merged = rules.to_megatron(weight, [torch.zeros(3, 8), torch.ones(3, 8)])
    assert merged[:, 0].tolist() == [0, 0, 0, 1, 1, 1]


def test_vocabulary_padding_is_cut_off_on_the_way_out():
    weight = weight_named(llama(), "embedding.word_embeddings.weight")
    padded = torch.arange(8 * 8).reshape(8, 8)
    assert torch.equal(rules.split_rows(weight, padded)[0], padded[:5])
    with pytest.raises(CheckpointError, match=r"word_embeddings.weight has shape \[4, 8\], expected \[5, 8\]"):
        rules.check_megatron_shape(weight, tuple(padded[:4].shape))


def test_a_tied_model_has_no_output_layer_and_its_copy_is_dropped():
    tied = llama(tie_word_embeddings=True)
    table = families.get("llama").RULES
    assert not any(weight.megatron == "output_layer.weight" for weight in rules.weights(table, tied))
    assert rules.ignored(table, tied)["lm_head.weight"] == "model.embed_tokens.weight"
    assert "lm_head.weight" not in rules.ignored(table, llama())


def shapes(architecture):
    table = families.get(architecture.family).RULES
    return table, {name: shape for weight in rules.weights(table, architecture) for name, shape in weight.hf}


def test_a_missing_tensor_is_named():
    table, found = shapes(llama())
    del found["model.layers.0.mlp.up_proj.weight"]
    with pytest.raises(CheckpointError, match="model.layers.0.mlp.up_proj.weight is missing.*llama with 1 layers"):
        rules.check_hf_tensors(table, llama(), found, where="hf")


def test_an_unknown_tensor_is_named():
    table, found = shapes(llama())
    with pytest.raises(CheckpointError, match="tensors model.layers.1.x, model.layers.1.y are unknown"):
        rules.check_hf_tensors(table, llama(), {**found, "model.layers.1.x": (), "model.layers.1.y": ()}, where="hf")


def test_a_misshapen_tensor_is_named_with_both_shapes():
    table, found = shapes(llama())
    found["model.norm.weight"] = (7,)
    with pytest.raises(CheckpointError, match=r"hf: model.norm.weight has shape \[7\], expected \[8\]"):
        rules.check_hf_tensors(table, llama(), found, where="hf")


def test_tensors_without_information_may_be_there():
    table, found = shapes(llama())
    known = "model.layers.0.self_attn.rotary_emb.inv_freq"
    assert rules.ignored(table, llama()) == {known: ""}
    rules.check_hf_tensors(table, llama(), {**found, known: (1,)}, where="hf")
    other = "model.layers.1.self_attn.rotary_emb.inv_freq"  # of a layer that the model does not have
    with pytest.raises(CheckpointError, match=f"hf: tensor {other} is unknown"):
        rules.check_hf_tensors(table, llama(), {**found, known: (1,), other: (1,)}, where="hf")
