"""An answer's text while it is written is, at every look, what decoding all of it would give."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from megatron_ft.data.tokenizer_sentencepiece import write_hugging_face
from megatron_ft.evaluation import decoding
from megatron_ft.evaluation.decoding import Rules, Written
from megatron_ft.evaluation.growing_text import CUT_CHARACTER, GrowingText, is_over, text_of
from tests.data.small_tokenizers import bytes_tokenizer, sentencepiece_tokenizer

PROMPT = "def f(x):\n    return"
TEXT = "    return x * 2  # \u00fcber \u4e2d\u6587 \U0001f600\U0001f600\n\ndef  g():\n\tpass\n" * 3


def by_bytes(folder: Path) -> object:
    return AutoTokenizer.from_pretrained(bytes_tokenizer(folder))


def by_pieces(folder: Path) -> object:
    write_hugging_face(sentencepiece_tokenizer(folder / "model"), folder / "hf")
    return AutoTokenizer.from_pretrained(folder / "hf")


def ids_of(tokenizer: object, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("make", [by_bytes, by_pieces])
@pytest.mark.parametrize("portion", [1, 3, 8])
def test_a_text_grows_to_what_decoding_it_whole_gives(make, portion: int, tmp_path: Path) -> None:
    tokenizer = make(tmp_path)
    prompt, new = ids_of(tokenizer, PROMPT), ids_of(tokenizer, TEXT)
    growing = GrowingText(tokenizer, prompt)
    for at in range(0, len(new), portion):
        growing.add(new[at:at + portion])
        whole = text_of(tokenizer, prompt, new[:at + portion])
        assert text_of(tokenizer, prompt, new).startswith(growing.text), "a character that is not whole yet has to wait"
        assert growing.text.startswith(whole.rstrip(CUT_CHARACTER)), "and nothing else"
    assert growing.text == text_of(tokenizer, prompt, new)
    assert growing.text.strip() == TEXT.strip()


@pytest.mark.parametrize("make", [by_bytes, by_pieces])
def test_tokens_that_are_no_text_grow_to_the_same_too(make, tmp_path: Path) -> None:
    """An untrained model writes bytes that make no character."""
    tokenizer = make(tmp_path)
    draw = random.Random(5)
    for _ in range(60):
        new = [draw.randrange(len(tokenizer)) for _ in range(40)] + ids_of(tokenizer, "x = 12345 + y\n" * 3)
        growing = GrowingText(tokenizer, ids_of(tokenizer, PROMPT))
        for token in new:
            growing.add([token])
        assert growing.text == text_of(tokenizer, ids_of(tokenizer, PROMPT), new)


def test_a_look_decodes_what_is_new_and_not_the_whole(tmp_path: Path) -> None:
    tokenizer, decoded = by_bytes(tmp_path), []

    class Counting:
        def decode(self, ids: list[int], **options: object) -> str:
            decoded.append(len(ids))
            return tokenizer.decode(ids, **options)

    new = ids_of(tokenizer, TEXT) * 4
    growing = GrowingText(Counting(), ids_of(tokenizer, PROMPT))
    for at in range(0, len(new), 8):
        growing.add(new[at:at + 8])
    assert len(growing.text) > 500
    assert max(decoded) <= 16 + 3 + 8, "the context, what waited for its character, and what is new"


def test_a_leading_space_is_kept_with_sentencepiece() -> None:
    """Such a tokenizer drops the space of the first word it decodes, so an answer is decoded with its prompt."""

    class Tokenizer:
        def decode(self, ids: list[int], **_: object) -> str:
            pieces = ["\u2581def", "\u2581f", ":", "\u2581return"]
            return "".join(pieces[number] for number in ids).replace("\u2581", " ").strip()

    assert text_of(Tokenizer(), [0, 1, 2], [3]) == " return"
    growing = GrowingText(Tokenizer(), [0, 1, 2])
    growing.add([3])
    growing.add([3])
    assert growing.text == " return return"


@pytest.mark.parametrize("before", range(20))
@pytest.mark.parametrize("stop", ["\ndef ", "}\n", "\u4e2d"])
def test_a_stop_is_found_wherever_it_falls(before: int, stop: str, tmp_path: Path) -> None:
    """Between two looks, across them, in the middle of a character's bytes: the row ends at the next look."""
    tokenizer = by_bytes(tmp_path)
    filler = ids_of(tokenizer, "x") * before
    new = [*filler, *ids_of(tokenizer, stop + "y = 1\n    z = 2\n" * 9)]
    stopped = next(count for count in range(len(new)) if stop in tokenizer.decode(new[:count]))
    growing = GrowingText(tokenizer, ids_of(tokenizer, PROMPT))

    def is_complete(row: int, tokens: list[int]) -> bool:
        assert row == 0
        seen = len(growing.text)
        growing.add(tokens)
        return is_over(lambda text: stop in text, growing.text, seen)

    written = Written()
    rules = Rules(len(new), [], 0.0, 1.0, is_complete, lambda count: None)
    written_tokens = next(count for count, token in enumerate(new, start=1) if written.take(0, token, rules))
    assert written.finish == "stop"
    assert stopped <= written_tokens < stopped + decoding.CHECK_EVERY
    assert growing.text.startswith("x" * before + stop)


def test_a_line_that_began_between_two_looks_is_looked_at() -> None:
    """A rule that asks what stands at the margin of the last line would miss it, as that line is another by now."""
    asked = []

    def complete(text: str) -> bool:
        asked.append(text)
        return text.endswith("\n}")

    assert is_over(complete, "  a\n}\n  b", 3)
    assert asked == ["  a\n}"]
    assert not is_over(complete, "  a\n}\n  b\n  c", 7), "what was seen is not looked at again"
    assert is_over(complete, "  a\n}", 4)
