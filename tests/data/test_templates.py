"""A prompt is worded once: what a model is asked is what it was trained on."""

import pytest

from megatron_ft.data import templates
from megatron_ft.data.example import Example, Segment, Special
from megatron_ft.errors import ConfigError

NAMES = list(templates.TEMPLATES)


def test_octocoder_words_training_text_as_octopack_does():
    text = "".join(s.text for s in templates.get("octocoder").segments(Example.pair("Is 7 prime?", "Yes.")))
    assert text == "Question: Is 7 prime?\n\nAnswer: Yes."


def test_octocoder_evaluation_prompt_is_humanevalpacks():
    base = "def add(a, b):\n    '''Sum.'''\n"
    prompt = templates.get("octocoder").prompt("Write add.", answer_start=base)
    assert prompt == f"Question: Write add.\n\nAnswer:\n{base}".strip()


def test_a_code_answer_trains_the_very_text_that_evaluation_prompts_with():
    base, body = "def add(a, b):\n    '''Sum.'''\n", "    return a + b\n"
    octocoder = templates.get("octocoder")
    trained = "".join(s.text for s in octocoder.segments(Example.pair("Write add.", "\n" + base + body)))
    assert trained.startswith(octocoder.prompt("Write add.", answer_start=base))


@pytest.mark.parametrize("inputs", ["ask", " ask \n\n", "{inputs} and {0}", "\n\ndef f():\n"])
@pytest.mark.parametrize("name", NAMES)
def test_first_training_segment_is_the_prompt(name, inputs):
    template = templates.get(name)
    prompt, answer = template.segments(Example.pair(inputs, "outputs \n"))
    assert (prompt.text, prompt.supervised) == (template.prompt(inputs), False)
    assert answer.supervised
    assert answer.text.endswith("outputs \n")


@pytest.mark.parametrize("name", ["instruct", "plain", "continue"])
def test_other_prompts_are_humanevalpacks(name):
    expected = {"instruct": "Write f.\n\ndef f():", "plain": "def f():", "continue": "def f():"}
    assert templates.get(name).prompt("Write f.", answer_start="def f():\n") == expected[name]


def test_special_tokens_stay_apart_from_text():
    segment = Segment((Special("<commit_msg>"), "say <commit_msg>"), supervised=False)
    assert segment.parts == (Special("<commit_msg>"), "say <commit_msg>")


def test_unknown_template_names_the_known_ones():
    with pytest.raises(ConfigError, match="'octocode' is unknown; use one of octocoder, instruct"):
        templates.get("octocode")
