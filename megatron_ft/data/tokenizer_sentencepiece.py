"""Tokenizers in a SentencePiece .model, and the tokenizer.json that gives the same ids.

transformers 5 makes wrong ids from a folder that has nothing but a .model: it ranks BPE merges by id and not by score,
which changes every run of spaces in LLaMA's vocabulary, and it forgets `<s>`. So a model that is exported for
transformers gets a tokenizer.json from `write_hugging_face`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sentencepiece
import tokenizers
from sentencepiece import sentencepiece_model_pb2

from megatron_ft.data.tokenizer import Tokenizer, no_end_of_text, read_settings
from megatron_ft.errors import DataError

PIECE = sentencepiece_model_pb2.ModelProto.SentencePiece
SPACE = "\u2581"
BRACKETED = re.compile(rf"{SPACE}?(<.+>|\[.+\])")  # Code Llama's have the space


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece .model; control symbols, and user-defined ones in <> or [], are its special tokens."""

    library = "sentencepiece"

    def __init__(self, path: Path) -> None:
        model = read_model(path)
        self._path = path
        self.model = model
        self.adds_prefix = model.normalizer_spec.add_dummy_prefix
        self.literals = [piece.piece for piece in model.pieces
                         if piece.type == PIECE.USER_DEFINED and not _is_special(piece)]
        self._whole = sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())
        self._first = _for_text(model, dummy_prefix=self.adds_prefix)
        self._later = _for_text(model, dummy_prefix=False)
        self._special_ids = {piece.piece: index for index, piece in enumerate(model.pieces) if _is_special(piece)}
        self.vocabulary = len(model.pieces)
        self.end_of_text = self._whole.eos_id()
        if self.end_of_text < 0:
            raise no_end_of_text(path, None)
        bos = self._whole.bos_id()
        wanted = read_settings(path.parent).get("add_bos_token", True)  # LLaMA's default, which the .model does not say
        self.begin = [bos] if wanted and bos >= 0 else []
        digest = hashlib.sha256(path.read_bytes())
        digest.update(repr([self.end_of_text, self.begin]).encode())
        self.fingerprint = digest.hexdigest()

    def encode_texts(self, texts: Sequence[str], *, first: bool) -> list[list[int]]:
        return (self._first if first else self._later).encode(list(texts))

    def special(self, token: str) -> int:
        if token not in self._special_ids:
            raise DataError(f"{self._path}: has no special token '{token}'; it has {', '.join(self._special_ids)}")
        return self._special_ids[token]

    def decode(self, ids: Sequence[int]) -> str:
        return self._whole.decode([int(index) for index in ids])


def read_model(path: Path) -> Any:
    """The protocol buffer of a .model."""
    model = sentencepiece_model_pb2.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
        sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())
    except Exception as error:  # protobuf's DecodeError, SentencePiece's RuntimeError
        raise DataError(f"{path}: is no SentencePiece model ({error}); LLaMA 3's tokenizer.model is another format: "
                        "use the tokenizer.json of its Hugging Face folder") from error
    return model


def write_hugging_face(model_path: str | Path, folder: str | Path) -> None:
    """Write tokenizer.json and tokenizer_config.json, with which transformers gives the ids of a .model, into a folder.

    For BPE models without text normalization, as LLaMA's; DataError for others.
    """
    model_path, folder = Path(model_path), Path(folder)
    model = read_model(model_path)
    if not is_plain_bpe(model) or not model.normalizer_spec.add_dummy_prefix:
        raise DataError(f"{model_path}: only BPE models with identity normalization, extra whitespace kept and a dummy "
                        "prefix have an equal tokenizer.json; use the model's own Hugging Face folder")
    ours = SentencePieceTokenizer(model_path)
    unk, bos, eos = (model.pieces[index].piece if index >= 0 else None
                     for index in (ours._whole.unk_id(), ours._whole.bos_id(), ours._whole.eos_id()))
    whole = tokenizers.Tokenizer.from_str(json.dumps(as_tokenizer_json(model, prefix=True)))
    whole.decoder = tokenizers.decoders.Sequence(
        [tokenizers.decoders.Replace(SPACE, " "), tokenizers.decoders.ByteFallback(), tokenizers.decoders.Fuse(),
         tokenizers.decoders.Strip(" ", 1, 0)])
    whole.add_special_tokens([tokenizers.AddedToken(token, normalized=False, special=True)
                              for token in [unk, *ours._special_ids] if token])
    if ours.begin:
        whole.post_processor = tokenizers.processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, ours.begin[0])])
    folder.mkdir(parents=True, exist_ok=True)
    whole.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": unk, "bos_token": bos, "eos_token": eos,
                "add_bos_token": bool(ours.begin), "add_eos_token": False, "clean_up_tokenization_spaces": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def is_plain_bpe(model: Any) -> bool:
    """Whether the model's text is cut by BPE merges alone, without a normalization of its own."""
    spec = model.normalizer_spec
    is_bpe = model.trainer_spec.model_type == sentencepiece_model_pb2.TrainerSpec.BPE
    return is_bpe and not spec.precompiled_charsmap and not spec.remove_extra_whitespaces


def as_tokenizer_json(model: Any, *, prefix: bool) -> dict[str, Any]:
    """The tokenizer.json that cuts text as a plain BPE model does, without special tokens.

    Args:
        prefix: put a space in front of a text.
    """
    steps: list[dict[str, Any]] = [{"type": "Replace", "pattern": {"String": " "}, "content": SPACE}]
    if prefix:
        steps.insert(0, {"type": "Prepend", "prepend": SPACE})
    unk = model.trainer_spec.unk_piece
    bpe = {"type": "BPE", "dropout": None, "unk_token": unk, "continuing_subword_prefix": None,
           "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": model.trainer_spec.byte_fallback,
           "ignore_merges": False, "vocab": {piece.piece: index for index, piece in enumerate(model.pieces)},
           "merges": _merges(model)}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [],
            "normalizer": {"type": "Sequence", "normalizers": steps}, "pre_tokenizer": None, "post_processor": None,
            "decoder": None, "model": bpe}


def _for_text(model: Any, *, dummy_prefix: bool) -> sentencepiece.SentencePieceProcessor:
    """A processor in which no special token can come out of text."""
    copy = sentencepiece_model_pb2.ModelProto()
    copy.CopyFrom(model)
    copy.normalizer_spec.add_dummy_prefix = dummy_prefix
    for piece in copy.pieces:
        if piece.type == PIECE.USER_DEFINED and _is_special(piece):
            piece.type = PIECE.UNUSED
    return sentencepiece.SentencePieceProcessor(model_proto=copy.SerializeToString())


def _is_special(piece: Any) -> bool:
    is_tag = piece.type == PIECE.USER_DEFINED and BRACKETED.fullmatch(piece.piece) is not None
    return piece.type == PIECE.CONTROL or is_tag


def _merges(model: Any) -> list[tuple[str, str]]:
    """Every way to make a piece from two, best score first; among equals (runs of spaces) the longer left half."""
    vocabulary = {piece.piece for piece in model.pieces}
    found = []
    for piece in model.pieces:
        if piece.type == PIECE.NORMAL:
            text = piece.piece
            halves = ((text[:at], text[at:]) for at in range(1, len(text)))
            found += [(-piece.score, -len(left), left, right) for left, right in halves
                      if left in vocabulary and right in vocabulary]
    return [(left, right) for _, _, left, right in sorted(found)]
