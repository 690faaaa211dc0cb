"""Fill-in-the-middle: any text is cut anywhere and written in the published formats; the options say what is cut."""

import math

import numpy as np
import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from megatron_ft.data import tokenizer as reader
from megatron_ft.data.example import Example, Turn
from megatron_ft.data.fim import FAMILIES, Fim, Tokens, from_options
from megatron_ft.data.render import tokenize
from megatron_ft.errors import ConfigError
from tests.data.small_texts import STAR, published, read_back
from tests.data.small_tokenizers import bytes_tokenizer

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60).filter(
    lambda text: not any(name in text for name in STAR.names))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A byte-level tokenizer with StarCoder's three tokens."""
    return str(bytes_tokenizer(tmp_path_factory.mktemp("tokenizer"), STAR.names))


@pytest.fixture(scope="module")
def ours(folder):
    return reader.load(folder)


@given(text=TEXTS, seed=st.integers(-3, 2**40), spm_rate=st.sampled_from([0.0, 0.5, 1.0]))
def test_the_three_parts_are_the_text(text, seed, spm_rate):
    filling = Fim(1.0, spm_rate, seed, STAR).cut(text)
    assert filling.prefix + filling.middle + filling.suffix == text
    if spm_rate != 0.5:
        assert filling.order == ("SPM" if spm_rate else "PSM")


@given(text=TEXTS, seed=st.integers(0, 9), characters=st.integers(0, 70))
def test_of_a_shortened_text_the_parts_are_its_beginning_and_the_order_stays(text, seed, characters):
    fim = Fim(0.5, 0.5, seed, STAR)
    whole, short = fim.cut(text), fim.cut(text, characters)
    assert (whole is None) == (short is None)
    if short is not None:
        assert short.prefix + short.middle + short.suffix == text[:characters]
        assert short.order == whole.order


@given(text=TEXTS, fim=st.builds(Fim, st.just(0.8), st.just(0.5), st.integers(0, 5), st.just(STAR)))
def test_documents_are_those_of_the_published_format_and_say_what_they_were_cut_from(ours, text, fim):
    filling = fim.cut(text)
    drafts = [fim.segments(filling)] if filling else []
    for document in tokenize(drafts, ours):
        ids = document.ids.tolist()
        expected = published(lambda part: ours.encode_text(part, first=False), ours.special, text, fim)
        assert ids == [*expected, ours.end_of_text]
        found, before = read_back(ids[:-1], ours)
        assert found == text
        assert before == ("" if filling.order == "SPM" else filling.prefix)
        assert document.supervised == len(ids) - 1


@pytest.mark.parametrize(("rate", "spm_rate"), [(0.5, 0.5), (0.9, 0.2), (0.1, 1.0), (1.0, 0.0)])
def test_the_rates_are_met(rate, spm_rate):
    count = 4000
    made = [Fim(rate, spm_rate, 7, STAR).cut(f"text {number}") for number in range(count)]
    cut = [filling for filling in made if filling]
    spm = sum(filling.order == "SPM" for filling in cut)
    assert abs(len(cut) - rate * count) <= 4 * math.sqrt(count * rate * (1 - rate))
    assert abs(spm - spm_rate * len(cut)) <= 4 * math.sqrt(len(cut) * spm_rate * (1 - spm_rate))


def test_cuts_fall_everywhere_and_every_pair_of_places_equally_often():
    """Two places out of the n + 1 around n characters: (n + 1)**2 pairs, of which those that differ count twice."""
    size, count = 3, 16_000
    found = np.zeros((size + 1, size + 1))
    for seed in range(count):
        filling = Fim(1.0, 0.5, seed, STAR).cut("abc")
        found[len(filling.prefix), size - len(filling.suffix)] += 1
    expected = np.triu(np.full((size + 1, size + 1), 2.0)) - np.eye(size + 1)
    expected *= count / expected.sum()
    assert found[np.tril_indices(size + 1, -1)].sum() == 0
    assert (np.abs(found - expected) <= 4.5 * np.sqrt(expected)).all()


def test_another_seed_cuts_other_texts():
    made = [f"text {number}" for number in range(1000)]
    one, other = ([Fim(0.5, 0.5, seed, STAR).cut(text) for text in made] for seed in (1, 2))
    agree = sum((a is None) == (b is None) for a, b in zip(one, other, strict=True))
    assert 420 < agree < 580


@pytest.mark.parametrize("text", ["a <fim_prefix> b", "<fim_middle>", "x<fim_suffix>"])
def test_a_text_that_has_one_of_the_tokens_written_in_it_stays_as_it_is(text):
    always = Fim(1.0, tokens=STAR)
    assert always.cut(text) is None
    assert always.cut(text.replace("_", "-")) is not None
    assert Fim(1.0, tokens=FAMILIES["Code Llama"]).cut("a ▁<EOT>") is None


def test_user_defined_symbols_with_a_space_in_front_are_special(tmp_path):
    """If Code Llama's four were of that type: text that has them written in it must not become them."""
    options = {"sentence_iterator": iter(["a b c " * 9] * 9), "model_prefix": str(tmp_path / "tokenizer"), "model_type": "bpe",
               "vocab_size": 290, "byte_fallback": True, "normalization_rule_name": "identity", "hard_vocab_limit": False,
               "user_defined_symbols": ["▁<PRE>", "plain"], "minloglevel": 2}
    sentencepiece.SentencePieceTrainer.train(**options)
    ours = reader.load(tmp_path / "tokenizer.model")
    assert ours.special("▁<PRE>") not in ours.encode_text("a <PRE> b", first=True)
    assert ours.literals == ["plain"]


@pytest.mark.parametrize(("rate", "options", "message"), [
    (1.5, {}, "--fim-rate: 1.5 is no share; give a number from 0 to 1"),
    (-0.1, {}, "--fim-rate: -0.1 is no share"), (math.nan, {}, "--fim-rate: nan is no share"),
    (0.5, {"spm_rate": 2.0}, "--fim-spm-rate: 2.0 is no share"),
    (None, {"spm_rate": 0.5}, "--fim-spm-rate: is given and --fim-rate is not"),
    (None, {"seed": 0}, "--fim-seed: is given and --fim-rate is not"),
    (0.5, {"tokens": ["<a>", "<b>"]}, "--fim-tokens: has 2 names, <a> <b>; name three or four different tokens"),
    (0.5, {"tokens": ["<a>", "<b>", "<a>"]}, "name three or four different tokens")])
def test_options_that_contradict_themselves(rate, options, message):
    with pytest.raises(ConfigError, match=message):
        from_options(rate, **options)


def test_options_become_what_they_say():
    assert from_options(None) is None
    assert from_options(0.25) == Fim(0.25, 0.5, 0, None, "all")
    assert from_options(1.0, spm_rate=0.0, seed=3, tokens=["<a>", "<b>", "<c>", "<d>"], loss="middle") == Fim(
        1.0, 0.0, 3, Tokens(prefix="<a>", middle="<b>", suffix="<c>", end="<d>"), "middle")


def test_a_bare_text_is_its_document():
    example = Example((Turn("assistant", "x = 1\n"),))
    assert example.bare_text == "x = 1\n"
    assert Example.pair("a", "b").bare_text is None
