"""Configs: what is read, what is refused and with which words."""

import copy
import dataclasses
import subprocess
import sys

import pytest
import transformers
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from megatron_ft import families
from megatron_ft.errors import CheckpointError, ConfigError
from megatron_ft.families.architecture import Architecture
from tests.small_models import VARIANTS, hf_config

STARCODER = {"model_type": "gpt_bigcode", "n_embd": 60, "n_layer": 2, "n_head": 6, "vocab_size": 211, "n_positions": 96}
LLAMA = {"model_type": "llama", "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 6, "vocab_size": 203,
         "intermediate_size": 92, "num_key_value_heads": 2}
STARCODER2 = {"model_type": "starcoder2", "hidden_size": 56, "num_hidden_layers": 3, "num_attention_heads": 4,
              "vocab_size": 209, "intermediate_size": 100, "num_key_value_heads": 2}
MISTRAL = {**LLAMA, "model_type": "mistral"}
QWEN2 = {**LLAMA, "model_type": "qwen2", "num_hidden_layers": 3}
LLAMA3_SCALING = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                  "original_max_position_embeddings": 8192}


def read(hf):
    return families.from_hf_config(hf, where="model/config.json")


@pytest.mark.parametrize("family, variant", VARIANTS)
def test_a_config_written_by_transformers_is_understood_to_the_last_key(family, variant):
    assert read(hf_config(family, variant).to_dict()).family == family


@pytest.mark.parametrize("family, variant", VARIANTS)
def test_the_config_we_write_is_read_back_as_the_same_model_by_us_and_by_transformers(family, variant):
    architecture = read(hf_config(family, variant).to_dict())
    written = families.get(family).hf_config(architecture)
    assert read(written) == architecture
    kind = type(hf_config(family, variant))
    assert read(kind(**{key: value for key, value in written.items() if key != "model_type"}).to_dict()) == architecture


PUBLISHED_PARAMETERS = {
    "starcoderbase-1b": 1_137_207_296, "starcoderbase": 15_517_456_384, "llama-7b": 6_738_415_616,
    "llama-13b": 13_015_864_320, "llama-30b": 32_528_943_616, "llama-65b": 65_285_660_672,
    "llama2-70b": 68_976_648_192, "llama3-8b": 8_030_261_248, "llama3-70b": 70_553_706_496,
    "llama3.2-1b": 1_235_814_400, "llama3.2-3b": 3_212_749_824, "codellama-7b": 6_738_546_688,
    "codellama-34b": 33_743_970_304, "deepseek-coder-1.3b": 1_346_471_936,
    "deepseek-coder-6.7b": 6_740_512_768, "deepseek-coder-33b": 33_342_991_360, "starcoder2-3b": 3_030_371_328,
    "starcoder2-7b": 7_173_923_840, "starcoder2-15b": 15_957_889_024, "mistral-7b-v0.1": 7_241_732_096,
    "mistral-7b-v0.3": 7_248_023_552, "codestral-22b": 22_247_282_688, "qwen2.5-coder-0.5b": 494_032_768,
    "qwen2.5-coder-1.5b": 1_543_714_304, "qwen2.5-coder-3b": 3_085_938_688, "qwen2.5-coder-7b": 7_615_616_512,
    "qwen2.5-coder-14b": 14_770_033_664, "qwen2.5-coder-32b": 32_763_876_352,
}
"""Numbers that the models' publishers and their safetensors metadata give."""


@pytest.mark.parametrize("name", PUBLISHED_PARAMETERS)
def test_a_preset_has_the_published_number_of_parameters(name):
    assert families.preset(name).parameters == PUBLISHED_PARAMETERS[name]


@pytest.mark.parametrize("name", families.presets())
def test_a_preset_has_as_many_parameters_as_transformers_builds_from_it(name):
    import torch

    preset = families.get(families.presets()[name]).PRESETS[name]
    config = transformers.AutoConfig.for_model(**preset)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    assert families.preset(name).parameters == sum(p.numel() for p in model.parameters())


def test_an_unknown_family_is_refused_and_the_known_ones_are_named():
    with pytest.raises(ConfigError, match="model/config.json: model_type is 'bert', supported: gpt_bigcode, llama, mistral, q"):
        read({"model_type": "bert"})
    with pytest.raises(ConfigError, match="family 'bert' is unknown; known: llama, mistral, qwen2, starcoder, starcoder2"):
        families.get("bert")
    with pytest.raises(ConfigError, match="preset 'gpt-5' is unknown; known: llama-7b"):
        families.preset("gpt-5")


PUBLISHED = {
    "starcoder2-3b": {
        "architectures": ["Starcoder2ForCausalLM"], "attention_dropout": 0.1, "attention_softmax_in_fp32": True,
        "bos_token_id": 0, "embedding_dropout": 0.1, "eos_token_id": 0, "hidden_act": "gelu_pytorch_tanh",
        "hidden_size": 3072, "initializer_range": 0.018042, "intermediate_size": 12288, "layer_norm_epsilon": 1e-05,
        "max_position_embeddings": 16384, "mlp_type": "default", "model_type": "starcoder2", "norm_epsilon": 1e-05,
        "norm_type": "layer_norm", "num_attention_heads": 24, "num_hidden_layers": 30, "num_key_value_heads": 2,
        "residual_dropout": 0.1, "rope_theta": 999999.4420358813, "scale_attention_softmax_in_fp32": True,
        "scale_attn_weights": True, "sliding_window": 4096, "transformers_version": "4.37.0.dev0", "use_bias": True,
        "use_cache": True, "vocab_size": 49152},
    "mistral-7b-v0.1": {
        "architectures": ["MistralForCausalLM"], "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu",
        "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 14336, "max_position_embeddings": 32768,
        "model_type": "mistral", "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8,
        "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "sliding_window": 4096, "tie_word_embeddings": False,
        "torch_dtype": "bfloat16", "transformers_version": "4.34.0.dev0", "use_cache": True, "vocab_size": 32000},
    "qwen2.5-coder-7b": {
        "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643, "eos_token_id": 151643,
        "hidden_act": "silu", "hidden_size": 3584, "initializer_range": 0.02, "intermediate_size": 18944,
        "max_position_embeddings": 32768, "max_window_layers": 28, "model_type": "qwen2", "num_attention_heads": 28,
        "num_hidden_layers": 28, "num_key_value_heads": 4, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
        "sliding_window": 131072, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
        "transformers_version": "4.45.0.dev0", "use_cache": True, "use_mrope": False, "use_sliding_window": False,
        "vocab_size": 152064},
}
"""config.json as it lies on the hub -> the preset that it is."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_config_is_the_preset_of_its_name(name):
    assert read(PUBLISHED[name]) == families.preset(name)


@pytest.mark.parametrize("base", [LLAMA, MISTRAL, QWEN2, STARCODER2])
def test_an_absent_key_means_what_transformers_takes_it_for(base):
    """transformers writes every key, so the config that it makes of few keys says what the others are."""
    few = {"model_type": base["model_type"]}
    whole = transformers.AutoConfig.for_model(**few).to_dict()
    assert read(few) == read(whole)


@pytest.mark.parametrize("change, window", [
    ({}, 4096), ({"sliding_window": None}, None), ({"sliding_window": 7}, 7)])
def test_a_mistral_without_the_key_has_a_window_and_with_null_has_none(change, window):
    assert read({**MISTRAL, **change}).window == window
    keys = {key: value for key, value in {**MISTRAL, **change}.items() if key != "model_type"}
    assert transformers.MistralConfig(**keys).sliding_window == window


@pytest.mark.parametrize("change, window", [
    ({}, None), ({"sliding_window": 7}, None), ({"sliding_window": 7, "max_window_layers": 0}, None),
    ({"use_sliding_window": True, "sliding_window": 7}, None),  # 28 layers without a window, if nothing else is said
    ({"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 3}, None),
    ({"use_sliding_window": True, "sliding_window": None, "max_window_layers": 0}, None),
    ({"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 0}, 7),
    ({"use_sliding_window": True, "max_window_layers": 0}, 4096)])
def test_a_qwen2_has_a_window_only_where_transformers_gives_one_to_every_layer(change, window):
    assert read({**QWEN2, **change}).window == window
    config = transformers.Qwen2Config(**{key: value for key, value in {**QWEN2, **change}.items() if key != "model_type"})
    assert set(config.layer_types) == {"full_attention" if window is None else "sliding_attention"}
    assert read(config.to_dict()).window == window


def test_a_manifest_from_before_windows_reads_as_one_without():
    stored = dataclasses.asdict(read(LLAMA))
    del stored["window"]
    assert Architecture(**stored) == read(LLAMA)


@pytest.mark.parametrize("config", [STARCODER, LLAMA])
def test_an_unknown_key_is_refused_by_name_with_its_value(config):
    with pytest.raises(ConfigError, match="unknown key sliding_window = 4096"):
        read({**config, "sliding_window": 4096})
    with pytest.raises(ConfigError, match="unknown keys a = 1, b = 'x'"):
        read({**config, "b": "x", "a": 1})


@pytest.mark.parametrize("config", [STARCODER, LLAMA, STARCODER2, MISTRAL, QWEN2])
def test_keys_of_bookkeeping_and_generation_do_not_matter(config):
    plain = read(config)
    assert read({**config, "_name_or_path": "somewhere", "transformers_version": "4.28.1", "torch_dtype": "bfloat16",
                 "bos_token_id": 0, "use_cache": False, "summary_type": "cls_index"}) == plain


@pytest.mark.parametrize("config, change, message", [
    (STARCODER, {"scale_attn_weights": False}, "scale_attn_weights is False, expected True, the only value supported"),
    (STARCODER, {"activation_function": "relu"}, "activation_function is 'relu', expected 'gelu_pytorch_tanh' or"),
    (STARCODER, {"embd_pdrop": 0.2}, "embd_pdrop is 0.2, expected 0.1 as resid_pdrop"),
    (STARCODER, {"n_embd": 61}, "n_embd is 61, expected a multiple of n_head, which is 6"),
    (STARCODER, {"num_key_value_heads": 6}, "num_key_value_heads is 6, expected 1, the only value supported"),
    (STARCODER, {"n_layer": 0}, "n_layer is 0, expected a whole number above 0"),
    (STARCODER, {"multi_query": "yes"}, "multi_query is 'yes', expected true or false"),
    (LLAMA, {"hidden_act": "gelu"}, "hidden_act is 'gelu', expected 'silu'"),
    (LLAMA, {"mlp_bias": True}, "mlp_bias is True, expected False as attention_bias"),
    (LLAMA, {"pretraining_tp": 2}, "pretraining_tp is 2, expected 1"),
    (LLAMA, {"num_key_value_heads": 4}, "num_key_value_heads is 4, expected a divisor of num_attention_heads"),
    (LLAMA, {"head_dim": 9}, "head_dim is 9, expected an even number"),
    (LLAMA, {"hidden_size": 50}, "hidden_size is 50, expected a multiple of num_attention_heads, which is 6, or"),
    (LLAMA, {"rms_norm_eps": -1.0}, "rms_norm_eps is -1.0, expected a number from 0 up"),
    (LLAMA, {"rope_scaling": {"type": "yarn", "factor": 4.0}}, "rope_scaling.rope_type is 'yarn', expected"),
    (LLAMA, {"rope_scaling": {"type": "linear"}}, "rope_scaling.factor is None, expected a number above 0"),
    (LLAMA, {"rope_scaling": {"type": "linear", "factor": 4.0, "beta": 1}}, "rope_scaling.beta is 1, expected no such"),
    (LLAMA, {"rope_scaling": {"type": "linear", "rope_type": "llama3", "factor": 4.0}}, "rope_scaling.type is 'linear"),
    (LLAMA, {"rope_scaling": "linear"}, "rope_scaling is 'linear', expected an object"),
    (LLAMA, {"rope_theta": 1e6, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
     "rope_theta is 1000000.0, expected 10000.0 as rope_parameters says"),
    (LLAMA, {"rope_scaling": {"type": "linear", "factor": 4.0}, "rope_parameters": {"rope_type": "default"}},
     "rope_scaling is .*, expected the same as rope_parameters"),
    (LLAMA, {"hidden_size": 50, "head_dim": None}, "hidden_size is 50, expected a multiple of num_attention_heads, which is 6"),
    (STARCODER2, {"use_bias": False}, "use_bias is False, expected True, the only value supported"),
    (STARCODER2, {"norm_type": "rms_norm"}, "norm_type is 'rms_norm', expected 'layer_norm', the only value supported"),
    (STARCODER2, {"mlp_type": "gated"}, "mlp_type is 'gated', expected 'default', the only value supported"),
    (STARCODER2, {"hidden_act": "silu"}, "hidden_act is 'silu', expected 'gelu_pytorch_tanh' or 'gelu'"),
    (STARCODER2, {"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon is 1e-06, expected 1e-05, the only value supported"),
    (STARCODER2, {"residual_dropout": 0.2}, "embedding_dropout is 0.0, expected 0.2 as residual_dropout"),
    (STARCODER2, {"sliding_window": 0}, "sliding_window is 0, expected a whole number above 0"),
    (STARCODER2, {"layer_types": ["full_attention"]}, r"unknown key layer_types = \['full_attention'\]"),
    (MISTRAL, {"attention_bias": True}, "unknown key attention_bias = True"),
    (MISTRAL, {"sliding_window": "4k"}, "sliding_window is '4k', expected a whole number above 0"),
    (QWEN2, {"use_sliding_window": 1}, "use_sliding_window is 1, expected true or false"),
    (QWEN2, {"use_mrope": True}, "use_mrope is True, expected False, the only value supported"),
    (QWEN2, {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1},
     "max_window_layers is 1, expected 0 or num_hidden_layers, which is 3, or use_sliding_window false: a window on the last"),
    (QWEN2, {"layer_types": ["full_attention", "sliding_attention", "full_attention"]},
     "layer_types is .*, expected 3 x 'full_attention', then 0 x 'sliding_attention' as use_sliding_window, sliding_window"),
    (QWEN2, {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}},
     "rope_scaling.rope_type is 'yarn', expected 'default' or 'linear' or 'llama3'"),
])
def test_a_value_that_is_not_implemented_is_refused_with_both_values(config, change, message):
    with pytest.raises(ConfigError, match=f"model/config.json: {message}"):
        read({**config, **change})


@pytest.mark.parametrize("old, new", [
    ({"rope_theta": 1e6}, {"rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}}),
    ({"rope_theta": 1e5, "rope_scaling": {"type": "linear", "factor": 4.0}},
     {"rope_parameters": {"rope_theta": 1e5, "rope_type": "linear", "factor": 4.0}}),
    ({"rope_theta": 5e5, "rope_scaling": LLAMA3_SCALING}, {"rope_parameters": {"rope_theta": 5e5, **LLAMA3_SCALING}}),
    ({}, {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}),
])
def test_both_spellings_of_rope_are_read_as_the_same(old, new):
    assert read({**LLAMA, **old}) == read({**LLAMA, **new}) == read({**LLAMA, **old, **new})


@pytest.mark.parametrize("scaling", [None, {"rope_type": "linear", "factor": 4.0}, LLAMA3_SCALING])
@pytest.mark.parametrize("theta, head_width", [(1e4, 10), (5e5, 128), (1e6, 64)])
def test_rope_frequencies_are_transformers_bit_for_bit(scaling, theta, head_width):
    hf = {**LLAMA, "head_dim": head_width, "rope_theta": theta, "rope_scaling": scaling}
    config = transformers.LlamaConfig(**copy.deepcopy({key: hf[key] for key in hf if key != "model_type"}))
    expected = LlamaRotaryEmbedding(config).inv_freq.numpy()
    assert families.rope_inverse_frequencies(read(hf)).tobytes() == expected.tobytes()


def test_exact_gelu_in_a_starcoder_config_is_kept_and_warned_about():
    exact = read({**STARCODER, "activation_function": "gelu"})
    assert exact.activation == "gelu" and "'gelu_pytorch_tanh'" in families.notes(exact)[0]
    assert families.notes(read(STARCODER)) == [] == families.notes(read(LLAMA))


def test_multi_head_starcoder_has_as_many_groups_as_heads():
    assert (read(STARCODER).groups, read({**STARCODER, "multi_query": False}).groups) == (1, 6)


def test_a_config_file_that_is_absent_or_no_object_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="config.json: not found"):
        families.architecture_of_folder(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="config.json: is not JSON"):
        families.architecture_of_folder(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="holds a JSON list, expected an object"):
        families.architecture_of_folder(tmp_path)


def test_reading_configs_and_presets_loads_no_torch():
    code = "import sys; from megatron_ft import families; [families.preset(n) for n in families.presets()]; " \
           "import megatron_ft.runtime.checkpoint_layout; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
