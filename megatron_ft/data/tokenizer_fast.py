"""The same ids many times faster, by gigatoken, wherever it gives the ids of the reference.

What is trusted is tried out first: a battery of texts when the encoder is made, a sample of the very data before a build,
and every character that is not ASCII when it is first met (the two libraries know different versions of Unicode, and
gigatoken cannot cut at digits that are not ASCII). A text with a character that failed goes to the reference.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import psutil

from megatron_ft.data.tokenizer import Tokenizer
from megatron_ft.data.tokenizer_json import JsonTokenizer
from megatron_ft.data.tokenizer_sentencepiece import SentencePieceTokenizer, as_tokenizer_json, is_plain_bpe

GROWTH_BYTES = 128 << 20
"""gigatoken remembers every word that it has seen; when a process has grown by this much it begins anew."""

BATTERY = (
    "def add(a, b):\n    return a + b  # it's 42, they'll say; I'd've guessed 3.14e-10\n\n\n\tif x:\r\n\t\tpass\n",
    " leading", "trailing ", "   ", "\n", "\t\t", "1234567890", "a1b22c333", "x=1;y =2; z= 3", "\x00\x01\x7f", "'s 't 're 'VE",
    "<|endoftext|></s><s><unk><0x0A>", "http://example.org/?q=1&r=%20#frag", "".join(map(chr, range(128))),
    "é ü ß 漢字 かな 한국어 😀 👩‍👩‍👧 ½ ² ٣ \u00a0 \u2028 \u200b \ufeff e\u0301",
)


class UnsupportedError(Exception):
    """Why a tokenizer has no fast form; the words are for a log line."""


def accelerate(reference: Tokenizer) -> Tokenizer:
    """The fast form of a tokenizer, tried out on the battery; `UnsupportedError` says why there is none."""
    try:
        fast = FastTokenizer(reference)
    except ImportError as error:
        raise UnsupportedError(f"gigatoken cannot be imported ({error})") from error
    if difference := first_difference(fast, BATTERY):
        raise UnsupportedError(f"gigatoken {importlib.metadata.version('gigatoken')} gives other ids for {difference}")
    return fast


def fastest(reference: Tokenizer) -> Tokenizer:
    """The fast form of a tokenizer if it has one, else itself."""
    try:
        return accelerate(reference)
    except UnsupportedError:
        return reference


def first_difference(fast: FastTokenizer, texts: Sequence[str]) -> str:
    """The first of some texts that fast form and reference encode differently, shortened; empty if there is none."""
    for first in (True, False):
        ids, counts = fast.encode_flat(texts, first=first)
        ends = np.cumsum(counts)
        for text, end, count, expected in zip(texts, ends, counts, fast.reference.encode_texts(texts, first=first),
                                              strict=True):
            if ids[end - count:end].tolist() != expected:
                return repr(text if len(text) < 60 else text[:60] + "...")
    return ""


class FastTokenizer(Tokenizer):
    """A tokenizer that encodes by gigatoken what gigatoken encodes like its reference."""

    def __init__(self, reference: Tokenizer) -> None:
        self.reference = reference
        self.vocabulary, self.end_of_text, self.begin = reference.vocabulary, reference.end_of_text, reference.begin
        self.fingerprint = reference.fingerprint
        specifications = [_specification(reference, first) for first in (False, True)]
        later = _Encoder(specifications[0])
        is_one = specifications[0] == specifications[1]  # most tokenizers treat the text that opens a document as any other
        self._encoders = {False: later, True: later if is_one else _Encoder(specifications[1])}
        self._literal = _literal_tokens(reference)
        self._known: set[str] = set(map(chr, range(128)))
        self._failed: set[str] = set()
        self._allowed_bytes = _held_bytes() + GROWTH_BYTES

    def encode_flat(self, texts: Sequence[str], *, first: bool) -> tuple[np.ndarray, np.ndarray]:
        hard = self._hard(texts)
        if not hard:
            return self._encoders[first].encode(texts)
        easy_ids, easy_counts = self._encoders[first].encode(["" if at in hard else text for at, text in enumerate(texts)])
        pieces = np.split(easy_ids, np.cumsum(easy_counts)[:-1])
        for at, ids in zip(hard, self.reference.encode_texts([texts[at] for at in hard], first=first), strict=True):
            pieces[at] = np.array(ids, dtype=np.int32)
        return np.concatenate(pieces), np.array([len(piece) for piece in pieces], dtype=np.int64)

    def encode_texts(self, texts: Sequence[str], *, first: bool) -> list[list[int]]:
        if not texts:
            return []
        ids, counts = self.encode_flat(texts, first=first)
        return [piece.tolist() for piece in np.split(ids, np.cumsum(counts)[:-1])]

    def special(self, token: str) -> int:
        return self.reference.special(token)

    def decode(self, ids: Sequence[int]) -> str:
        return self.reference.decode(ids)

    def forget(self) -> None:
        if _held_bytes() > self._allowed_bytes:
            for encoder in set(self._encoders.values()):
                encoder.renew()
            self._allowed_bytes = _held_bytes() + GROWTH_BYTES

    def _hard(self, texts: Sequence[str]) -> dict[int, None]:
        """Which texts are the reference's, in order."""
        wide = [at for at, text in enumerate(texts) if not text.isascii()]
        self._try_out(set().union(*(texts[at] for at in wide)) - self._known)
        hard = [at for at in wide if not self._failed.isdisjoint(texts[at])] if self._failed else []
        if self._literal:
            hard += [at for at, text in enumerate(texts) if self._literal.search(text)]
        return dict.fromkeys(sorted(hard))

    def _try_out(self, characters: set[str]) -> None:
        """Learn of characters whether gigatoken treats them as the reference does, beside every kind of neighbour."""
        self._known |= characters
        ordered = sorted(characters)
        probes = [f"a{c}b {c}{c}.{c} 1{c}  {c}\n{c}\t{c}'s" for c in ordered]
        for first in (True, False) if probes else ():
            ids, counts = self._encoders[first].encode(probes)
            found = np.split(ids, np.cumsum(counts)[:-1])
            expected = self.reference.encode_texts(probes, first=first)
            self._failed |= {c for c, ours, theirs in zip(ordered, found, expected, strict=True) if ours.tolist() != theirs}


def _held_bytes() -> int:
    """Memory that this process has filled itself; it may be a fork of the one that made the tokenizer.

    Without the pages of files: of libraries, a fork has only those that it has touched.
    """
    held = psutil.Process().memory_info()
    return held.rss - getattr(held, "shared", 0)


class _Encoder:
    """gigatoken behind numpy arrays."""

    def __init__(self, specification: dict[str, Any]) -> None:
        self._specification = json.dumps(specification | {SPLITS_DIGITS: None})
        self._splits_digits = specification.get(SPLITS_DIGITS, False)
        self.renew()

    def renew(self) -> None:
        """Begin anew with an empty cache."""
        import gigatoken.gigatoken_rs  # a quarter of a second with the awkward arrays that it returns

        self._backend = None
        if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
            trim(0)  # before the new one is made: glibc keeps what was freed in small pieces, and would build it in between
        try:
            self._backend = gigatoken.gigatoken_rs.load_hf_json(self._specification)
        except Exception as error:  # the library raises ValueError and plain Exception
            raise UnsupportedError(f"gigatoken does not take it ({error})") from error

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The ids of all texts end to end, int32, and the number of each text's, int64."""
        data = [text.encode() for text in texts]
        lengths = np.fromiter(map(len, data), dtype=np.int64, count=len(data))
        buffer = np.frombuffer(b"".join(data), dtype=np.uint8)
        if not len(buffer):
            return np.empty(0, np.int32), np.zeros(len(texts), np.int64)
        text_ends = np.cumsum(lengths)
        pieces = self._pieces(buffer, text_ends)
        flat, piece_ends = self._encode_pieces(buffer, pieces)
        token_ends = piece_ends[np.searchsorted(pieces, text_ends)]
        return flat.astype(np.int32), np.diff(token_ends, prepend=0)

    def _pieces(self, buffer: np.ndarray, text_ends: np.ndarray) -> np.ndarray:
        """Where pieces begin, and the end: texts are cut where the tokenizer does and gigatoken does not, at digits."""
        begins = np.zeros(len(buffer) + 1, dtype=bool)
        if self._splits_digits:
            is_digit = (buffer - np.uint8(48)) < 10
            begins[:-1] = is_digit
            begins[1:] |= is_digit
        begins[0] = True
        begins[text_ends] = True
        return np.flatnonzero(begins)

    def _encode_pieces(self, buffer: np.ndarray, pieces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """All ids, and at index i how many of them are before piece i."""
        import awkward
        from awkward.contents import ListOffsetArray, NumpyArray
        from awkward.index import Index64

        strings = ListOffsetArray(Index64(pieces), NumpyArray(buffer, parameters={"__array__": "byte"}),
                                  parameters={"__array__": "bytestring"})
        layout = self._backend.encode_batch(awkward.Array(strings), parallel=False).layout
        ends = np.asarray(layout.offsets.data, dtype=np.int64)
        return np.asarray(layout.content.data)[ends[0]:ends[-1]], ends - ends[0]


SPLITS_DIGITS = "splits digits"


def _specification(reference: Tokenizer, first: bool) -> dict[str, Any]:
    """A tokenizer.json for gigatoken. No special token is in it: a special token's string inside text is text."""
    if isinstance(reference, SentencePieceTokenizer):
        if not is_plain_bpe(reference.model):
            raise UnsupportedError("it is no SentencePiece BPE without normalization")
        return as_tokenizer_json(reference.model, prefix=first and reference.adds_prefix)
    if not isinstance(reference, JsonTokenizer):
        raise UnsupportedError(f"it is a {type(reference).__name__}")
    whole = reference.specification(first=first) | {"added_tokens": [], "post_processor": None, "truncation": None,
                                                    "padding": None}
    if whole["model"].get("byte_fallback"):
        return whole
    whole["model"] = whole["model"] | {"vocab": _with_all_bytes(whole["model"].get("vocab"), reference.vocabulary)}
    steps = whole["pre_tokenizer"] or {}
    if steps.get("type") == "Sequence" and [step["type"] for step in steps["pretokenizers"]] == ["Digits", "ByteLevel"]:
        digits, rest = steps["pretokenizers"]
        if digits["individual_digits"]:
            whole |= {"pre_tokenizer": rest, SPLITS_DIGITS: True}
    return whole


def _with_all_bytes(vocab: Any, top: int) -> dict[str, int]:
    """A byte-level vocabulary in which bytes that it lacks have ids from `top` on, because gigatoken asks for all 256.

    No text gets such an id: the reference leaves these bytes out, so a character with one fails when it is tried out.
    """
    if not isinstance(vocab, dict):
        raise UnsupportedError("its model is no BPE vocabulary")
    missing = [letter for letter in _byte_letters() if letter not in vocab]
    return vocab | {letter: top + number for number, letter in enumerate(missing)}


def _byte_letters() -> list[str]:
    """The letters that byte-level vocabularies write the 256 bytes with: printable ones stand for themselves."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + number) for number in range(len(others))]


def _literal_tokens(reference: Tokenizer) -> re.Pattern[str] | None:
    """Strings that the reference takes out of text before anything else: added tokens that are not special."""
    return re.compile("|".join(map(re.escape, reference.literals))) if reference.literals else None
