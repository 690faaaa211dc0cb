"""A prompt's ids are those that the model's training documents begin with, whatever the template and the tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from megatron_ft.data import templates
from megatron_ft.data import tokenizer as data_tokenizer
from megatron_ft.data.example import Example, Mark, Segment, Special
from megatron_ft.data.render import render
from megatron_ft.data.tokenizer_sentencepiece import write_hugging_face
from megatron_ft.errors import DataError, EvaluationError
from megatron_ft.evaluation.encoding import PromptEncoder
from tests.data.shared import LLAMA, STARCODER, needs_data
from tests.data.small_tokenizers import (
    CHATML_TOKENS,
    COMMIT_TOKENS,
    LLAMA3_TOKENS,
    bytes_tokenizer,
    sentencepiece_tokenizer,
)

NAMES = list(templates.TEMPLATES)
ASKED = [("Add 1 to x.", ""), ("Fix f.", "def f(x):\n    return  x\n"), ("  é <|im_end|> </s> <commit_msg>", "<s>[INST]")]


def bytes_folder(folder: Path) -> tuple[data_tokenizer.Tokenizer, Path]:
    bytes_tokenizer(folder, [*CHATML_TOKENS, *LLAMA3_TOKENS, *COMMIT_TOKENS], begin="<|begin_of_text|>")
    return data_tokenizer.load(folder), folder


def sentencepiece_folder(folder: Path) -> tuple[data_tokenizer.Tokenizer, Path]:
    model = sentencepiece_tokenizer(folder / "model", [*CHATML_TOKENS, *LLAMA3_TOKENS, *COMMIT_TOKENS])
    write_hugging_face(model, folder / "hf")
    return data_tokenizer.load(model), folder / "hf"


def starcoder_folder(folder: Path) -> tuple[data_tokenizer.Tokenizer, Path]:
    return data_tokenizer.load(STARCODER), STARCODER


def llama_folder(folder: Path) -> tuple[data_tokenizer.Tokenizer, Path]:
    write_hugging_face(LLAMA / "tokenizer.model", folder)
    return data_tokenizer.load(LLAMA), folder


FOLDERS = [bytes_folder, sentencepiece_folder, pytest.param(starcoder_folder, marks=needs_data),
           pytest.param(llama_folder, marks=needs_data)]


@pytest.mark.parametrize("make", FOLDERS)
def test_a_prompt_has_the_ids_that_a_training_document_begins_with(make, tmp_path):
    ours, folder = make(tmp_path)
    encoder = PromptEncoder(AutoTokenizer.from_pretrained(folder))
    tried = 0
    for name in NAMES:
        template = templates.get(name)
        try:
            template.check(ours)
        except DataError:
            continue
        tried += 1
        for instruction, context in ASKED:
            (document,) = render([Example.pair(instruction, "say", context=context)], template, ours)
            fed = encoder.encode(template.prompt(instruction, context=context))
            assert document.ids[:document.lengths[0]].tolist() == fed, name
            assert ours.end_of_text not in fed
    assert tried >= 6


@pytest.mark.parametrize(("make", "name"), [
    *[(bytes_folder, name) for name in ("commit", "chatml", "llama2", "llama3")],
    pytest.param(starcoder_folder, "commit", marks=needs_data), pytest.param(llama_folder, "llama2", marks=needs_data)])
def test_the_beginning_of_an_answer_has_its_ids_too(make, name, tmp_path):
    ours, folder = make(tmp_path)
    template, start = templates.get(name), "def f(x):"
    (document,) = render([Example.pair("Write f.", start + "\n    return x")], template, ours)
    fed = PromptEncoder(AutoTokenizer.from_pretrained(folder)).encode(template.prompt("Write f.", answer_start=start + "\n"))
    assert document.ids[:len(fed)].tolist() == fed


def test_marks_are_the_tokenizers_own_ids(tmp_path):
    ours, folder = bytes_folder(tmp_path)
    encoder = PromptEncoder(AutoTokenizer.from_pretrained(folder))
    begin = ours.special("<|begin_of_text|>")
    segment = Segment((Mark.END, Mark.BEGIN, Special("<|eot_id|>")), supervised=False)
    assert encoder.encode(segment) == [begin, ours.end_of_text, begin, ours.special("<|eot_id|>")]


def test_a_special_token_that_the_model_lacks_is_named(tmp_path):
    bytes_tokenizer(tmp_path, ["<|im_start|>"])
    encoder = PromptEncoder(AutoTokenizer.from_pretrained(tmp_path))
    with pytest.raises(EvaluationError, match=r"--prompt-style: the prompt has the special token <\|im_end\|>, which the "
                       r"tokenizer of the model lacks; it has .*<\|im_start\|>; use the style"):
        encoder.encode(templates.get("chatml").prompt("Hi"))


def test_a_tokenizer_without_tokenizer_json_takes_prompts_of_text_only(tmp_path):
    encoder = PromptEncoder(AutoTokenizer.from_pretrained(bytes_tokenizer(tmp_path, CHATML_TOKENS)))

    class Slow:
        def __call__(self, text, **options):
            return {"input_ids": [ord(letter) for letter in text]}

    encoder._tokenizer = Slow()
    assert encoder.encode(Segment(("ab",), supervised=False)) == [97, 98]
    with pytest.raises(EvaluationError, match="needs the tokenizer.json of the model, and Slow has none; use a style of text"):
        encoder.encode(templates.get("chatml").prompt("Hi"))
