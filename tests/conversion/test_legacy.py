"""Legacy Megatron folders of four dialects at every TP x PP give back the Hugging Face model that they were made from."""

import argparse
import itertools
import pickle

import pytest
import torch
from safetensors.torch import load_file

from megatron_ft import families, log
from megatron_ft.conversion import hf_to_megatron, megatron_args, megatron_to_hf, opening, to_legacy, to_torch_dist
from megatron_ft.conversion.legacy_layout import canonical
from megatron_ft.conversion.opening import Hints
from megatron_ft.errors import CheckpointError, ConfigError
from tests.conversion.legacy_writer import write
from tests.conversion.test_round_trip import assert_same_bits, logits, tensors_of
from tests.small_models import make_random_model

VOCABULARY = {"starcoder": 211, "llama": 203}
KINDS = [("starcoder", "bigcode"), ("starcoder", "nvidia"), ("starcoder", "core"), ("llama", "nvidia"),
         ("llama", "megatron-llm"), ("llama", "core")]
LAYOUTS = list(itertools.product((1, 2, 4), (1, 2, 4)))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """(family, dialect) -> Hugging Face folder and transformers config of a model that four ranks can cut."""
    from transformers import GPTBigCodeConfig, LlamaConfig

    made = {}

    def make(family, dialect):
        multi_query = dialect != "nvidia"
        if (family, multi_query) not in made:
            config = LlamaConfig(
                vocab_size=VOCABULARY["llama"], hidden_size=48, intermediate_size=92, num_hidden_layers=8,
                num_attention_heads=8, num_key_value_heads=4, head_dim=10, max_position_embeddings=112, rms_norm_eps=1e-5,
            ) if family == "llama" else GPTBigCodeConfig(
                vocab_size=VOCABULARY["starcoder"], n_positions=97, n_embd=64, n_layer=8, n_head=8, n_inner=76,
                activation_function="gelu_pytorch_tanh", multi_query=multi_query, layer_norm_epsilon=1e-5)
            made[family, multi_query] = make_random_model(config, tmp_path_factory.mktemp(family) / "hf"), config
        return made[family, multi_query]

    return make


def legacy(model, folder, family, dialect, **layout):
    hf, config = model(family, dialect)
    return write(folder, load_file(hf / "model.safetensors"), config, dialect=dialect, **layout)


@pytest.mark.parametrize("tp, pp", LAYOUTS)
@pytest.mark.parametrize("family, dialect", KINDS)
def test_every_rank_s_part_finds_its_place(model, tmp_path, family, dialect, tp, pp):
    root = legacy(model, tmp_path / "legacy", family, dialect, tp=tp, pp=pp)
    back = megatron_to_hf.convert(root, tmp_path / "hf", hints=Hints(vocabulary=VOCABULARY[family]))
    assert_same_bits(tensors_of(back), tensors_of(model(family, dialect)[0]))
    assert families.architecture_of_folder(back) == families.architecture_of_folder(model(family, dialect)[0])


@pytest.mark.parametrize("family, dialect", KINDS)
def test_the_logits_are_those_of_the_hugging_face_model(model, tmp_path, family, dialect):
    root = legacy(model, tmp_path / "legacy", family, dialect, tp=2, pp=2)
    back = megatron_to_hf.convert(root, tmp_path / "hf", hints=Hints(vocabulary=VOCABULARY[family]))
    assert torch.equal(logits(back, tokens=90), logits(model(family, dialect)[0], tokens=90))


@pytest.mark.parametrize("family, dialect", [("llama", "nvidia"), ("starcoder", "core")])
def test_pieces_of_stages_are_put_in_their_order(model, tmp_path, family, dialect):
    root = legacy(model, tmp_path / "legacy", family, dialect, tp=2, pp=2, pieces=2, iteration=250)
    opened = opening.open_checkpoint(root, Hints(vocabulary=VOCABULARY[family]))
    assert (opened.iteration, opened.kind) == (250, f"legacy, {dialect}")
    back = megatron_to_hf.convert(root, tmp_path / "hf", hints=Hints(vocabulary=VOCABULARY[family]))
    assert_same_bits(tensors_of(back), tensors_of(model(family, dialect)[0]))


def test_a_legacy_checkpoint_becomes_one_that_training_loads(model, tmp_path):
    root = legacy(model, tmp_path / "legacy", "llama", "megatron-llm", tp=4, pp=2)
    made = to_torch_dist.convert(root, tmp_path / "megatron", hints=Hints(config=model("llama", "megatron-llm")[0]))
    back = megatron_to_hf.convert(made, tmp_path / "hf")
    assert_same_bits(tensors_of(back), tensors_of(model("llama", "megatron-llm")[0]))
    assert (back / "generation_config.json").is_file(), "what lies beside --config goes along"


@pytest.mark.parametrize("tp, pp", [(1, 1), (2, 1), (1, 4), (4, 2)])
@pytest.mark.parametrize("family, dialect", KINDS)
def test_what_is_written_for_a_fork_is_what_the_fork_writes(model, tmp_path, family, dialect, tp, pp):
    """Same files, names, shapes and numbers as the independent writer's, but for what pads the vocabulary."""
    hf, _ = model(family, dialect)
    expected = legacy(model, tmp_path / "expected", family, dialect, tp=tp, pp=pp)
    ours = hf_to_megatron.convert(hf, tmp_path / "megatron")
    made = to_legacy.convert(ours, tmp_path / "made", dialect=dialect, tp=tp, pp=pp)
    files = sorted(path.relative_to(made) for path in made.rglob("*.pt"))
    assert files == sorted(path.relative_to(expected) for path in expected.rglob("*.pt"))
    for file in files:
        ours, theirs = (torch.load(root / file, weights_only=False, pickle_module=Lenient) for root in (made, expected))
        found, wanted = flat(ours["model"]), flat(theirs["model"])
        renamed = {canonical(name): tensor for name, tensor in found.items()}
        wanted = {canonical(name): tensor for name, tensor in wanted.items() if canonical(name)}
        assert sorted(renamed) == sorted(wanted)
        for name, tensor in wanted.items():
            same = renamed[name] == tensor
            assert (same | (tensor == 7.5)).all() and renamed[name].shape == tensor.shape, name
    back = megatron_to_hf.convert(made, tmp_path / "hf")
    assert_same_bits(tensors_of(back), tensors_of(hf))


class Lenient:
    """A pickle module for torch.load that needs no Megatron."""

    class Unpickler(pickle.Unpickler):
        def find_class(self, module, name):
            return super().find_class(module, name) if not module.startswith("megatron.") else lambda *arguments: arguments

    load = staticmethod(pickle.load)


def flat(value, prefix=""):
    """Nested names of tensors, joined by dots."""
    if isinstance(value, torch.Tensor):
        return {prefix: value}
    return {name: tensor for key, item in (value.items() if isinstance(value, dict) else ())
            for name, tensor in flat(item, f"{prefix}.{key}" if prefix else key).items()}


def test_a_fork_is_not_given_what_it_does_not_have(model, tmp_path):
    made = hf_to_megatron.convert(model("llama", "core")[0], tmp_path / "megatron")
    for options, message in (({"dialect": "bigcode"}, "--layout bigcode: it has learned positions only, and this .* a llama"),
                             ({"dialect": "old"}, "--layout: 'old' is unknown; use one of nvidia, bigcode, megatron-llm, core"),
                             ({"dialect": "core", "pp": 3}, "--pp: 3 does not divide the 8 layers"),
                             ({"dialect": "nvidia", "tp": 8}, "--tp: 8 does not divide the 4 query groups")):
        with pytest.raises(ConfigError, match=message):
            to_legacy.convert(made, tmp_path / "out", **{"tp": 1, "pp": 1, **options})
    assert not list(tmp_path.glob("*out*"))


def test_a_config_that_says_otherwise_counts_and_is_said(model, tmp_path, monkeypatch, caplog):
    import json
    import shutil

    hf, _ = model("llama", "nvidia")
    config = shutil.copytree(hf, tmp_path / "config")
    values = json.loads((config / "config.json").read_text())
    values.pop("rope_parameters", None)
    (config / "config.json").write_text(json.dumps({**values, "rope_theta": 5e5}))
    root = legacy(model, tmp_path / "legacy", "llama", "nvidia", tp=1, pp=1)
    monkeypatch.setattr(log.get(), "propagate", True)
    opened = opening.open_checkpoint(root, Hints(config=config))
    assert opened.architecture.rope["theta"] == 5e5
    assert "its arguments say rope = {'type': 'default', 'theta': 10000.0}" in caplog.text and "which counts" in caplog.text


def test_the_vocabulary_is_asked_for_where_the_args_do_not_say_it(model, tmp_path):
    root = legacy(model, tmp_path / "legacy", "llama", "nvidia", tp=2, pp=1)
    refuse(root, tmp_path, ConfigError, "the vocabulary, and the 256 stored rows may be padded; .*--vocab-size N", Hints())
    refuse(root, tmp_path, ConfigError, "--vocab-size is 300, but 256 rows are stored", Hints(vocabulary=300))
    known = legacy(model, tmp_path / "bigcode", "starcoder", "bigcode", tp=2, pp=1)
    assert opening.open_checkpoint(known).architecture.vocabulary == 211


def refuse(root, tmp_path, error, message, hints=Hints(vocabulary=203)):  # noqa: B008 - frozen
    with pytest.raises(error, match=message):
        megatron_to_hf.convert(root, tmp_path / "out", hints=hints)
    assert not list(tmp_path.glob("*out*"))


def change(root, rank, change_state):
    """Apply a function to the state of one rank's file."""
    [path] = root.glob(f"*/mp_rank_{rank}/model_optim_rng.pt")
    state = torch.load(path, weights_only=False)
    change_state(state)
    torch.save(state, path)


def test_ranks_that_do_not_fit_together_are_refused(model, tmp_path):
    root = legacy(model, tmp_path / "legacy", "llama", "nvidia", tp=2, pp=2)
    name = "layers.0.mlp.dense_4h_to_h.weight"

    def encoder(state):
        return state["model"]["language_model"]["encoder"]

    change(root, "01_001", lambda state: encoder(state).update({name: encoder(state)[name][:, 1:].clone()}))
    refuse(root, tmp_path, CheckpointError, r"linear_fc2.weight of tp rank 1 has shape \[48, 45\].*expected \[48, 46\]")
    change(root, "01_001", lambda state: encoder(state).pop(name))
    refuse(root, tmp_path, CheckpointError, "decoder.layers.4.mlp.linear_fc2.weight is missing on tp rank 1")
    change(root, "01_001", lambda state: encoder(state).update({name: torch.zeros(48, 46), "layers.0.adapter": torch.zeros(2)}))
    refuse(root, tmp_path, CheckpointError, "holds decoder.layers.4.adapter, unknown to family llama")
    (root / "release/mp_rank_01_001").rename(tmp_path / "elsewhere")
    refuse(root, tmp_path, CheckpointError, "no folder for tp rank 1, stage 1 of 2 x 2")


def test_a_stage_that_is_left_out_is_noticed(model, tmp_path):
    import shutil

    root = legacy(model, tmp_path / "legacy", "llama", "nvidia", tp=1, pp=4)
    shutil.rmtree(root / "release/mp_rank_00_003")
    refuse(root, tmp_path, CheckpointError, "the ranks hold 6 layers, but the model has 8; a stage is missing")


def test_args_of_another_model_are_refused_by_name(model, tmp_path):
    root = legacy(model, tmp_path / "legacy", "llama", "nvidia", tp=1, pp=1)
    for name, value, message in (("num_experts", 8, "args.num_experts is 8, expected None"),
                                 ("rotary_percent", 0.5, "args.rotary_percent is 0.5, expected 1.0"),
                                 ("position_embedding_type", "alibi", "is 'alibi', expected learned or rotary"),
                                 ("hidden_size", None, "args.hidden_size is None, expected a whole number above 0")):
        before = []
        change(root, "00", lambda state, name=name, value=value, before=before: (
            before.append(getattr(state["args"], name, None)), setattr(state["args"], name, value)))
        refuse(root, tmp_path, ConfigError, message)
        change(root, "00", lambda state, name=name, before=before: setattr(state["args"], name, before[0]))
    change(root, "00", lambda state: state.update(checkpoint_version=1.0))
    refuse(root, tmp_path, CheckpointError, "checkpoint_version is 1.0, and before 2.0 query_key_value had other orders")
    change(root, "00", lambda state: state.update(args="none"))
    refuse(root, tmp_path, CheckpointError, "holds no `args`, which say what model it is")


def test_a_head_that_args_wrongly_call_tied_is_refused(model, tmp_path):
    root = legacy(model, tmp_path / "legacy", "llama", "nvidia", tp=1, pp=1)
    change(root, "00", lambda state: setattr(state["args"], "untie_embeddings_and_output_weights", False))
    refuse(root, tmp_path, CheckpointError, r"the head \(output_layer.weight\) of tp rank 0 differs from the word embeddings")


def test_megatron_lm_s_own_torch_dist_is_read_by_its_args(model, tmp_path):
    hf, _ = model("llama", "core")
    made = hf_to_megatron.convert(hf, tmp_path / "megatron")
    args = argparse.Namespace(
        num_layers=8, hidden_size=48, num_attention_heads=8, group_query_attention=True, num_query_groups=4, kv_channels=10,
        ffn_hidden_size=92, max_position_embeddings=112, swiglu=True, normalization="RMSNorm", norm_epsilon=1e-5,
        add_bias_linear=False, untie_embeddings_and_output_weights=True, position_embedding_type="rope", rotary_base=10000)
    (made / "release").rename(made / "iter_0000030")
    (made / "latest_checkpointed_iteration.txt").write_text("30")
    (made / "iter_0000030/megatron_ft.json").unlink()
    torch.save({"args": args, "iteration": 30, "checkpoint_version": 3.0}, made / "iter_0000030/common.pt")
    opened = opening.open_checkpoint(made, Hints(vocabulary=203))
    assert (opened.kind, opened.iteration) == ("torch_dist of Megatron-LM", 30)
    back = megatron_to_hf.convert(made, tmp_path / "hf", hints=Hints(vocabulary=203))
    assert_same_bits(tensors_of(back), tensors_of(hf))


def test_ranks_of_different_iterations_are_refused(model, tmp_path):
    root = legacy(model, tmp_path / "legacy", "llama", "nvidia", tp=2, pp=1, iteration=100)
    change(root, "01", lambda state: state.update(iteration=200))
    refuse(root, tmp_path, CheckpointError, "mp_rank_01: iteration is 200, but 100 in mp_rank_00")


NVIDIA = {"num_layers": 4, "hidden_size": 48, "num_attention_heads": 6, "ffn_hidden_size": 92, "max_position_embeddings": 112,
          "swiglu": True, "normalization": "RMSNorm", "add_bias_linear": False, "untie_embeddings_and_output_weights": True,
          "position_embedding_type": "rope", "vocab_size": 203}
GPT = {"num_layers": 4, "hidden_size": 60, "num_attention_heads": 6, "ffn_hidden_size": 76, "max_position_embeddings": 97,
       "vocab_size": 211, "attention_head_type": "multiquery"}


@pytest.mark.parametrize("args, field, value", [
    ({**NVIDIA, "use_rope_scaling": False, "rope_scaling_factor": 8.0}, "rope", {"type": "default", "theta": 10000.0}),
    ({**NVIDIA, "rope_scaling_factor": 2.0, "rope_theta": 5e5}, "rope", {"type": "linear", "theta": 5e5, "factor": 2.0}),
    ({**NVIDIA, "use_rope_scaling": True, "rope_scaling_factor": 32.0}, "rope", {
        "type": "llama3", "theta": 10000.0, "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192.0}),
    ({**NVIDIA, "rotary_theta": 1e6}, "rope", {"type": "default", "theta": 1e6}),
    (GPT, "activation", "gelu_tanh"), ({**GPT, "bias_gelu_fusion": False}, "activation", "gelu"),
    ({**GPT, "bias_gelu_fusion": False, "openai_gelu": True}, "activation", "gelu_tanh"),
    ({**GPT, "onnx_safe": True}, "activation", "gelu")])
def test_arguments_mean_what_their_megatron_does_with_them(args, field, value):
    found = megatron_args.architecture(argparse.Namespace(**args), vocabulary=None, stored_rows=256, where="args")
    assert getattr(found, field) == value


@pytest.mark.parametrize("more", [{"rotary_interleaved": True}, {"window_attn_skip_freq": 4}, {"softmax_type": "off-by-one"},
                                  {"position_embedding_type": ["rope"]}, {"tokenizer_type": "NullTokenizer"}])
def test_arguments_that_change_the_function_are_not_passed_over(more):
    with pytest.raises(ConfigError, match=next(iter(more)) if "tokenizer_type" not in more else "--vocab-size N"):
        megatron_args.architecture(argparse.Namespace(**{**NVIDIA, **more}), vocabulary=None, stored_rows=256, where="args")


def test_megatron_core_takes_the_tanh_form_by_its_fused_kernel_alone():
    args = argparse.Namespace(**{**GPT, "bias_gelu_fusion": False, "openai_gelu": True})
    assert megatron_args.architecture(args, vocabulary=None, stored_rows=256, where="args", core=True).activation == "gelu"


def test_bigcode_s_multi_head_attention_is_nvidia_s(model, tmp_path):
    root = legacy(model, tmp_path / "legacy", "starcoder", "nvidia", tp=2, pp=1)
    for rank in ("00", "01"):
        change(root, rank, lambda state: (setattr(state["args"], "attention_head_type", "multihead"),
                                          setattr(state["args"], "glu_activation", None)))
    back = megatron_to_hf.convert(root, tmp_path / "hf", hints=Hints(vocabulary=211))
    assert_same_bits(tensors_of(back), tensors_of(model("starcoder", "nvidia")[0]))
