"""Configs: what is read, what is refused and with which words."""

import copy
import subprocess
import sys

import pytest
import transformers
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from megatron_ft import families
from megatron_ft.errors import CheckpointError, ConfigError
from tests.small_models import VARIANTS, hf_config

STARCODER = {"model_type": "gpt_bigcode", "n_embd": 60, "n_layer": 2, "n_head": 6, "vocab_size": 211, "n_positions": 96}
LLAMA = {"model_type": "llama", "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 6, "vocab_size": 203,
         "intermediate_size": 92, "num_key_value_heads": 2}
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
    "deepseek-coder-6.7b": 6_740_512_768, "deepseek-coder-33b": 33_342_991_360,
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
    with pytest.raises(ConfigError, match="model/config.json: model_type is 'bert', supported: gpt_bigcode, llama"):
        read({"model_type": "bert"})
    with pytest.raises(ConfigError, match="family 'bert' is unknown; known: llama, starcoder"):
        families.get("bert")
    with pytest.raises(ConfigError, match="preset 'gpt-5' is unknown; known: llama-7b"):
        families.preset("gpt-5")


@pytest.mark.parametrize("config", [STARCODER, LLAMA])
def test_an_unknown_key_is_refused_by_name_with_its_value(config):
    with pytest.raises(ConfigError, match="unknown key sliding_window = 4096"):
        read({**config, "sliding_window": 4096})
    with pytest.raises(ConfigError, match="unknown keys a = 1, b = 'x'"):
        read({**config, "b": "x", "a": 1})


@pytest.mark.parametrize("config", [STARCODER, LLAMA])
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
