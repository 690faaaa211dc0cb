"""gigatoken is used where it gives the reference's ids, and only there: shown over Unicode, real rows and odd tokenizers."""

import json
import os
import unicodedata

import numpy as np
import pytest
import sentencepiece
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers, trainers

from megatron_ft.data import tokenizer as reader
from megatron_ft.data import tokenizer_fast
from megatron_ft.data.tokenizer_fast import FastTokenizer, UnsupportedError, accelerate, first_difference
from tests.data.shared import LLAMA, SFT_ROWS, STARCODER, needs_data

CORPUS = ["def add(a, b):\n    return a + b  # it's 42\n", "The quick brown fox, 1999!\n\n", "naïve café 東京 ½ 😀\n"] * 30

SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def split(digits):
    """Llama 3's and Qwen2's, which differ in how many digits go together."""
    return pre_tokenizers.Sequence([pre_tokenizers.Split(tokenizers.Regex(SPLIT % digits), "isolated"),
                                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


PRE_TOKENIZERS = {
    "llama3": split("{1,3}"),
    "qwen2": split(""),
    "starcoder": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                          pre_tokenizers.ByteLevel(add_prefix_space=False)]),
    "gpt2": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "gpt2-prefix": pre_tokenizers.ByteLevel(add_prefix_space=True),
}


def make_tokenizer(folder, pre_tokenizer, *, added=(), lacking=()):
    """A byte-level BPE of some hundred tokens."""
    whole = tokenizers.Tokenizer(models.BPE())
    whole.pre_tokenizer = pre_tokenizer
    alphabet = [letter for letter in pre_tokenizers.ByteLevel.alphabet() if letter not in lacking]
    whole.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet,
                                                          special_tokens=["<|end|>"], show_progress=False))
    whole.add_tokens([tokenizers.AddedToken(token, special=False, normalized=False) for token in added])
    folder.mkdir(parents=True, exist_ok=True)
    whole.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<|end|>"}')
    return reader.load(folder)


@pytest.fixture(scope="module", params=[*PRE_TOKENIZERS, pytest.param("real starcoder", marks=needs_data),
                                        pytest.param("real llama", marks=needs_data)])
def fast(request, tmp_path_factory):
    if request.param.startswith("real"):
        return accelerate(reader.load(STARCODER if "starcoder" in request.param else LLAMA))
    return accelerate(make_tokenizer(tmp_path_factory.mktemp("fast") / "t", PRE_TOKENIZERS[request.param]))


@settings(max_examples=300, deadline=None)
@given(texts=st.lists(st.text(), max_size=5), data=st.data())
def test_any_text_has_the_ids_of_the_reference(fast, texts, data):
    assert first_difference(fast, texts) == ""


@settings(max_examples=300, deadline=None)
@given(texts=st.lists(st.text(alphabet=" \t\n\r'stdlvem0123456789½²٣aZé_.,<>|/=東😀\u00a0\u200d\u0301"), max_size=8))
def test_text_that_is_hard_to_cut_has_the_ids_of_the_reference(fast, texts):
    assert first_difference(fast, texts) == ""


def test_every_character_of_unicode_has_the_ids_of_the_reference(fast):
    assigned = [chr(code) for code in range(0x110000) if unicodedata.category(chr(code)) not in ("Cs", "Co", "Cn")]
    unassigned = [chr(code) for code in range(0, 0x110000, 97) if unicodedata.category(chr(code)) in ("Co", "Cn")]
    characters = (assigned + unassigned)[::3]
    for at in range(0, len(characters), 20_000):
        texts = [f"if {c}x {c} 1{c}2 {c}{c}!" for c in characters[at:at + 20_000]]
        ids, counts = fast.encode_flat(texts, first=False)
        expected = fast.reference.encode_texts(texts, first=False)
        found = np.split(ids, np.cumsum(counts)[:-1])
        assert [c for c, ours, theirs in zip(characters[at:], found, expected, strict=False) if ours.tolist() != theirs] == []


@needs_data
@pytest.mark.parametrize("folder", [STARCODER, LLAMA], ids=["starcoder", "llama"])
def test_real_rows_have_the_ids_of_the_reference(folder):
    fast = accelerate(reader.load(folder))
    texts = [text for line in SFT_ROWS.read_text(encoding="utf-8").splitlines() for text in json.loads(line).values()]
    assert first_difference(fast, texts) == ""


def test_strings_of_special_and_added_tokens_in_text_are_treated_as_the_reference_does(tmp_path):
    fast = accelerate(make_tokenizer(tmp_path, PRE_TOKENIZERS["gpt2"], added=["=>>", "foo"]))
    texts = ["a <|end|> b", "x =>> y", "foofood", "=>", "plain", "fo=>>o ½"]
    assert first_difference(fast, texts) == ""
    assert fast.reference.literals == ["=>>", "foo"]
    assert fast.encode_text("food", first=True)[0] == fast.vocabulary - 1  # the added token, the last of them


def test_bytes_that_the_vocabulary_lacks_are_left_out_as_by_the_reference(tmp_path):
    lacking = ("\u00ce", "\u00cf")  # of bytes 0xce and 0xcf, with which Greek letters begin
    fast = accelerate(make_tokenizer(tmp_path, PRE_TOKENIZERS["starcoder"], lacking=lacking))
    assert not set(lacking) & set(fast.reference.specification(first=True)["model"]["vocab"])
    texts = [chr(code) for code in range(0x20, 0x3000)] + ["αβγ 1ω2", "a\u03b1b"]
    assert first_difference(fast, texts) == ""


@pytest.mark.parametrize("name", ["whitespace", "unigram", "digits together"])
def test_a_tokenizer_that_gigatoken_does_not_do_is_left_to_the_reference(tmp_path, name):
    if name == "unigram":
        whole = tokenizers.Tokenizer(models.Unigram([("a", -1.0), ("b", -2.0), ("<|end|>", 0.0)]))
        whole.save(str(tmp_path / "tokenizer.json"))
        (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<|end|>"}')
        reference = reader.load(tmp_path)
    else:
        steps = {"whitespace": pre_tokenizers.Whitespace(), "digits together": pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=False), pre_tokenizers.ByteLevel(add_prefix_space=False)])}
        reference = make_tokenizer(tmp_path, steps[name])
    with pytest.raises(UnsupportedError, match="gigatoken|BPE"):
        accelerate(reference)


def test_a_sentencepiece_model_that_is_no_plain_bpe_is_left_to_the_reference(tmp_path):
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(CORPUS * 10), model_prefix=str(tmp_path / "unigram"),
                                             vocab_size=60, model_type="unigram", hard_vocab_limit=False, minloglevel=2)
    with pytest.raises(UnsupportedError, match="no SentencePiece BPE without normalization"):
        accelerate(reader.load(tmp_path / "unigram.model"))


def test_an_encoder_that_differs_is_noticed(tmp_path, monkeypatch):
    reference = make_tokenizer(tmp_path, PRE_TOKENIZERS["starcoder"])
    specify = tokenizer_fast._specification

    def without_a_merge(*arguments):
        whole = specify(*arguments)
        return whole | {"model": whole["model"] | {"merges": whole["model"]["merges"][1:]}}

    monkeypatch.setattr(tokenizer_fast, "_specification", without_a_merge)
    with pytest.raises(UnsupportedError, match="gives other ids for"):
        accelerate(reference)


def test_the_cache_is_given_back_and_ids_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizer_fast, "GROWTH_BYTES", -1)
    fast = accelerate(make_tokenizer(tmp_path, PRE_TOKENIZERS["starcoder"]))
    before = fast.encode_texts(CORPUS, first=True)
    backend = fast._encoders[True]._backend
    fast.forget()
    assert fast._encoders[True]._backend is not backend
    assert fast.encode_texts(CORPUS, first=True) == before
    assert isinstance(fast, FastTokenizer)


def test_a_forked_process_watches_its_own_memory(tmp_path):
    fast = accelerate(make_tokenizer(tmp_path, PRE_TOKENIZERS["starcoder"]))
    child = os.fork()
    if child == 0:
        backend = fast._encoders[True]._backend
        taken = np.ones(2 * tokenizer_fast.GROWTH_BYTES, dtype=np.uint8)
        fast.forget()
        os._exit(int(fast._encoders[True]._backend is backend or not taken.all()))
    assert os.waitpid(child, 0)[1] == 0
