"""Ids are the model's own: those of transformers for a prompt, those of SentencePiece for its models."""

import json
import shutil

import pytest
import sentencepiece
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from megatron_ft.data import tokenizer as reader
from megatron_ft.data.tokenizer_sentencepiece import write_hugging_face
from megatron_ft.errors import DataError
from tests.data.shared import LLAMA, SFT_ROWS, STARCODER, needs_data

CORPUS = ["def add(a, b):\n    return a + b\n", "Question: what is it?\n\nAnswer: it is <tag> that\n"] * 20
TEXTS = ["x = 12345  + y", " leading", "\n    return x", "a  b   c", "é\t漢字 😀\u2028", "</s><tag><|end|>", "\r\n"]
CODE = st.text(alphabet=st.sampled_from(" \n\tabz019_()é漢<|/s>"), max_size=40)


@pytest.fixture(scope="module")
def bytes_folder(tmp_path_factory):
    """A small byte-level BPE with special tokens, as StarCoder's."""
    folder = tmp_path_factory.mktemp("bytes")
    model = tokenizers.ByteLevelBPETokenizer()
    model.train_from_iterator(CORPUS, vocab_size=320, special_tokens=["<|end|>", "<tag>"])
    model.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>", "bos_token": "<|end|>"}))
    return folder


@pytest.fixture(scope="module")
def pieces_folder(tmp_path_factory):
    """A small SentencePiece BPE with byte fallback, as LLaMA's, and two user-defined symbols."""
    folder = tmp_path_factory.mktemp("pieces")
    (folder / "corpus.txt").write_text("".join(CORPUS))
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "corpus.txt"), model_prefix=str(folder / "tokenizer"), vocab_size=320, model_type="bpe",
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
        user_defined_symbols=["<tag>", "\u2581\u2581"], minloglevel=2)
    return folder


@pytest.fixture(scope="module", params=["bytes_folder", "pieces_folder"])
def any_folder(request):
    return request.getfixturevalue(request.param)


def test_prompt_then_answer_decode_to_their_text(any_folder):
    ours = reader.load(any_folder)
    for prompt in TEXTS:
        for answer in TEXTS:
            ids = ours.encode_text("Ask" + prompt, first=True) + ours.encode_text(answer, first=False)
            assert ours.decode(ids) == "Ask" + prompt + answer


def test_a_special_tokens_string_in_text_stays_text(any_folder):
    ours = reader.load(any_folder)
    specials = {ours.special("<tag>"), ours.end_of_text}
    for first in (True, False):
        ids = ours.encode_text("a <tag> b </s> <|end|> c", first=first)
        assert not specials & set(ids)
        assert ours.decode(ids).endswith("a <tag> b </s> <|end|> c")


def test_user_defined_whitespace_remains_a_symbol_of_text(pieces_folder):
    ours = reader.load(pieces_folder)
    whole = sentencepiece.SentencePieceProcessor(model_file=str(pieces_folder / "tokenizer.model"))
    assert whole.piece_to_id("\u2581\u2581") in ours.encode_text("a  b", first=True)


def test_only_the_first_text_gets_the_dummy_prefix(pieces_folder):
    ours = reader.load(pieces_folder)
    first, later = (ours.encode_text("return", first=first) for first in (True, False))
    assert first != later
    assert ours.decode(first + later) == "returnreturn"


def test_a_file_a_folder_and_a_model_path_are_the_same_tokenizer(any_folder):
    file = next(path for path in any_folder.iterdir() if path.name in ("tokenizer.json", "tokenizer.model"))
    by_folder, by_file = reader.load(any_folder), reader.load(file)
    assert by_folder.fingerprint == by_file.fingerprint
    assert by_folder.encode_texts(TEXTS, first=True) == by_file.encode_texts(TEXTS, first=True)


def test_truncation_and_padding_in_the_file_are_ignored(bytes_folder, tmp_path):
    whole = tokenizers.Tokenizer.from_file(str(bytes_folder / "tokenizer.json"))
    whole.enable_truncation(3)
    whole.enable_padding(length=50)
    whole.save(str(tmp_path / "tokenizer.json"))
    shutil.copy(bytes_folder / "tokenizer_config.json", tmp_path)
    ours, plain = reader.load(tmp_path), reader.load(bytes_folder)
    assert ours.encode_text("a b c d e f g", first=True) == plain.encode_text("a b c d e f g", first=True)
    assert ours.fingerprint == plain.fingerprint


def test_the_fingerprint_changes_with_the_end_of_text(bytes_folder, tmp_path):
    shutil.copy(bytes_folder / "tokenizer.json", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<tag>"}')
    assert reader.load(tmp_path).fingerprint != reader.load(bytes_folder).fingerprint


@pytest.mark.parametrize("settings_change", [{}, {"add_bos_token": True}, {"add_bos_token": False},
                                             {"add_eos_token": True}, {"tokenizer_class": "LlamaTokenizer"},
                                             {"eos_token": {"__type": "AddedToken", "content": "<|end|>"}}])
@pytest.mark.parametrize("has_template", [False, True])
def test_begin_is_what_transformers_puts_in_front(bytes_folder, tmp_path, settings_change, has_template):
    whole = tokenizers.Tokenizer.from_file(str(bytes_folder / "tokenizer.json"))
    if has_template:
        whole.post_processor = tokenizers.processors.TemplateProcessing(
            single="<tag> $A", pair="<tag> $A $B", special_tokens=[("<tag>", 1)])
    whole.save(str(tmp_path / "tokenizer.json"))
    config = json.loads((bytes_folder / "tokenizer_config.json").read_text()) | settings_change
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    ours, theirs = reader.load(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert ours.begin + ours.encode_text("Ask me.", first=True) == theirs("Ask me.").input_ids


@pytest.mark.parametrize("pre_tokenizer", ["first", "always"])
def test_metaspace_tokenizers_put_no_space_before_an_answer(tmp_path, pre_tokenizer):
    whole = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>", byte_fallback=True))
    whole.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme=pre_tokenizer, split=False)
    whole.decoder = tokenizers.decoders.Metaspace(prepend_scheme=pre_tokenizer)
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=100, special_tokens=["<unk>", "</s>"])
    whole.train_from_iterator(CORPUS, trainer)
    whole.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>"}))
    ours = reader.load(tmp_path)
    ids = ours.encode_text("Answer:", first=True) + ours.encode_text("it is", first=False)
    assert ours.decode(ids) == "Answer:it is"


def test_a_json_without_end_of_text_says_what_to_do(bytes_folder, tmp_path):
    shutil.copy(bytes_folder / "tokenizer.json", tmp_path)
    with pytest.raises(DataError, match=r'names no end-of-text token, .* set "eos_token" in the tokenizer_config.json'):
        reader.load(tmp_path)


def test_an_end_of_text_that_is_not_there_is_refused(bytes_folder, tmp_path):
    shutil.copy(bytes_folder / "tokenizer.json", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    with pytest.raises(DataError, match="names '</s>' as end-of-text, which is not in it"):
        reader.load(tmp_path)


def test_a_sentencepiece_model_without_end_of_text_is_refused(tmp_path):
    (tmp_path / "corpus.txt").write_text("".join(CORPUS))
    sentencepiece.SentencePieceTrainer.train(input=str(tmp_path / "corpus.txt"), vocab_size=60, model_type="bpe",
                                             model_prefix=str(tmp_path / "m"), eos_id=-1, minloglevel=2)
    with pytest.raises(DataError, match="m.model: names no end-of-text token"):
        reader.load(tmp_path / "m.model")


def test_files_that_are_no_tokenizer_are_refused(tmp_path):
    with pytest.raises(DataError, match="is no tokenizer; name a tokenizer.json"):
        reader.load(tmp_path)
    for name, message in (("a.json", "is no tokenizer.json that"), ("a.model", "is no SentencePiece model")):
        (tmp_path / name).write_text("not one")
        with pytest.raises(DataError, match=message):
            reader.load(tmp_path / name)


def test_an_unknown_special_token_is_refused(any_folder):
    with pytest.raises(DataError, match="has no special token '<nope>'; it has .*<tag>"):
        reader.load(any_folder).special("<nope>")


def test_a_model_without_an_equal_tokenizer_json_is_refused(tmp_path):
    (tmp_path / "corpus.txt").write_text("".join(CORPUS))
    sentencepiece.SentencePieceTrainer.train(input=str(tmp_path / "corpus.txt"), vocab_size=30, model_type="unigram",
                                             model_prefix=str(tmp_path / "m"), minloglevel=2)
    with pytest.raises(DataError, match="only BPE models with identity normalization"):
        write_hugging_face(tmp_path / "m.model", tmp_path / "hf")


def real_texts() -> list[str]:
    return [text for line in SFT_ROWS.read_text(encoding="utf-8").splitlines() for text in json.loads(line).values()]


@needs_data
def test_starcoder_ids_are_those_of_transformers():
    ours, theirs = reader.load(STARCODER), AutoTokenizer.from_pretrained(STARCODER)
    assert (ours.vocabulary, ours.end_of_text, ours.begin) == (49152, 0, [])
    texts = [text for text in real_texts()[:400] if "<" not in text]  # transformers takes special tokens from text
    assert len(texts) > 100
    assert ours.encode_texts(texts, first=True) == theirs(texts).input_ids


@needs_data
def test_llama_ids_are_sentencepieces_and_so_is_the_exported_folder(tmp_path):
    write_hugging_face(LLAMA / "tokenizer.model", tmp_path)
    whole = sentencepiece.SentencePieceProcessor(model_file=str(LLAMA / "tokenizer.model"))
    ours, exported, theirs = reader.load(LLAMA), reader.load(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert (ours.vocabulary, ours.end_of_text, ours.begin) == (32000, 2, [1])
    assert (exported.vocabulary, exported.end_of_text, exported.begin) == (32000, 2, [1])
    texts = [text for text in real_texts()[:400] + real_texts()[-100:] if "<s>" not in text and "</s>" not in text]
    expected = whole.encode(texts)
    assert ours.encode_texts(texts, first=True) == expected
    assert exported.encode_texts(texts, first=True) == expected
    assert theirs(texts).input_ids == [[1, *ids] for ids in expected]
    assert exported.encode_texts(texts, first=False) == ours.encode_texts(texts, first=False)


@needs_data
@settings(deadline=None, max_examples=300)
@given(prompt=CODE, answer=CODE)
def test_llama_in_both_forms_agrees_on_any_code(llama_forms, prompt, answer):
    by_model, by_json = llama_forms
    for text, first in ((prompt, True), (answer, False)):
        assert by_model.encode_text(text, first=first) == by_json.encode_text(text, first=first)
    ids = by_model.encode_text("x" + prompt, first=True) + by_model.encode_text(answer, first=False)
    assert by_model.decode(ids) == by_json.decode(ids) == "x" + prompt + answer


@pytest.fixture(scope="module")
def llama_forms(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    write_hugging_face(LLAMA / "tokenizer.model", folder)
    return reader.load(LLAMA), reader.load(folder)
