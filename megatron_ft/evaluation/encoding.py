"""Prompts into ids with a model's own tokenizer, part by part, as the documents that it was trained on were."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from megatron_ft.data.templates import Mark, Segment, Special
from megatron_ft.data.tokenizer_json import without_prefix
from megatron_ft.errors import EvaluationError

if TYPE_CHECKING:
    import tokenizers
    from transformers import PreTrainedTokenizerBase


class PromptEncoder:
    """Encodes segments: text never gives special tokens, and only a text that opens gets SentencePiece's space."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._specials = {str(token): number for number, token in tokenizer.added_tokens_decoder.items()}
        self._begin = self._opening()
        self._later: tokenizers.Tokenizer | None = None

    def encode(self, prompt: Segment) -> list[int]:
        """The ids of a prompt, those that open every text in front; EvaluationError if a special token is unknown."""
        ids, opens = list(self._begin), True
        for part in prompt.parts:
            if part is Mark.BEGIN:
                ids += self._begin
            elif part is Mark.END:
                ids.append(self._tokenizer.eos_token_id)
            elif isinstance(part, Special):
                ids.append(self._special(part.token))
            else:
                ids += self._text(part) if opens else self._later_text(part)
            opens = part is Mark.BEGIN
        return ids

    def _opening(self) -> list[int]:
        bare, dressed = self._text("a"), self._tokenizer("a")["input_ids"]
        at = next(at for at in range(len(dressed)) if dressed[at:at + len(bare)] == bare)
        return dressed[:at]

    def _special(self, token: str) -> int:
        if token not in self._specials:
            raise EvaluationError(f"--prompt-style: the prompt has the special token {token}, which the tokenizer of the model "
                                  f"lacks; it has {', '.join(self._specials)}; use the style that the model was trained with")
        return self._specials[token]

    def _text(self, text: str) -> list[int]:
        return self._tokenizer(text, split_special_tokens=True, add_special_tokens=False)["input_ids"]

    def _later_text(self, text: str) -> list[int]:
        if self._later is None:
            backend = getattr(self._tokenizer, "backend_tokenizer", None)
            if backend is None:
                raise EvaluationError("--prompt-style: a prompt with special tokens needs the tokenizer.json of the model, and "
                                      f"{type(self._tokenizer).__name__} has none; use a style of text, such as octocoder")
            import tokenizers

            self._later = tokenizers.Tokenizer.from_str(json.dumps(without_prefix(json.loads(backend.to_str()))))
            self._later.no_truncation()
            self._later.no_padding()
            self._later.encode_special_tokens = True
        return self._later.encode(text, add_special_tokens=False).ids
