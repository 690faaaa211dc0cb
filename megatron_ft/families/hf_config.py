"""Reads a Hugging Face config.json key by key, so that no key and no value is ever passed over in silence."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from megatron_ft.errors import CheckpointError, ConfigError

T = TypeVar("T")

CONFIG_FILE = "config.json"

IRRELEVANT = frozenset({
    "_attn_implementation", "_attn_implementation_autoset", "_commit_hash", "_name_or_path", "architectures",
    "auto_map", "bad_words_ids", "begin_suppress_tokens", "bos_token_id", "chunk_size_feed_forward",
    "decoder_start_token_id", "diversity_penalty", "do_sample", "dtype", "early_stopping",
    "encoder_no_repeat_ngram_size", "eos_token_id", "exponential_decay_length_penalty", "finetuning_task",
    "forced_bos_token_id", "forced_eos_token_id", "id2label", "is_decoder", "is_encoder_decoder", "label2id",
    "length_penalty", "max_length", "min_length", "model_type", "no_repeat_ngram_size", "num_beam_groups",
    "num_beams", "num_return_sequences", "output_attentions", "output_hidden_states", "output_scores", "pad_token_id",
    "prefix", "problem_type", "remove_invalid_values", "repetition_penalty", "return_dict", "return_dict_in_generate",
    "sep_token_id", "suppress_tokens", "summary_activation", "summary_first_dropout", "summary_proj_to_labels",
    "summary_type", "summary_use_proj", "task_specific_params", "temperature", "tf_legacy_loss", "tokenizer_class",
    "top_k", "top_p", "torch_dtype", "torchscript", "transformers_version", "typical_p", "unsloth_version",
    "use_bfloat16", "use_cache",
})
"""Keys of any family that say nothing about the function the weights compute: text, generation, bookkeeping."""


def read_config(folder: str | Path) -> dict[str, Any]:
    """The content of a Hugging Face folder's config.json; CheckpointError when it is absent or no JSON object."""
    path = Path(folder) / CONFIG_FILE
    if not path.is_file():
        raise CheckpointError(f"{path}: not found; a Hugging Face model folder holds {CONFIG_FILE} beside its weights")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path}: is not JSON ({error}); copy it again from where the model came") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: holds a JSON {type(values).__name__}, expected an object")
    return values


class ConfigReader:
    """Hands out the values of a config once each; `finish` refuses by name whatever nobody asked for."""

    def __init__(self, values: Mapping[str, Any], where: str):
        self.where = where
        self._left = dict(values)

    def take(self, key: str, default: Any = None) -> Any:
        """The value of `key` as it stands, or `default` where the key is absent or null."""
        value = self._left.pop(key, None)
        return default if value is None else value

    def integer(self, key: str, default: int) -> int:
        """A whole number above 0."""
        value = self.take(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self.refusal(key, value, "a whole number above 0")
        return value

    def integer_or_none(self, key: str, absent: int | None) -> int | None:
        """A whole number above 0, None where the key is null, `absent` where it is not there: of some keys the two differ."""
        if key not in self._left:
            return absent
        return self.take(key) if self._left[key] is None else self.integer(key, 0)

    def number(self, key: str, default: float) -> float:
        """A number from 0 up."""
        value = self.take(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            raise self.refusal(key, value, "a number from 0 up")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """true or false."""
        value = self.take(key, default)
        if not isinstance(value, bool):
            raise self.refusal(key, value, "true or false")
        return value

    def choice(self, key: str, choices: Mapping[str, T], default: str) -> T:
        """What `choices` maps the value to; a value that it does not list is refused."""
        value = self.take(key, default)
        if not isinstance(value, str) or value not in choices:
            raise self.refusal(key, value, " or ".join(repr(choice) for choice in choices))
        return choices[value]

    def only(self, key: str, supported: Any) -> None:
        """Refuse any value of `key` but the one whose meaning is implemented; an absent or null key is fine."""
        value = self.take(key, supported)
        if value != supported or isinstance(value, bool) != isinstance(supported, bool):
            raise self.refusal(key, value, f"{supported!r}, the only value supported")

    def refusal(self, key: str, value: Any, expected: str) -> ConfigError:
        """The error for a value that cannot be converted, to be raised by the caller."""
        return ConfigError(f"{self.where}: {key} is {value!r}, expected {expected}; "
                           "this model cannot be converted as it is")

    def finish(self, irrelevant: frozenset[str] = frozenset()) -> None:
        """Refuse what is left, except keys that have no say in what the weights compute."""
        unknown = sorted(set(self._left) - IRRELEVANT - irrelevant)
        if unknown:
            listed = ", ".join(f"{key} = {self._left[key]!r}" for key in unknown)
            raise ConfigError(f"{self.where}: unknown key{'s' * (len(unknown) > 1)} {listed}; "
                              "what it changes in the model is not known here, so nothing is converted; remove a key "
                              "only if you are sure that it has no effect on the weights' function")


def read_heads(reader: ConfigReader, *, absent: Mapping[str, int]) -> dict[str, int]:
    """`hidden`, `heads`, `groups` and `head_width` of a config in llama's words, whose heads have rotary positions.

    Args:
        absent: what it means that a key is not there; of num_key_value_heads, if not listed: as many as heads.
    """
    hidden = reader.integer("hidden_size", absent["hidden_size"])
    heads = reader.integer("num_attention_heads", absent["num_attention_heads"])
    groups = reader.integer_or_none("num_key_value_heads", absent.get("num_key_value_heads")) or heads
    if heads % groups:
        raise reader.refusal("num_key_value_heads", groups, f"a divisor of num_attention_heads, which is {heads}")
    head_width = reader.integer_or_none("head_dim", None)
    if head_width is None and hidden % heads:
        raise reader.refusal("hidden_size", hidden, f"a multiple of num_attention_heads, which is {heads}, or head_dim")
    head_width = head_width or hidden // heads
    if head_width % 2:
        raise reader.refusal("head_dim", head_width, "an even number: rotary positions turn pairs")
    return {"hidden": hidden, "heads": heads, "groups": groups, "head_width": head_width}
