"""Tokenizers in Hugging Face's tokenizer.json."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tokenizers

from megatron_ft.data.tokenizer import Tokenizer, no_end_of_text, read_settings, token_string
from megatron_ft.errors import DataError


class JsonTokenizer(Tokenizer):
    """A tokenizer.json with the tokenizer_config.json beside it."""

    library = "tokenizers"

    def __init__(self, path: Path) -> None:
        try:
            whole = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain Exception
            raise DataError(f"{path}: is no tokenizer.json that `tokenizers` {tokenizers.__version__} reads: {error}"
                            ) from error
        self._path = path
        self.begin = _begin(whole)
        _prepare_for_text(whole)
        specification = json.loads(whole.to_str())
        self._specifications = {True: specification, False: without_prefix(specification)}
        self._encoders = {True: whole, False: whole}
        if self._specifications[False] != specification:
            self._encoders[False] = tokenizers.Tokenizer.from_str(json.dumps(self._specifications[False]))
            _prepare_for_text(self._encoders[False])
        self._special_ids = {token.content: index for index, token in whole.get_added_tokens_decoder().items()}
        self.literals = [token.content for token in whole.get_added_tokens_decoder().values() if not token.special]
        settings = read_settings(path.parent)
        self.vocabulary = max(whole.get_vocab(with_added_tokens=True).values()) + 1
        token = token_string(settings, "eos_token")
        end_of_text = None if token is None else whole.token_to_id(token)
        if end_of_text is None:
            raise no_end_of_text(path, token)
        self.end_of_text = end_of_text
        content = specification | {"post_processor": None, "decoder": None}
        text = json.dumps([content, self.end_of_text, self.begin], sort_keys=True)
        self.fingerprint = hashlib.sha256(text.encode()).hexdigest()

    def encode_texts(self, texts: Sequence[str], *, first: bool) -> list[list[int]]:
        encodings = self._encoders[first].encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def specification(self, *, first: bool) -> dict[str, Any]:
        """The tokenizer.json that texts are encoded with."""
        return self._specifications[first]

    def special(self, token: str) -> int:
        if token not in self._special_ids:
            raise DataError(f"{self._path}: has no special token '{token}'; it has {', '.join(self._special_ids)}")
        return self._special_ids[token]

    def decode(self, ids: Sequence[int]) -> str:
        return self._encoders[True].decode(list(ids), skip_special_tokens=False)


def _begin(whole: tokenizers.Tokenizer) -> list[int]:
    """What the post-processor puts in front of a text; transformers 5 asks it too, and not `add_bos_token`."""
    bare, dressed = (whole.encode("a", add_special_tokens=dress).ids for dress in (False, True))
    at = next(at for at in range(len(dressed)) if dressed[at:at + len(bare)] == bare)
    return dressed[:at]


def _prepare_for_text(whole: tokenizers.Tokenizer) -> None:
    """Let it neither cut, nor pad, nor take special tokens from text."""
    whole.no_truncation()
    whole.no_padding()
    whole.encode_special_tokens = True


def without_prefix(tokenizer: dict[str, Any]) -> dict[str, Any]:
    """A tokenizer.json that puts no space in front of a text.

    >>> without_prefix({"normalizer": {"type": "Prepend", "prepend": "_"},
    ...                 "pre_tokenizer": {"type": "Metaspace", "replacement": "_", "prepend_scheme": "first"}})
    {'normalizer': None, 'pre_tokenizer': {'type': 'Metaspace', 'replacement': '_', 'prepend_scheme': 'never'}}
    """
    return tokenizer | {part: _strip(tokenizer.get(part)) for part in ("normalizer", "pre_tokenizer")}


def _strip(node: dict[str, Any] | None) -> dict[str, Any] | None:
    kind = None if node is None else node["type"]
    if kind == "Prepend":
        return None
    if kind == "Metaspace":
        return {key: value for key, value in node.items() if key != "add_prefix_space"} | {"prepend_scheme": "never"}
    if kind == "ByteLevel" and "add_prefix_space" in node:
        return node | {"add_prefix_space": False}
    if kind == "Sequence":
        members = "normalizers" if "normalizers" in node else "pretokenizers"
        return node | {members: [kept for member in node[members] if (kept := _strip(member)) is not None]}
    return node
