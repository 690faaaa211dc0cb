"""Small random Hugging Face models of every family, made with transformers; their sizes all differ, on purpose."""

from __future__ import annotations

from pathlib import Path
from typing import Any

# 97 positions: no multiple of 128 elements, so that megatron-core pads the buckets of its distributed optimizer
_STARCODER = {"vocab_size": 211, "n_positions": 97, "n_embd": 60, "n_layer": 4, "n_head": 6, "n_inner": 76,
              "activation_function": "gelu_pytorch_tanh", "resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1,
              "bos_token_id": 0, "eos_token_id": 0}
_LLAMA = {"vocab_size": 203, "hidden_size": 48, "intermediate_size": 92, "num_hidden_layers": 4,
          "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 10, "max_position_embeddings": 112,
          "rms_norm_eps": 1e-5, "bos_token_id": 1, "eos_token_id": 2}
_STARCODER2 = {"vocab_size": 209, "hidden_size": 56, "intermediate_size": 100, "num_hidden_layers": 4,
               "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 104, "sliding_window": 7,
               "residual_dropout": 0.1, "embedding_dropout": 0.1, "attention_dropout": 0.1, "bos_token_id": 0,
               "eos_token_id": 0, "rope_parameters": {"rope_type": "default", "rope_theta": 300.0}}
_MISTRAL = {"vocab_size": 205, "hidden_size": 52, "intermediate_size": 88, "num_hidden_layers": 4,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 18, "max_position_embeddings": 106,
            "sliding_window": 11, "rms_norm_eps": 1e-5}
_QWEN2 = {"vocab_size": 207, "hidden_size": 64, "intermediate_size": 108, "num_hidden_layers": 4, "num_attention_heads": 4,
          "num_key_value_heads": 1, "max_position_embeddings": 110, "rms_norm_eps": 1e-6, "bos_token_id": 1,
          "eos_token_id": 2, "tie_word_embeddings": True}
_LLAMA3_ROPE = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 64}

SMALL: dict[str, dict[str, dict[str, Any]]] = {
    "starcoder": {
        "mqa": _STARCODER,
        "mha": {**_STARCODER, "multi_query": False, "activation_function": "gelu", "n_inner": None},
    },
    "llama": {
        "gqa": _LLAMA,
        "mha": {**_LLAMA, "num_key_value_heads": 6, "head_dim": 8},
        "mqa_tied_llama3": {**_LLAMA, "num_key_value_heads": 1, "tie_word_embeddings": True,
                            "rope_parameters": _LLAMA3_ROPE},
        "bias_linear": {**_LLAMA, "attention_bias": True, "mlp_bias": True,
                        "rope_parameters": {"rope_type": "linear", "rope_theta": 100.0, "factor": 4.0}},
    },
    # Windows that the longer documents of the tests reach out of
    "starcoder2": {"gqa_window": _STARCODER2},
    "mistral": {"window": _MISTRAL},
    "qwen2": {
        "tied": _QWEN2,
        "untied_window": {**_QWEN2, "num_key_value_heads": 2, "tie_word_embeddings": False, "use_sliding_window": True,
                          "sliding_window": 9, "max_window_layers": 0},
    },
}
"""family -> variant -> keyword arguments of the transformers config class."""

EIGHT: dict[str, dict[str, Any]] = {
    "starcoder": {**_STARCODER, "n_embd": 64, "n_layer": 8, "n_head": 8},
    "llama": {**_LLAMA, "num_hidden_layers": 8, "num_attention_heads": 8},
}
"""family -> the same of its variant "eight": layers and heads for layouts that those of `SMALL` cannot be cut into."""

VARIANTS = [(family, variant) for family, variants in SMALL.items() for variant in variants]
"""For pytest.mark.parametrize("family, variant", VARIANTS)."""


def hf_config(family: str, variant: str) -> Any:
    """The transformers config object of a small model."""
    from transformers import GPTBigCodeConfig, LlamaConfig, MistralConfig, Qwen2Config, Starcoder2Config

    classes = {"starcoder": GPTBigCodeConfig, "llama": LlamaConfig, "starcoder2": Starcoder2Config, "mistral": MistralConfig,
               "qwen2": Qwen2Config}
    sizes = EIGHT[family] if variant == "eight" else SMALL[family][variant]
    return classes[family](**sizes)


def make_hf_model(family: str, variant: str, path: str | Path, *, dtype: str = "float32", seed: int = 1234) -> Path:
    """Write a small random model as a Hugging Face folder."""
    return make_random_model(hf_config(family, variant), path, dtype=dtype, seed=seed)


def make_random_model(config: Any, path: str | Path, *, dtype: str = "float32", seed: int = 1234) -> Path:
    """Write a random model as a Hugging Face folder (config.json, generation_config.json, model.safetensors).

    Every tensor is random, norms and biases too: with the usual ones and zeros a swapped or forgotten tensor would not
    show. The seed decides the weights; the global generator is left as it was.
    """
    import torch
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.dim() == 1:
                    centre = 1.0 if "norm" in name or ".ln_" in name else 0.0
                    parameter.copy_(centre + 0.1 * torch.randn_like(parameter))
                else:
                    parameter.copy_(torch.randn_like(parameter) / parameter.shape[-1] ** 0.5)
    model.to(getattr(torch, dtype)).save_pretrained(path)
    return Path(path)
