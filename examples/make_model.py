"""Make a small model with random weights as a Hugging Face folder, with a tokenizer trained on your data.

    python examples/make_model.py --family starcoder --data runs/demo/data.jsonl --output runs/demo/base

It stands for the pretrained model of a real run, in the same files: config.json, generation_config.json,
model.safetensors and the family's kind of tokenizer.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megatron_ft import cli, log
from megatron_ft.errors import DataError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

STARCODER_SPECIAL = ("<|endoftext|>", "<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<fim_pad>", "<filename>",
                     "<gh_stars>", "<issue_start>", "<issue_comment>", "<issue_closed>", "<jupyter_start>",
                     "<jupyter_text>", "<jupyter_code>", "<jupyter_output>", "<empty_output>", "<commit_before>",
                     "<commit_msg>", "<commit_after>", "<reponame>")
"""StarCoder's special tokens, with its ids 0 to 18."""

VOCABULARY = {"starcoder": 997, "llama": 701}
"""Tokens of each tokenizer; odd on purpose: Megatron pads the vocabulary, which the way back has to remove."""

POSITIONS = 512
"""The longest text that a model takes, in tokens."""

SIZES: dict[str, dict[str, Any]] = {
    "starcoder": {"n_embd": 128, "n_layer": 4, "n_head": 4, "n_inner": 512, "n_positions": POSITIONS,
                  "activation_function": "gelu_pytorch_tanh", "resid_pdrop": 0.0, "embd_pdrop": 0.0,
                  "attn_pdrop": 0.0},
    "llama": {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2,
              "intermediate_size": 352, "max_position_embeddings": POSITIONS, "rms_norm_eps": 1e-5},
}
"""A million parameters that 2 x 2 ranks can share: all of them divide by 2, the key and value heads of llama too."""


def texts(paths: Sequence[Path]) -> list[str]:
    """All inputs and outputs of JSONL files."""
    rows = [json.loads(line) for path in paths for line in path.read_text(encoding="utf-8").splitlines()]
    return [row[side] for row in rows for side in ("inputs", "outputs")]


def write_starcoder_tokenizer(folder: Path, corpus: Sequence[str]) -> None:
    """A byte-level BPE that splits digits, in tokenizer.json."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    whole = Tokenizer(models.BPE())
    whole.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                                   pre_tokenizers.ByteLevel(add_prefix_space=False)])
    whole.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY["starcoder"], special_tokens=list(STARCODER_SPECIAL),
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    whole.train_from_iterator(corpus, trainer)
    whole.save(str(folder / "tokenizer.json"))
    end = STARCODER_SPECIAL[0]
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": end, "eos_token": end, "unk_token": end,
                "additional_special_tokens": list(STARCODER_SPECIAL), "clean_up_tokenization_spaces": False,
                "model_max_length": POSITIONS}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def write_llama_tokenizer(folder: Path, corpus: Sequence[str]) -> None:
    """A SentencePiece BPE with LLaMA's settings in tokenizer.model, and the tokenizer.json of the same ids."""
    import sentencepiece

    from megatron_ft.data.tokenizer_sentencepiece import write_hugging_face

    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([line for text in corpus for line in text.split("\n") if line]), model_writer=trained,
        model_type="bpe", vocab_size=VOCABULARY["llama"], character_coverage=1.0, byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, allow_whitespace_only_pieces=True,
        split_digits=True, unk_id=0, bos_id=1, eos_id=2, pad_id=-1, num_threads=1, minloglevel=2)
    (folder / "tokenizer.model").write_bytes(trained.getvalue())
    write_hugging_face(folder / "tokenizer.model", folder)


def hf_config(family: str, vocabulary: int) -> PretrainedConfig:
    """The model's config as transformers writes it."""
    from transformers import GPTBigCodeConfig, LlamaConfig

    if family == "starcoder":
        return GPTBigCodeConfig(vocab_size=vocabulary, bos_token_id=0, eos_token_id=0, **SIZES[family])
    return LlamaConfig(vocab_size=vocabulary, bos_token_id=1, eos_token_id=2, **SIZES[family])


def make(family: str, data: Sequence[Path], output: Path, *, seed: int) -> int:
    """Write the folder; gives the number of parameters."""
    import torch
    import transformers

    from megatron_ft.data import tokenizer

    transformers.utils.logging.disable_progress_bar()
    writers = {"starcoder": write_starcoder_tokenizer, "llama": write_llama_tokenizer}
    with cli.write_beside(output) as folder:
        writers[family](folder, texts(data))
        torch.manual_seed(seed)
        network = transformers.AutoModelForCausalLM.from_config(hf_config(family, tokenizer.load(folder).vocabulary))
        network.save_pretrained(folder)
    return network.num_parameters()


def main() -> None:
    """Parse the command line and make the model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", required=True, choices=list(SIZES), help="starcoder: gpt_bigcode with multi-query "
                        "attention; llama: grouped queries, rotary positions, SentencePiece")
    parser.add_argument("--data", required=True, nargs="+", type=Path, help="JSONL files to train the tokenizer on")
    parser.add_argument("--output", required=True, type=Path, help="Hugging Face folder to make; must not exist")
    parser.add_argument("--seed", type=int, default=1, help="of the weights (default: %(default)s)")
    given = parser.parse_args()
    cli.require_absent(given.output, option="--output")
    missing = [str(path) for path in given.data if not path.is_file()]
    if missing:
        raise DataError(f"--data: {', '.join(missing)}: no such file; examples/make_data.py writes one")
    parameters = make(given.family, given.data, given.output, seed=given.seed)
    log.get().info("%s: a %s model of %s parameters", given.output, given.family, f"{parameters:,}")


if __name__ == "__main__":
    cli.main(main)
