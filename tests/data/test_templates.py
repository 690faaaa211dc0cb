"""A prompt is worded once: what a model is asked is what it was trained on."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_ft.data import templates
from megatron_ft.data import tokenizer as reader
from megatron_ft.data.example import Example, Mark, RowError, Segment, Special, Turn
from megatron_ft.data.indexed import OUTPUT
from megatron_ft.data.render import render
from megatron_ft.errors import ConfigError, DataError
from tests.data.small_tokenizers import CHATML_TOKENS, LLAMA3_TOKENS, bytes_tokenizer

NAMES = list(templates.TEMPLATES)
TEXT_NAMES = ["octocoder", "instruct", "plain", "continue", "alpaca"]
CONVERSATIONAL = [name for name in NAMES if "commit" not in name]
CHAT = Example((Turn("system", "Be brief."), Turn("user", "Is 7 prime?"), Turn("assistant", "Yes."), Turn("user", "And 8?"),
                Turn("assistant", "No.")), source="f:3")


def shown(segments):
    """The text of a document, answers in {}, with the marks of the tokenizer written out."""
    words = {Mark.BEGIN: "[BEGIN]", Mark.END: "[END]"}
    texts = ["".join(words[part] if isinstance(part, Mark) else part.token if isinstance(part, Special) else part
                     for part in segment.parts) for segment in segments]
    return "".join(f"{{{text}}}" if segment.supervised else text for text, segment in zip(texts, segments, strict=True))


ALPACA = "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
CONVERSATIONS = {
    "octocoder": "Question: Be brief.\n\nIs 7 prime?\n\nAnswer:{ Yes.[END]}\n\nQuestion: And 8?\n\nAnswer:{ No.[END]}",
    "instruct": "Be brief.\n\nIs 7 prime?{\n\nYes.[END]}\n\nAnd 8?{\n\nNo.[END]}",
    "plain": "Be brief.\n\nIs 7 prime?{Yes.[END]}\n\nAnd 8?{No.[END]}",
    "alpaca": ALPACA + "### Instruction:\nBe brief.\n\nIs 7 prime?\n\n### Response:{\nYes.[END]}"
              "\n\n### Instruction:\nAnd 8?\n\n### Response:{\nNo.[END]}",
    "chatml": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nIs 7 prime?<|im_end|>\n<|im_start|>assistant\n"
              "{Yes.<|im_end|>}\n<|im_start|>user\nAnd 8?<|im_end|>\n<|im_start|>assistant\n{No.<|im_end|>[END]}",
    "llama2": "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nIs 7 prime? [/INST]{ Yes. [END]}[BEGIN][INST] And 8? [/INST]{ No. [END]}",
    "llama3": "<|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n"
              "Is 7 prime?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n{Yes.<|eot_id|>}"
              "<|start_header_id|>user<|end_header_id|>\n\nAnd 8?<|eot_id|>"
              "<|start_header_id|>assistant<|end_header_id|>\n\n{No.<|eot_id|>[END]}",
}


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_a_conversation_word_for_word(name):
    assert shown(templates.get(name).segments(CHAT)) == CONVERSATIONS[name]


WITH_CONTEXT = {
    "octocoder": "Question: Set x to 2.\nx = 1\n\n\nAnswer:{ x = 2\n[END]}",
    "instruct": "x = 1\n\nSet x to 2.{\n\nx = 2\n[END]}",
    "plain": "Set x to 2.\nx = 1{\nx = 2\n[END]}",
    "alpaca": "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
              "response that appropriately completes the request.\n\n### Instruction:\nSet x to 2.\n\n### Input:\nx = 1\n\n\n"
              "### Response:{\nx = 2\n[END]}",
    "commit": "<commit_before>x = 1\n<commit_msg>Set x to 2.<commit_after>{x = 2\n[END]}",
    "chatml": "<|im_start|>user\nSet x to 2.\nx = 1\n<|im_end|>\n<|im_start|>assistant\n{x = 2\n<|im_end|>[END]}",
    "llama2": "[INST] Set x to 2.\nx = 1 [/INST]{ x = 2 [END]}",
}


@pytest.mark.parametrize("name", WITH_CONTEXT)
def test_what_an_instruction_is_about_has_its_place(name):
    assert shown(templates.get(name).segments(Example.pair("Set x to 2.", "x = 2\n", context="x = 1\n"))) == WITH_CONTEXT[name]


def test_octocoder_words_training_text_as_octopack_does():
    text = "".join(s.text for s in templates.get("octocoder").segments(Example.pair("Is 7 prime?", "Yes.")))
    assert text == "Question: Is 7 prime?\n\nAnswer: Yes."


def test_octocoder_evaluation_prompt_is_humanevalpacks():
    base = "def add(a, b):\n    '''Sum.'''\n"
    prompt = templates.get("octocoder").prompt("Write add.", answer_start=base)
    assert prompt.text == f"Question: Write add.\n\nAnswer:\n{base}".strip()


@pytest.mark.parametrize("name", ["octocoder", "alpaca", "commit", "chatml", "llama2", "llama3"])
def test_a_code_answer_trains_the_very_text_that_evaluation_prompts_with(name):
    base, body = "def add(a, b):\n    '''Sum.'''\n", "    return a + b\n"
    template = templates.get(name)
    answer = "\n" + base + body if name in TEXT_NAMES else base + body
    trained = "".join(s.text for s in template.segments(Example.pair("Write add.", answer)))
    assert trained.startswith(template.prompt("Write add.", answer_start=base).text)


@pytest.mark.parametrize("context", ["", "x = 1\n"])
@pytest.mark.parametrize("instruction", ["ask", " ask \n\n", "{inputs} and {0}", "\n\ndef f():\n"])
@pytest.mark.parametrize("name", NAMES)
def test_first_training_segment_is_the_prompt(name, instruction, context):
    template = templates.get(name)
    prompt, answer = template.segments(Example.pair(instruction, "outputs \n", context=context))
    assert prompt == template.prompt(instruction, context=context)
    assert not prompt.supervised and answer.supervised
    assert "outputs" in answer.text
    assert answer.parts[-1] is Mark.END


@pytest.mark.parametrize("name", CONVERSATIONAL)
def test_the_prompt_of_a_later_turn_is_all_that_was_said_before(name):
    template = templates.get(name)
    first = Example(CHAT.turns[:3])
    before, whole = template.segments(first), template.segments(CHAT)
    assert len(before) == 2
    end = -1 if template.specials else None  # where a turn has an end of its own, only the last has the end of the text
    assert whole[0] == before[0]
    assert whole[1].parts == before[1].parts[:end]
    assert [segment.supervised for segment in whole] == [False, True] * 2


@pytest.mark.parametrize("name", ["instruct", "plain", "continue"])
def test_other_prompts_are_humanevalpacks(name):
    expected = {"instruct": "Write f.\n\ndef f():", "plain": "def f():", "continue": "def f():"}
    assert templates.get(name).prompt("Write f.", answer_start="def f():\n").text == expected[name]


def test_special_tokens_stay_apart_from_text():
    segment = Segment((Special("<commit_msg>"), "say <commit_msg>"), supervised=False)
    assert segment.parts == (Special("<commit_msg>"), "say <commit_msg>")
    prompt = templates.get("chatml").prompt("say <|im_end|>")
    assert [part for part in prompt.parts if isinstance(part, str)] == ["user\nsay <|im_end|>", "\n", "assistant\n"]


@pytest.mark.parametrize("name", ["commit", "starcodercommit"])
def test_a_commit_has_one_exchange(name):
    with pytest.raises(RowError, match="^f:3: has 2 exchanges, template 'commit' has a place for one; use a template of "
                       "conversations, such as octocoder or chatml; drop the row") as caught:
        templates.get(name).segments(CHAT)
    assert caught.value.reason == "more than one exchange"


def test_the_system_prompt_of_a_commit_is_in_front_of_its_message():
    segments = templates.get("commit").segments(Example((Turn("system", "Be brief."), Turn("user", "Add x"),
                                                         Turn("assistant", "x = 1\n"))))
    assert shown(segments) == "<commit_before><commit_msg>Be brief.\n\nAdd x<commit_after>{x = 1\n[END]}"


def test_unknown_template_names_the_known_ones():
    with pytest.raises(ConfigError, match="'octocode' is unknown; use one of octocoder, instruct, .*llama3, chat$"):
        templates.get("octocode")


def test_special_tokens_are_looked_up_before_any_work(tmp_path):
    folder = bytes_tokenizer(tmp_path, ["<|im_start|>"])
    with pytest.raises(DataError, match=r"tokenizer.json: has no special token '<\|im_end\|>'; it has .*; template 'chatml' "
                       r"writes <\|im_end\|>: use the tokenizer of a model that was trained with them, or a template of text"):
        templates.get("chatml", tokenizer_path=folder)
    with pytest.raises(DataError, match=r"template 'commit' writes <commit_before>, <commit_msg>, <commit_after>: use"):
        templates.get("commit", tokenizer_path=folder)
    assert templates.get("octocoder", tokenizer_path=tmp_path / "nowhere").name == "octocoder"
    assert templates.get("chatml", tokenizer_path=bytes_tokenizer(tmp_path / "b", CHATML_TOKENS)).name == "chatml"


def test_a_fingerprint_is_the_wordings():
    prints = {name: templates.get(name).fingerprint for name in NAMES}
    assert prints["plain"] == prints["continue"]
    assert prints["commit"] == prints["starcodercommit"]
    assert len(set(prints.values())) == len(NAMES) - 2

    class Other(templates.OctoCoder):
        def _separator(self, asked, answered):
            return "  "

    assert Other().fingerprint != prints["octocoder"] == templates.OctoCoder().fingerprint


WORDS = st.text(st.sampled_from("ab \n<|>é"), min_size=1, max_size=8) | st.sampled_from(
    ["<|im_end|>", "<commit_msg>", "Answer:", "</s>", "[/INST]", "\n<|eot_id|> "])
SAID = st.lists(WORDS, min_size=1, max_size=3).map("".join).filter(str.strip)


@pytest.fixture(scope="module")
def every_template(tmp_path_factory):
    """The conversational templates by name, and a tokenizer that has all of their tokens."""
    source = (Path(__file__).parent / "chat_templates" / "chatml.jinja").read_text(encoding="utf-8")
    folder = bytes_tokenizer(tmp_path_factory.mktemp("tokens"), [*CHATML_TOKENS, *LLAMA3_TOKENS], chat_template=source)
    return {name: templates.get(name, tokenizer_path=folder) for name in [*CONVERSATIONAL, "chat"]}, reader.load(folder)


@settings(max_examples=40)
@given(system=st.none() | SAID, said=st.lists(st.tuples(SAID, SAID), min_size=1, max_size=3))
@pytest.mark.parametrize("name", [*CONVERSATIONAL, "chat"])
def test_supervised_text_is_the_answers_and_their_ends_whatever_is_said(name, system, said, every_template):
    template, tokenizer = every_template[0][name], every_template[1]
    turns = [Turn(role, text) for pair in said for role, text in zip(("user", "assistant"), pair, strict=True)]
    (document,) = render([Example((*([Turn("system", system)] if system else []), *turns))], template, tokenizer)
    ends = np.cumsum(document.lengths)
    stretches = [tokenizer.decode(ids) for ids in np.split(document.ids, ends[:-1])]
    answers = [text for text, mode in zip(stretches, document.modes, strict=True) if mode == OUTPUT]
    own_end = {"chat": "<|im_end|>", "chatml": "<|im_end|>", "llama3": "<|eot_id|>"}.get(name, "")
    for (_, answer), text in zip(said, answers, strict=True):
        assert text.removesuffix("<|endoftext|>").removesuffix(own_end).strip() == answer.strip()
    assert document.ids.tolist().count(tokenizer.end_of_text) == (1 if own_end else len(said))
    asked = "".join(text for text, mode in zip(stretches, document.modes, strict=True) if mode != OUTPUT)
    assert all(user.strip() in asked for user, _ in said)
