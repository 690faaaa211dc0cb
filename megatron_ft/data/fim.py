"""Fill-in-the-middle: a text is cut at two places, and the model learns to write what is between them after the rest.

    PSM   <prefix> P <suffix> S <middle> M <end>
    SPM   <prefix> <suffix> S <middle> P M <end>      (the second variant of Bavarian et al. 2022, as StarCoder was trained)

The cuts fall between characters, wherever: a cursor stands inside words too, and a model that had only seen cuts between
tokens would be lost there. So P, S and M are tokenized apart. P is tokenized as the beginning of a text, S and M are not
(Code Llama's reference does so; it matters where SentencePiece puts a space in front of a text).

What becomes of a text depends on the seed and the text alone, so that workers, shards and interruptions change nothing.
"""

from __future__ import annotations

import dataclasses
import hashlib
import struct
from collections.abc import Sequence
from typing import Any, Literal

from megatron_ft.data.example import Mark, Part, Segment, Special
from megatron_ft.data.template import filled
from megatron_ft.data.tokenizer import Tokenizer
from megatron_ft.errors import ConfigError, DataError

Order = Literal["PSM", "SPM"]
FimLoss = Literal["all", "middle"]
FIM_LOSS: tuple[FimLoss, ...] = ("all", "middle")


@dataclasses.dataclass(frozen=True)
class Tokens:
    """The special tokens that tell the parts of a text apart."""

    prefix: str
    middle: str
    suffix: str
    end: str | None = None
    """Ends a middle, in front of the end-of-text token; None: the end-of-text token does."""

    @property
    def names(self) -> tuple[str, ...]:
        """All that there are."""
        return (self.prefix, self.middle, self.suffix, *([self.end] if self.end else []))


FAMILIES: dict[str, Tokens] = {
    "StarCoder": Tokens("<fim_prefix>", "<fim_middle>", "<fim_suffix>"),
    "SantaCoder": Tokens("<fim-prefix>", "<fim-middle>", "<fim-suffix>"),
    "Qwen2.5-Coder": Tokens("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"),
    "DeepSeek-Coder": Tokens("<｜fim▁begin｜>", "<｜fim▁end｜>", "<｜fim▁hole｜>"),  # noqa: RUF001 - the hole is before the suffix
    "Code Llama": Tokens("▁<PRE>", "▁<MID>", "▁<SUF>", "▁<EOT>"),
}
"""Who calls them what. Code Llama ends a middle with a token of its own."""


@dataclasses.dataclass(frozen=True)
class Filling:
    """A text in three parts; P + M + S is the text."""

    order: Order
    prefix: str
    middle: str
    suffix: str


@dataclasses.dataclass(frozen=True)
class Fim:
    """Which texts are cut, and what they become."""

    rate: float
    """Share of the texts that are cut; the others stay as they are."""
    spm_rate: float = 0.5
    """Of those, the share in the order SPM."""
    seed: int = 0
    tokens: Tokens | None = None
    """None: to be found in the tokenizer; see `complete`."""
    loss: FimLoss = "all"
    """What is supervised of a text that is cut: everything, as in pre-training, or the middle and what ends it."""

    def complete(self, reader: Tokenizer, path: str) -> Fim:
        """The same with its tokens; ConfigError or DataError if the tokenizer at `path` lacks them."""
        if self.tokens is None:
            return dataclasses.replace(self, tokens=find_tokens(reader, path))
        for name in self.tokens.names:
            reader.special(name)
        return self

    def describe(self) -> dict[str, Any]:
        """For a manifest: flat, each value a string or a number."""
        return {"fim_rate": self.rate, "fim_spm_rate": self.spm_rate, "fim_seed": self.seed, "fim_loss": self.loss,
                "fim_tokens": " ".join(self.tokens.names)}

    def cut(self, text: str, characters: int | None = None) -> Filling | None:
        """The parts of a text; None if it stays as it is, also because it has one of the tokens written in it.

        Args:
            characters: cut up only that many of the text's first; whether and in which order does not depend on them.

        >>> Fim(1.0, seed=1, tokens=FAMILIES["StarCoder"]).cut("def f(x):")
        Filling(order='PSM', prefix='def ', middle='f(x)', suffix=':')
        """
        chance, order, *places = _draws(text, self.seed)
        if chance >= self.rate or any(name in text for name in self.tokens.names):
            return None
        text = text[:characters]
        first, last = sorted(int(place * (len(text) + 1)) for place in places)
        return Filling("SPM" if order < self.spm_rate else "PSM", text[:first], text[first:last], text[last:])

    def segments(self, filling: Filling) -> list[Segment]:
        """The document of a text that was cut.

        >>> fim = Fim(1.0, tokens=FAMILIES["StarCoder"])
        >>> fim.segments(Filling("PSM", "def ", "f(", "x):"))[0].text
        '<fim_prefix>def <fim_suffix>x):<fim_middle>f('
        >>> fim.segments(Filling("SPM", "def ", "f(", "x):"))[0].text
        '<fim_prefix><fim_suffix>x):<fim_middle>def f('
        """
        prefix, middle, suffix = (Special(name) for name in self.tokens.names[:3])
        before: tuple[Part, ...] = (Mark.OPENING, filling.prefix) if filling.prefix else ()
        after = filled(filling.suffix)
        asked = {"PSM": (prefix, *before, suffix, *after, middle), "SPM": (prefix, suffix, *after, middle, *before)}
        end = (Mark.END,) if self.tokens.end is None else (Special(self.tokens.end), Mark.END)
        answer = (*filled(filling.middle), *end)
        if self.loss == "all":
            return [Segment((*asked[filling.order], *answer), supervised=True)]
        return [Segment(asked[filling.order], supervised=False), Segment(answer, supervised=True)]


def from_options(rate: float | None, *, spm_rate: float | None = None, seed: int | None = None,
                 tokens: Sequence[str] | None = None, loss: FimLoss | None = None) -> Fim | None:
    """What the --fim options of a command say, None where one is not given; None if no text is to be cut."""
    given = {"spm_rate": spm_rate, "seed": seed, "tokens": tokens, "loss": loss}
    given = {name: value for name, value in given.items() if value is not None}
    if rate is None and given:
        option = next(iter(given)).replace("_", "-")
        raise ConfigError(f"--fim-{option}: is given and --fim-rate is not, so no text would be cut; say what share of them is "
                          "to be, as in --fim-rate 0.5, or leave it out")
    for option, share in (("rate", rate), ("spm-rate", spm_rate)):
        if share is not None and not 0 <= share <= 1:
            raise ConfigError(f"--fim-{option}: {share} is no share; give a number from 0 to 1")
    if not rate:
        return None
    if tokens is not None:
        if not 3 <= len(tokens) <= 4 or len(set(tokens)) < len(tokens):
            raise ConfigError(f"--fim-tokens: has {len(tokens)} names, {' '.join(tokens)}; name three or four different "
                              "tokens: PREFIX MIDDLE SUFFIX, and the one that ends a middle if that is not the end-of-text "
                              "token")
        given["tokens"] = Tokens(*tokens)
    return Fim(rate, **given)


def find_tokens(reader: Tokenizer, path: str) -> Tokens:
    """The one family's tokens that a tokenizer has; ConfigError if it has none's, or several."""
    found = {family: tokens for family, tokens in FAMILIES.items() if all(_has(reader, name) for name in tokens.names)}
    if len(found) == 1:
        return next(iter(found.values()))
    if not found:
        known = "; ".join(f"{family}: {' '.join(tokens.names)}" for family, tokens in FAMILIES.items())
        raise ConfigError(f"--fim-rate: the tokenizer {path} has none of the token sets that mark the parts of a text "
                          f"({known}); name its own with --fim-tokens PREFIX MIDDLE SUFFIX, or use the tokenizer of a model "
                          "that was trained to fill in")
    raise ConfigError(f"--fim-rate: the tokenizer {path} has the tokens of {' and of '.join(found)}; say which the model was "
                      "trained with by --fim-tokens PREFIX MIDDLE SUFFIX")


def _has(reader: Tokenizer, name: str) -> bool:
    try:
        reader.special(name)
    except DataError:
        return False
    return True


def _draws(text: str, seed: int) -> list[float]:
    """Four numbers from 0 to below 1 that look random, always the same for a text and a seed."""
    digest = hashlib.sha256(b"fill in the middle %d " % seed + text.encode()).digest()
    return [(draw >> 11) * 2.0**-53 for draw in struct.unpack("<4Q", digest)]
