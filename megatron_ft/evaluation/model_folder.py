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
LOOKS_AHEAD = 0.05  # of the logits' spread: far above what rounding changes, far below what a token that is seen changes


@dataclass(frozen=True)
class Outline:
    """What is known of a model without its weights."""

    tokenizer: PreTrainedTokenizerBase
    end_ids: tuple[int, ...]
    """Tokens that end an answer."""
    positions: int | None
    """The longest text that it takes, in tokens; None if it has no limit."""


@dataclass(frozen=True)
class Model(Outline):
    """A model ready to generate."""

    network: PreTrainedModel

    @property
    def described(self) -> str:
        """For the log."""
        return f"{sum(weight.numel() for weight in self.network.parameters()):,} parameters, {self.network.dtype}"


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


def weights_bytes(model: str) -> int:
    """How large the weights of a local folder are; 0 for a hub id."""
    return sum(path.stat().st_size for pattern in WEIGHTS for path in Path(model).glob(pattern))


def outline(model: str) -> Outline:
    """A model's tokenizer and limits, read without its weights; CheckpointError for one that cannot go on with a text."""
    options = _reading(model)
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        config = transformers.AutoConfig.from_pretrained(model, **options)
        tokenizer = transformers.AutoTokenizer.from_pretrained(model, **options)
    except Exception as error:  # transformers raises what its parts raise: OSError, ValueError, SafetensorError ...
        raise _unloadable(model, error) from error
    if getattr(config, "is_encoder_decoder", False):
        raise CheckpointError(f"--model: {model} ({config.model_type}) is an encoder with a decoder, which answers a text but "
                              "does not go on with it as the prompts here ask; give a decoder-only model")
    try:
        generation = transformers.GenerationConfig.from_pretrained(model, **options)
    except OSError:  # an older folder: what it says stands in config.json
        generation = transformers.GenerationConfig.from_model_config(config)
    text = config.get_text_config(decoder=True)
    return Outline(tokenizer, _end_ids(model, text.vocab_size, generation.eos_token_id, tokenizer), _positions(text))


def load(model: str, *, device: str, dtype: str) -> Model:
    """The model and its tokenizer on a device (cpu, cuda:1) in a dtype (`auto`: bfloat16 on CUDA)."""
    import transformers

    known = outline(model)
    try:
        network, loaded = transformers.AutoModelForCausalLM.from_pretrained(
            model, dtype=dtype_of(dtype, device), output_loading_info=True, **_reading(model))
    except Exception as error:  # as above
        raise _unloadable(model, error) from error
    absent = sorted({*loaded["missing_keys"], *(str(key) for key in loaded["mismatched_keys"])})
    if absent:
        raise CheckpointError(f"--model: {model} lacks {len(absent)} weights that its config.json asks for, such as "
                              f"{', '.join(absent[:3])}; they would be random")
    # A model's own penalties and cut-offs would bend the distribution that temperature and top-p are meant for.
    network.generation_config = transformers.GenerationConfig()
    network = network.to(device).eval()
    if not network._supports_default_dynamic_cache():  # decoded in a batch, transformers' own RWKV gives other tokens
        raise CheckpointError(f"--model: {model} ({network.config.model_type}) remembers a text in a way of its own, without "
                              "transformers' caches, and is not decoded here; generate with its own program and score what it "
                              "wrote with --generations")
    _require_causal(model, network)
    return Model(known.tokenizer, known.end_ids, known.positions, network)


def _reading(model: str) -> dict[str, bool]:
    """How its files are read: a local folder without network, and never with code of its own."""
    return {"local_files_only": check(model), "trust_remote_code": False}


def _unloadable(model: str, error: Exception) -> CheckpointError:
    return CheckpointError(f"--model: {model} cannot be loaded: {type(error).__name__}: {error}")


def _require_causal(model: str, network: PreTrainedModel) -> None:
    """CheckpointError for a model that looks ahead, as those do that fill gaps: what it wrote would be of no worth."""
    import torch

    ids = torch.tensor([[1, 2, 3, 4], [1, 2, 3, 5]], device=network.device)
    with torch.inference_mode():
        one, other = network(input_ids=ids, use_cache=False).logits[:, :3].float()
    spread = max(float(one.std()), 1e-6)
    if float((one - other).abs().max()) > LOOKS_AHEAD * spread:
        raise CheckpointError(f"--model: {model} ({network.config.model_type}) looks at the tokens that follow, so it cannot "
                              "write from left to right; give a decoder-only model")


def choose_devices(device: str, count: int) -> list[str]:
    """The devices that hold the model, each a copy: `count` of them, 0 for all of CUDA or one CPU; ConfigError otherwise."""
    visible = cuda_devices()
    if device == "cuda" and not visible:
        raise ConfigError("--device: cuda is not available here; use cpu or auto")
    if device == "cpu" or not visible:
        return ["cpu"] * max(count, 1)
    if count > visible:
        raise ConfigError(f"--devices: {count} CUDA devices are asked for and {visible} are visible; use up to {visible}, or 0 "
                          "for all")
    return [f"cuda:{number}" for number in range(count or visible)]


def cuda_devices() -> int:
    """How many are visible."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def dtype_of(name: str, device: str) -> torch.dtype:
    """The dtype of --dtype on a device."""
    import torch

    if name == "auto":
        return torch.bfloat16 if device != "cpu" and torch.cuda.is_bf16_supported() else torch.float32
    return getattr(torch, name)


def _positions(config: object) -> int | None:
    return next((getattr(config, name) for name in POSITIONS if getattr(config, name, None)), None)


def _end_ids(model: str, rows: int, named: int | list[int] | None, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The ids that end an answer, of the generation config and of the tokenizer."""
    if len(tokenizer) > rows:
        raise CheckpointError(f"--model: the tokenizer of {model} has {len(tokenizer)} tokens, the model's embedding "
                              f"{rows} rows; they do not belong together")
    ids = [*(named if isinstance(named, list | tuple) else [named]), tokenizer.eos_token_id]
    ends = tuple(dict.fromkeys(number for number in ids if number is not None))
    if not ends:
        raise CheckpointError(f"--model: neither generation_config.json nor the tokenizer of {model} names an "
                              "end-of-text token; no answer would ever end")
    return ends
