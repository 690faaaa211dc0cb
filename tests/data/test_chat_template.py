"""The tokenizer's own chat template: transformers' ids, a mask per turn, and data that stays text."""

import json
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from megatron_ft.data import chat_template, templates
from megatron_ft.data import tokenizer as reader
from megatron_ft.data.example import Example, RowError, Turn
from megatron_ft.data.render import render
from megatron_ft.errors import ConfigError
from megatron_ft.evaluation.encoding import PromptEncoder
from tests.data.small_tokenizers import CHATML_TOKENS, LLAMA3_TOKENS, bytes_tokenizer, sentencepiece_tokenizer

SOURCES = Path(__file__).parent / "chat_templates"  # the published ones, on one line each
CHATML, LLAMA2, LLAMA3, MARKED, ZEPHYR = ((SOURCES / f"{name}.jinja").read_text(encoding="utf-8")
                                          for name in ("chatml", "llama2", "llama3", "marked", "zephyr"))
MARKED_WITHOUT_END = MARKED.replace("{{ message['content'] + '<|im_end|>' }}{% endgeneration %}",
                                    "{{ message['content'] }}{% endgeneration %}{{ '<|im_end|>' }}")

KINDS = {
    "chatml": (CHATML, {"specials": CHATML_TOKENS}, "<|im_end|>"),
    "chatml that ends with it": (CHATML, {"specials": CHATML_TOKENS, "end": "<|im_end|>"}, "<|im_end|>"),
    "marked": (MARKED, {"specials": CHATML_TOKENS}, "<|im_end|>"),
    "marked without end": (MARKED_WITHOUT_END, {"specials": CHATML_TOKENS}, "<|im_end|>"),
    "llama3": (LLAMA3, {"specials": LLAMA3_TOKENS, "begin": "<|begin_of_text|>"}, "<|eot_id|>"),
    "zephyr": (ZEPHYR, {"specials": ["<unk>"], "end": "</s>"}, "</s>"),
}
TURNS = [Turn("user", "What is 1 + 1?"), Turn("assistant", "2"), Turn("user", "And  é?\n\nSay."), Turn("assistant", "A:\n  b"),
         Turn("user", "x"), Turn("assistant", "It is <|im_start|> and <|eot_id|></s>.")]
SYSTEM = Turn("system", "Be brief.")
EXAMPLES = [Example((*start, *TURNS[:2 * exchanges])) for exchanges in (1, 2, 3) for start in ((), (SYSTEM,))]


def make(folder, kind):
    source, options, _ = KINDS[kind]
    bytes_tokenizer(folder, chat_template=source, **options)
    return templates.get("chat", tokenizer_path=folder), reader.load(folder), AutoTokenizer.from_pretrained(folder)


def messages(example):
    return [{"role": turn.role, "content": turn.text} for turn in example.turns]


def their_ids(theirs, example, **options):
    return theirs.apply_chat_template(messages(example), tokenize=True, return_dict=True, **options)["input_ids"]


def runs(document):
    """The supervised stretches of a document, as ids."""
    ends = np.cumsum(document.lengths)
    stretches = zip(ends - document.lengths, ends, document.modes, strict=True)
    return [document.ids[start:end].tolist() for start, end, mode in stretches if mode == 1]


@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_transformers_and_the_mask_is_the_answers(kind, tmp_path):
    template, ours, theirs = make(tmp_path, kind)
    end = KINDS[kind][2]
    for example in EXAMPLES:
        (document,) = render([example], template, ours)
        ids = document.ids.tolist()
        if len(example.turns) < 6:  # the last row has strings of special tokens, which transformers takes for tokens
            whole = their_ids(theirs, example)
            if ours.end_of_text != ours.special(end):
                assert ids.pop() == ours.end_of_text
            assert ids + ours.encode_text("\n" * (kind != "llama3"), first=False) == whole
        texts = [turn.text + end for turn in example.turns if turn.role == "assistant"]
        decoded = [ours.decode(run) for run in runs(document)]
        decoded[-1] = decoded[-1].removesuffix(ours.decode([ours.end_of_text])) if end != ours.decode([ours.end_of_text]) \
            else decoded[-1]
        assert [text.removeprefix("\n") for text in decoded] == texts
        assert document.ids[-1] == ours.end_of_text
        assert runs(document)[-1].count(ours.end_of_text) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_is_transformers_generation_prompt_and_the_first_segment(kind, tmp_path):
    template, ours, theirs = make(tmp_path, kind)
    for example in (EXAMPLES[0], Example((Turn("user", "say <|im_end|> </s>"), Turn("assistant", "no")))):
        prompt = template.prompt(example.turns[0].text)
        assert template.segments(example)[0] == prompt
        (document,) = render([example], template, ours)
        fed = PromptEncoder(theirs).encode(prompt)
        assert document.ids[:document.lengths[0]].tolist() == fed
        if example is EXAMPLES[0]:
            assert fed == their_ids(theirs, Example(example.turns[:1]), add_generation_prompt=True)
    assert template.prompt("Fix.", context="x = 1", answer_start="x = 2\n").parts[-1] == "x = 2"


def test_transformers_own_mask_of_a_template_with_generation_blocks_is_ours(tmp_path):
    template, ours, theirs = make(tmp_path, "marked")
    for example in EXAMPLES[:4]:
        (document,) = render([example], template, ours)
        found = theirs.apply_chat_template(messages(example), return_dict=True, return_assistant_tokens_mask=True)
        is_answer = np.repeat(document.modes == 1, document.lengths)[:-1].astype(int).tolist()
        assert found["assistant_masks"] == [*is_answer, 0]  # the last line break is theirs alone


def test_strings_of_special_tokens_in_data_stay_text_whatever_the_template_strips(tmp_path):
    template, ours, _ = make(tmp_path, "llama3")
    text = " <|eot_id|>\ue000<|start_header_id|> \n"
    (document,) = render([Example.pair(text, text)], template, ours)
    counts = {token: document.ids.tolist().count(ours.special(token)) for token in LLAMA3_TOKENS}
    assert list(counts.values()) == [1, 2, 2, 2]
    (answer,) = runs(document)
    assert ours.decode(answer) == text.strip() + "<|eot_id|><|endoftext|>"


@pytest.mark.parametrize(("name", "source", "options"), [
    ("chatml", CHATML, {"specials": CHATML_TOKENS}),
    ("llama3", LLAMA3, {"specials": LLAMA3_TOKENS, "begin": "<|begin_of_text|>"}),
    ("llama2", LLAMA2, {"begin": "<s>", "end": "</s>"})])
def test_our_wording_of_a_published_template_is_its_own(name, source, options, tmp_path):
    bytes_tokenizer(tmp_path, chat_template=source, **options)
    ours, own = reader.load(tmp_path), templates.get("chat", tokenizer_path=tmp_path)
    for example in EXAMPLES[:4]:
        (document,), (of_jinja,) = (render([example], template, ours) for template in (templates.get(name), own))
        assert document.ids.tolist() == of_jinja.ids.tolist()
        assert document.lengths.tolist() == of_jinja.lengths.tolist()
        text = AutoTokenizer.from_pretrained(tmp_path).apply_chat_template(messages(example), tokenize=False)
        assert ours.decode(document.ids.tolist()).removesuffix("<|endoftext|>") == text.rstrip("\n")


def test_a_sentencepiece_folder_has_a_chat_template_too(tmp_path):
    model = sentencepiece_tokenizer(tmp_path, CHATML_TOKENS)
    (tmp_path / "chat_template.jinja").write_text(CHATML)
    template, ours = templates.get("chat", tokenizer_path=model), reader.load(model)
    (document,) = render([Example.pair("say <|im_end|>", "no")], template, ours)
    assert document.ids[0] == ours.begin[0]
    assert [document.ids.tolist().count(ours.special(token)) for token in CHATML_TOKENS] == [2, 2]
    assert [ours.decode(run[:-2]) for run in runs(document)] == ["no"]


def test_a_special_token_that_takes_white_space_takes_it(tmp_path):
    bytes_tokenizer(tmp_path, CHATML_TOKENS, chat_template=CHATML)
    whole = json.loads((tmp_path / "tokenizer.json").read_text())
    for token in whole["added_tokens"]:
        token["rstrip"] = token["content"] == "<|im_end|>"
    (tmp_path / "tokenizer.json").write_text(json.dumps(whole))
    template, ours = templates.get("chat", tokenizer_path=tmp_path), reader.load(tmp_path)
    (document,) = render([EXAMPLES[1]], template, ours)
    assert document.ids[:-1].tolist() == their_ids(AutoTokenizer.from_pretrained(tmp_path), EXAMPLES[1])


DROPS_REASONING = ("{% for message in messages %}{% if message['role'] == 'assistant' and not loop.last %}{{ '<|im_start|>' + "
                   "message['content'].split('</think>')[-1] + '<|im_end|>' }}{% else %}{{ '<|im_start|>' + "
                   "message['content'] + '<|im_end|>' }}{% endif %}{% endfor %}"
                   "{% if add_generation_prompt %}{{ '<|im_start|>' }}{% endif %}")
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + CHATML


def test_a_template_that_rewrites_turns_refuses_such_rows_only(tmp_path):
    template = templates.get("chat", tokenizer_path=bytes_tokenizer(tmp_path, CHATML_TOKENS, chat_template=DROPS_REASONING))
    reasons = [Turn("user", "a"), Turn("assistant", "why</think>b")]
    assert len(template.segments(Example((*TURNS[:2], *reasons)))) == 4
    with pytest.raises(RowError, match="^f:3: the chat template writes turn 2 otherwise once more was said .*; cut the row "
                       "to one exchange, or use a template such as chatml; drop the row") as caught:
        template.segments(Example((*reasons, *TURNS[:2]), "f:3"))
    assert caught.value.reason == "rewritten by the chat template"


def test_what_a_template_refuses_is_a_reason(tmp_path):
    template = templates.get("chat", tokenizer_path=bytes_tokenizer(tmp_path, CHATML_TOKENS, chat_template=NO_SYSTEM))
    with pytest.raises(RowError, match="^f:3: the chat template cannot write it: System role not supported; drop") as caught:
        template.segments(Example((SYSTEM, *TURNS[:2]), "f:3"))
    assert caught.value.reason == "refused by the chat template"


def test_a_row_with_every_private_character_is_refused(tmp_path):
    template, _, _ = make(tmp_path, "chatml")
    every = "".join(map(chr, chat_template.PRIVATE))
    assert len(template.segments(Example.pair(every, "a"))) == 2
    with pytest.raises(RowError, match="the row has every one of Unicode's private characters") as caught:
        template.segments(Example.pair(every, "<|im_end|>"))
    assert caught.value.reason == "all private characters"


FAULTS = {
    "thinks": ("{% for message in messages %}{{ '<|im_start|>' + message['content'] }}{% endfor %}"
               "{% if add_generation_prompt %}{{ '<|im_start|><think>' }}{% endif %}",
               r"the chat template asks for turn 2 with '<\|im_start\|>ask<\|im_start\|><think>', and the turn that it writes "
               "does not begin there; a model would be asked otherwise than trained; that is the chat template of .*: correct"),
    "no generation prompt": (CHATML.partition("{% if add")[0], r"does not open the assistant's turn where it is asked to "
                             r"\(add_generation_prompt\), it writes .* and then '<\|im_start\|>assistant"),
    "blocks elsewhere": (MARKED.replace("{% generation %}", "assistant:{% generation %}"),
                         "does not open the assistant's turn where it is asked to"),
    "unused blocks": (CHATML + "{% if false %}{% generation %}{% endgeneration %}{% endif %}",
                      "no {% generation %} block of the chat template came to be used"),
    "a tail": (MARKED + "{{ 'bye' }}", "the chat template writes '.nbye' after the last answer, where nothing teaches"),
    "no Jinja": ("{% for %}", "the chat template cannot write it: "),
    "no such variable": ("{{ sep_token + 'a' }}", "the chat template cannot write it: 'sep_token' is undefined"),
    "no default": ([{"name": "tool_use", "template": CHATML}], "has the chat templates tool_use and none that is named "
                   "default; write the one that is meant to chat_template.jinja"),
    "none": (None, "has no chat template .*; use one of octocoder, instruct, "),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_chat_template_that_cannot_train_is_refused_before_any_row(fault, tmp_path):
    source, message = FAULTS[fault]
    bytes_tokenizer(tmp_path, CHATML_TOKENS, chat_template=source)
    with pytest.raises(ConfigError, match="^template: .*" + message):
        templates.get("chat", tokenizer_path=tmp_path)


def test_chat_needs_a_tokenizer():
    with pytest.raises(ConfigError, match="'chat' is a tokenizer's own chat template, and no tokenizer is named; name one"):
        templates.get("chat")


def test_a_prompt_that_a_template_cannot_write_is_refused(tmp_path):
    source = CHATML + "{% if 'bad' in messages[0]['content'] %}{{ raise_exception('no') }}{% endif %}"
    template = templates.get("chat", tokenizer_path=bytes_tokenizer(tmp_path, CHATML_TOKENS, chat_template=source))
    with pytest.raises(ConfigError, match="chat template cannot write it: no; use another one than 'chat', such as octocoder"):
        template.prompt("bad")


def test_a_file_beside_the_tokenizer_comes_before_its_settings(tmp_path):
    bytes_tokenizer(tmp_path, CHATML_TOKENS, chat_template=[{"name": "default", "template": CHATML}])
    before = templates.get("chat", tokenizer_path=tmp_path / "tokenizer.json")
    assert before.prompt("a").text == "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"
    (tmp_path / "chat_template.jinja").write_text(CHATML.replace("<|im_end|>' + ", "<|im_end|> ' + "))
    after = templates.get("chat", tokenizer_path=tmp_path)
    assert after.prompt("a").text == "<|im_start|>user\na<|im_end|> \n<|im_start|>assistant\n"
    assert before.fingerprint != after.fingerprint == templates.get("chat", tokenizer_path=tmp_path).fingerprint


def test_a_date_is_the_same_every_day(tmp_path):
    dated = ("{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}{{ date_string }}\n"
             + CHATML)
    template = templates.get("chat", tokenizer_path=bytes_tokenizer(tmp_path, CHATML_TOKENS, chat_template=dated))
    assert template.prompt("a").text.startswith("26 Jul 2024\n<|im_start|>user")


def test_a_template_that_writes_the_days_date_is_said_to(tmp_path, capsys):
    source = "{{ strftime_now('%d %b %Y') }}\n" + CHATML
    bytes_tokenizer(tmp_path, CHATML_TOKENS, chat_template=source)
    templates.get("chat", tokenizer_path=tmp_path)
    assert "writes the day's date: documents differ from day to day" in capsys.readouterr().err
