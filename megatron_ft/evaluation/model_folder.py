"""Loads a Hugging Face model for generation and refuses folders that would give a silently wrong one."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_ft.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DTYPES = ("auto", "float32", "bfloat16", "float16")
DEVICES = ("auto", "cpu", "cuda")
WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin")
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
TOKENIZER_FILES = ["tokenizer*", "special_tokens_map.json", "chat_template*", "additional_chat_templates/*"]
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
POSITIONS = ("max_position_embeddings", "n_positions")


@dataclass(frozen=True)
class Model:
    """A model ready to generate."""

    network: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    end_ids: tuple[int, ...]
    """Tokens that end an answer."""
    positions: int | None
    """The longest text that it takes, in tokens; None if it has no limit."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.network.device


def check(model: str) -> bool:
    """Whether `model` is a local folder, which is then complete; False for a hub id; CheckpointError otherwise."""
    folder = Path(model)
    if not folder.is_dir():
        if folder.exists() or not HUB_ID.fullmatch(model):
            raise CheckpointError(f"--model: there is no folder {model}; give a Hugging Face folder (megatron_to_hf.py "
                                  "writes one) or a hub id such as bigcode/starcoderbase-1b")
        return False
    if not (folder / "config.json").is_file():
        hint = ("it is a Megatron checkpoint; convert it with convert/megatron_to_hf.py"
                if (folder / "latest_checkpointed_iteration.txt").exists() or (folder / "metadata.json").exists()
                else "it is no Hugging Face folder")
        raise CheckpointError(f"--model: {folder} has no config.json: {hint}")
    if not any(any(folder.glob(pattern)) for pattern in WEIGHTS):
        raise CheckpointError(f"--model: {folder} has no weights ({', '.join(WEIGHTS)}); was it copied whole?")
    if not any((folder / name).is_file() for name in TOKENIZERS):
        raise CheckpointError(f"--model: {folder} has no tokenizer ({', '.join(TOKENIZERS)}); copy the one that the "
                              "model was trained with into it")
    try:
        json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"--model: {folder}/config.json is not JSON: {error}") from error
    return True


def tokenizer_folder(model: str, *, fetch: bool) -> str | None:
    """The folder with a model's tokenizer; see `check`. For a hub id None, unless its few files are to be fetched."""
    if check(model):
        return model
    if not fetch:
        return None
    import huggingface_hub

    try:
        return huggingface_hub.snapshot_download(model, allow_patterns=TOKENIZER_FILES)
    except Exception as error:  # huggingface_hub raises what its parts raise: OSError, ValueError, its own
        raise CheckpointError(f"--model: the tokenizer of {model} cannot be fetched: {type(error).__name__}: {error}"
                              ) from error


def identity(model: str) -> str:
    """What tells a model from another: its id, or its folder with the sizes and times of its files."""
    folder = Path(model)
    if not folder.is_dir():
        return model
    files = sorted((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in folder.iterdir() if path.is_file())
    return f"{folder.resolve()} {hashlib.sha256(repr(files).encode()).hexdigest()[:16]}"


def load(model: str, *, device: str, dtype: str) -> Model:
    """The model and its tokenizer on a device (`auto`: CUDA if there is any) in a dtype (`auto`: bfloat16 on CUDA)."""
    local = check(model)
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    place = choose_device(device)
    options = {"local_files_only": local, "trust_remote_code": False}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(model, **options)
        network, loaded = transformers.AutoModelForCausalLM.from_pretrained(
            model, dtype=_dtype(dtype, place), output_loading_info=True, **options)
    except Exception as error:  # transformers raises what its parts raise: OSError, ValueError, SafetensorError ...
        raise CheckpointError(f"--model: {model} cannot be loaded: {type(error).__name__}: {error}") from error
    absent = sorted({*loaded["missing_keys"], *(str(key) for key in loaded["mismatched_keys"])})
    if absent:
        raise CheckpointError(f"--model: {model} lacks {len(absent)} weights that its config.json asks for, such as "
                              f"{', '.join(absent[:3])}; they would be random")
    return Model(network.to(place).eval(), tokenizer, _end_ids(model, network, tokenizer), _positions(network.config))


def choose_device(device: str) -> str:
    """cpu or cuda; ConfigError when CUDA is asked for and absent."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device: cuda is not available here; use cpu or auto")
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


def _dtype(name: str, device: str) -> torch.dtype:
    import torch

    if name == "auto":
        return torch.bfloat16 if device == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
    return getattr(torch, name)


def _positions(config: object) -> int | None:
    return next((getattr(config, name) for name in POSITIONS if getattr(config, name, None)), None)


def _end_ids(model: str, network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The ids that end an answer, of the generation config and of the tokenizer."""
    rows = network.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise CheckpointError(f"--model: the tokenizer of {model} has {len(tokenizer)} tokens, the model's embedding "
                              f"{rows} rows; they do not belong together")
    named = network.generation_config.eos_token_id
    ids = [*(named if isinstance(named, list | tuple) else [named]), tokenizer.eos_token_id]
    ends = tuple(dict.fromkeys(number for number in ids if number is not None))
    if not ends:
        raise CheckpointError(f"--model: neither generation_config.json nor the tokenizer of {model} names an "
                              "end-of-text token; no answer would ever end")
    return ends
