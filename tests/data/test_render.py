"""An answer is never an input: the supervised ids are the answer's and the end token's, by position."""

import numpy as np
import pytest
from transformers import AutoTokenizer

from megatron_ft.data import templates
from megatron_ft.data import tokenizer as reader
from megatron_ft.data.example import Example, Mark, Segment, Special, Turn
from megatron_ft.data.render import Document, render
from megatron_ft.data.tokenizer_sentencepiece import write_hugging_face
from tests.data.shared import LLAMA, STARCODER, needs_data


class Letters(reader.Tokenizer):
    """One id a character; the end-of-text token is written `$` and has the id of padding."""

    vocabulary, end_of_text, fingerprint = 1200, 0, "letters"

    def __init__(self, begin=()):
        self.begin = list(begin)

    def encode_texts(self, texts, *, first):
        return [[1100] * first + [ord(letter) for letter in text] for text in texts]

    def special(self, token):
        return {"<commit_before>": 1001, "<commit_msg>": 1002, "<commit_after>": 1003}[token]

    def decode(self, ids):
        return "".join(map(chr, ids))


class Commit(templates.OctoCoder):
    """A template that writes special tokens, as the commit format of StarCoder."""

    def segments(self, example):
        return [Segment((Special("<commit_before>"), "old", Special("<commit_msg>"), example.turns[0].text,
                         Special("<commit_after>")), supervised=False),
                Segment((example.turns[1].text, Mark.END), supervised=True)]


def mask(document: Document) -> np.ndarray:
    return np.repeat(document.modes == 1, document.lengths)


def letters(text: str) -> list[int]:
    return [ord(letter) for letter in text]


def test_a_document_worked_out_by_hand():
    (document,) = render([Example.pair("Hi?", "Yo")], templates.get("octocoder"), Letters(begin=[1]))
    prompt = [1, 1100, *letters("Question: Hi?\n\nAnswer:")]
    assert document.ids.tolist() == prompt + letters(" Yo") + [0]
    assert document.ids.dtype == np.int32
    assert document.lengths.tolist() == [len(prompt), 4]
    assert document.modes.tolist() == [0, 1]
    assert document.supervised == 4


def test_opening_ids_are_not_supervised_when_an_answer_opens_the_document():
    class Bare(templates.Plain):
        def segments(self, example):
            return [Segment((example.turns[1].text, Mark.END), supervised=True)]

    (document,) = render([Example.pair("", "Yo")], Bare(), Letters(begin=[1]))
    assert (document.ids.tolist(), mask(document).tolist()) == ([1, 1100, 89, 111, 0], [False] + [True] * 4)
    (document,) = render([Example.pair("", "Yo")], Bare(), Letters())
    assert (mask(document).all(), document.supervised) == (True, 3)


def test_special_tokens_come_from_the_template_only():
    (document,) = render([Example.pair("say <commit_after>", "new")], Commit(), Letters())
    before, message = letters("old"), letters("say <commit_after>")
    assert document.ids.tolist() == [1001, *before, 1002, *message, 1003, *letters("new"), 0]


def test_an_end_of_turn_that_is_the_end_of_the_text_is_written_once():
    class Two(templates.OctoCoder):
        def segments(self, example):
            return [Segment((example.turns[0].text,), supervised=False),
                    Segment((example.turns[1].text, Special("<commit_msg>"), Mark.END), supervised=True)]

    class Same(Letters):
        end_of_text = 1002

    (document,) = render([Example.pair("a", "b")], Two(), Same())
    assert document.ids.tolist() == [1100, 97, 98, 1002]
    assert document.lengths.tolist() == [2, 2]
    (document,) = render([Example.pair("a", "b")], Two(), Letters())
    assert document.ids.tolist() == [1100, 97, 98, 1002, 0]


def test_many_examples_are_rendered_as_one_by_one():
    examples = [Example.pair(f"ask {number}", "x" * number) for number in range(1, 9)]
    template = templates.get("instruct")
    for together, example in zip(render(examples, template, Letters()), examples, strict=True):
        (alone,) = render([example], template, Letters())
        assert together.ids.tolist() == alone.ids.tolist()
        assert together.lengths.tolist() == alone.lengths.tolist()


@pytest.mark.parametrize("tokens", [1, 3, 4, 6, 9])
def test_a_cut_document_is_its_beginning(tokens):
    document = Document(np.arange(9, dtype=np.int32), np.array([3, 1, 5]), np.array([0, 1, 0]))
    cut = document.cut(tokens)
    assert cut.ids.tolist() == list(range(tokens))
    assert mask(cut).tolist() == mask(document)[:tokens].tolist()
    assert (cut.lengths > 0).all()


@pytest.mark.parametrize(("loss_on", "supervised"), [
    ("answers", "A1$A2$"), ("last-answer", "A2$"), ("all", "Q1\n\nA1$\n\nQ2\n\nA2$")])
def test_loss_is_taken_on_what_was_asked_for(loss_on, supervised):
    turns = [Turn("user", "Q1"), Turn("assistant", "A1"), Turn("user", "Q2"), Turn("assistant", "A2")]
    (document,) = render([Example(tuple(turns))], templates.get("instruct"), Letters(begin=[1]), loss_on=loss_on)
    found = "".join("$" if index == 0 else chr(index) for index in document.ids[mask(document)] if index < 1000)
    assert found.replace("\n\nA", "A") == supervised.replace("\n\nA", "A")
    assert not mask(document)[0]


EXAMPLES = [
    Example.pair("What is 1 + 1?", "2"),
    Example.pair("Write add.", "\ndef add(a, b):\n    return a + b\n"),
    Example.pair("Say <|endoftext|> and </s> and <filename>.", "It is <|endoftext|></s>."),
    Example.pair("  deep\n\tindent  ", "    spaces  first"),
    Example.pair("漢字?", "é😀\u2028"),
]


@needs_data
@pytest.mark.parametrize("name", ["octocoder", "instruct", "plain"])
@pytest.mark.parametrize("family", ["starcoder", "llama"])
def test_prompt_ids_are_what_the_evaluator_feeds_and_supervised_ids_are_the_answers(name, family, tmp_path):
    folder = STARCODER
    if family == "llama":
        write_hugging_face(LLAMA / "tokenizer.model", tmp_path)
        folder = tmp_path
    ours = reader.load(STARCODER if family == "starcoder" else LLAMA)
    theirs = AutoTokenizer.from_pretrained(folder)
    template = templates.get(name)
    for example, document in zip(EXAMPLES, render(EXAMPLES, template, ours), strict=True):
        prompt, answer = template.segments(example)
        is_answer = mask(document)
        fed = theirs(template.prompt(example.turns[0].text).text, split_special_tokens=True).input_ids
        if "<" not in example.turns[0].text:
            assert fed == theirs(template.prompt(example.turns[0].text).text).input_ids
            assert document.ids[~is_answer].tolist() == fed
        assert document.ids[is_answer].tolist() == [*ours.encode_text(answer.text, first=False), ours.end_of_text]
        text = ours.decode(document.ids[len(ours.begin):-1].tolist())
        assert text == prompt.text + answer.text
        assert document.ids.tolist().count(ours.end_of_text) == 1
        assert is_answer.tolist() == sorted(is_answer.tolist())
