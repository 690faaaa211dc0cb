"""Text into ids, as the model's own tokenizer does it, whatever file it comes in.

A document is tokenized segment by segment, because at inference the prompt is tokenized alone and the answer is
generated after it. Only the text that opens a document is `first`: SentencePiece puts a space in front of such a text
(the "dummy prefix"), and putting it in front of a later segment would teach the model a space that is not there.

A special token's string inside text stays text; ids of special tokens come from `special` alone.
"""

from __future__ import annotations

import abc
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from megatron_ft.errors import DataError


class Tokenizer(abc.ABC):
    """What preprocessing needs of a tokenizer."""

    library: str
    """What encodes; for a log line."""
    vocabulary: int
    """Highest id + 1."""
    end_of_text: int
    """The id that closes an answer."""
    begin: list[int]
    """The ids that open every document: LLaMA's `<s>`; nothing for StarCoder."""
    fingerprint: str
    """Changes with anything that changes ids."""
    literals: Sequence[str] = ()
    """Strings that become one id wherever they stand in a text: added tokens that are not special."""

    @abc.abstractmethod
    def encode_texts(self, texts: Sequence[str], *, first: bool) -> list[list[int]]:
        """The ids of each text, without `begin`.

        Args:
            first: the texts open their documents (see the top of this file).
        """

    @abc.abstractmethod
    def special(self, token: str) -> int:
        """The id of a special token; DataError if the tokenizer has none of that name."""

    @abc.abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """The text of the ids."""

    def encode_flat(self, texts: Sequence[str], *, first: bool) -> tuple[np.ndarray, np.ndarray]:
        """The same ids end to end.

        Returns:
            ids, int32 [tokens], and how many of them are each text's, int64 [texts].
        """
        encoded = self.encode_texts(texts, first=first) if texts else []
        counts = np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded))
        flat = itertools.chain.from_iterable(encoded)
        return np.fromiter(flat, dtype=np.int32, count=int(counts.sum())), counts

    def forget(self) -> None:  # noqa: B027 - most have nothing to forget
        """Give back memory that has been taken to encode faster, if it is much; to be called now and then."""

    def encode_text(self, text: str, *, first: bool) -> list[int]:
        """The ids of one text; see `encode_texts`."""
        return self.encode_texts([text], first=first)[0]


def load(path: str | Path) -> Tokenizer:
    """The tokenizer in a Hugging Face folder, a tokenizer.json, a SentencePiece .model or a folder with one.

    A folder that has both is read as transformers reads it: tokenizer.json.
    """
    path = Path(path)
    candidates = [path / "tokenizer.json", path / "tokenizer.model"] if path.is_dir() else [path]
    for file in candidates:
        if file.is_file() and file.suffix == ".json":
            from megatron_ft.data.tokenizer_json import JsonTokenizer  # each library is imported where it is used

            return JsonTokenizer(file)
        if file.is_file() and file.suffix == ".model":
            from megatron_ft.data.tokenizer_sentencepiece import SentencePieceTokenizer

            return SentencePieceTokenizer(file)
    raise DataError(f"{path}: is no tokenizer; name a tokenizer.json, a SentencePiece .model or a folder with one "
                    "(transformers' AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR) writes tokenizer.json)")


def read_settings(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json, completed from special_tokens_map.json; empty where there is neither."""
    settings: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        path = folder / name
        if path.is_file():
            try:
                found = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise DataError(f"{path}: is no JSON: {error}") from error
            settings |= {key: value for key, value in found.items() if value is not None}
    return settings


def token_string(settings: dict[str, Any], key: str) -> str | None:
    """A token as settings name it: a string, or an object with its content.

    >>> token_string({"eos_token": {"content": "</s>", "special": True}}, "eos_token")
    '</s>'
    """
    token = settings.get(key)
    return token["content"] if isinstance(token, dict) else token


def no_end_of_text(path: Path, found: str | None) -> DataError:
    """The error for a tokenizer that cannot say where an answer ends."""
    what = "names no end-of-text token" if found is None else f"names '{found}' as end-of-text, which is not in it"
    return DataError(f"{path}: {what}, so a model could never learn to stop; set \"eos_token\" in the "
                     "tokenizer_config.json beside it to the token that the model was pre-trained with")
