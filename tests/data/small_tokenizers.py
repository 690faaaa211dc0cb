"""Small byte-level tokenizers with special tokens, as Hugging Face folders."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import tokenizers

CHATML_TOKENS = ["<|im_start|>", "<|im_end|>"]
LLAMA3_TOKENS = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
COMMIT_TOKENS = ["<commit_before>", "<commit_msg>", "<commit_after>"]
TEXT = ["def double(x):\n    return x * 2\n", "Question: What is said?\n\nAnswer: assistant\nuser\nsystem\n",
        "<|im_end|> <|eot_id|> </s>\n"] * 4
"""No text ends with two line breaks, which would be a token that exists at the end of a prompt and not inside a text."""


def bytes_tokenizer(folder: Path, specials: Sequence[str] = (), *, end: str = "<|endoftext|>", begin: str | None = None,
                    chat_template: object = None, vocabulary: int = 320) -> Path:
    """Write a byte-level BPE tokenizer as StarCoder's: no special token but those given and the end-of-text token.

    Args:
        begin: opens every text, as LLaMA 3's does.
    """
    whole = tokenizers.Tokenizer(tokenizers.models.BPE())
    whole.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    whole.decoder = tokenizers.decoders.ByteLevel()
    names = list(dict.fromkeys([end, *([begin] if begin else []), *specials]))
    whole.train_from_iterator(TEXT, tokenizers.trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=names, show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet()))
    if begin:
        whole.post_processor = tokenizers.processors.TemplateProcessing(
            single=f"{begin} $A", pair=f"{begin} $A {begin} $B", special_tokens=[(begin, whole.token_to_id(begin))])
    folder.mkdir(parents=True, exist_ok=True)
    whole.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": end, "clean_up_tokenization_spaces": False}
    if begin:
        settings["bos_token"] = begin
    if chat_template is not None:
        settings["chat_template"] = chat_template
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def sentencepiece_tokenizer(folder: Path, specials: Sequence[str] = ()) -> Path:
    """Train a SentencePiece BPE model as LLaMA's (byte fallback, dummy prefix, no normalization); returns the .model."""
    import sentencepiece

    folder.mkdir(parents=True, exist_ok=True)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT), model_prefix=str(folder / "tokenizer"), model_type="bpe", vocab_size=340,
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=True,
        allow_whitespace_only_pieces=True, control_symbols=list(specials), hard_vocab_limit=False, minloglevel=2)
    return folder / "tokenizer.model"
