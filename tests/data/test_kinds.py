"""Every kind of row becomes an example; a row that fits no kind, two kinds or its own badly is a reason."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_ft.data import kinds
from megatron_ft.data.example import Example, RowError, Turn
from megatron_ft.data.kinds import KINDS, PAIRS, detect, to_example
from megatron_ft.data.rows import parse
from megatron_ft.errors import ConfigError

USER, ANSWER = {"role": "user", "content": "ask"}, {"role": "assistant", "content": "say"}
SYSTEM = {"role": "system", "content": "Be brief."}


def turns(row, kind=None):
    return [(turn.role, turn.text, turn.context) for turn in to_example(row, kind=kind, source="f:1").turns]


def chat(*messages):
    return {"messages": list(messages)}


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.is_detected])
def test_the_example_of_a_kind_is_detected_and_read_as_it(name):
    row = KINDS[name].example
    assert detect(row, "f:1") == name
    example = to_example(row, kind=None, source="f:9")
    assert (example.kind, example.source) == (name, "f:9")
    assert example == to_example(row, kind=name, source="f:9")
    assert [turn.role for turn in example.turns] == ["user", "assistant"]
    row = parse(json.dumps(row).encode(), "f:9")
    assert to_example(row, kind=None, source="f:9") == to_example(row, kind=name, source="f:9") == example


@pytest.mark.parametrize(("asked", "answered"), PAIRS)
def test_the_names_of_a_pair(asked, answered):
    assert turns({asked: "1 + 1?", "id": 3, answered: "2"}) == [("user", "1 + 1?", ""), ("assistant", "2", "")]


@pytest.mark.parametrize("given_input, context", [({"input": "1, 2"}, "1, 2"), ({"input": ""}, ""), ({"input": None}, ""),
                                                  ({"input": " \n"}, ""), ({}, "")])
def test_an_alpaca_input_is_a_context_and_may_be_missing(given_input, context):
    row = {"instruction": "Add.", "output": "3", **given_input}
    assert turns(row) == [("user", "Add.", context), ("assistant", "3", "")]


@pytest.mark.parametrize("row", [{"text": "x = 1\n"}, {"content": "x = 1\n", "path": "a.py"},
                                 {"text": "x = 1\n", "content": ""}, {"text": None, "content": "x = 1\n"}])
def test_a_bare_text_is_one_only_where_kind_says_so(row):
    assert turns(row, kind="text") == [("assistant", "x = 1\n", "")]
    with pytest.raises(RowError, match=r"the keys of another kind: .* text \(text, content, with --kind text\)"):
        detect(row, "f:1")
    assert detect({"text": "### Human: Hi### Assistant: Hello."}, "f:1") == "dialogue"


def test_a_text_that_is_none_is_a_reason():
    with pytest.raises(RowError, match="f:1: 'text' is empty"):
        to_example({"text": " \n"}, kind="text", source="f:1")
    with pytest.raises(RowError, match="has the keys 'code' where --kind text needs text, content"):
        to_example({"code": "x"}, kind="text", source="f:1")


@pytest.mark.parametrize("words", [{"subject": "Add x"}, {"subject": "Add x", "message": "Other"}, {"message": "Add x"},
                                   {"subject": "", "message": "Add x\n\nWhy."}, {"subject": None, "message": "\n Add x \n"}])
def test_a_commit_is_asked_for_by_its_subject_else_by_its_messages_first_line(words):
    row = {"commit": "0a1b", "old_contents": "", "new_contents": "x = 1\n", "lang": "Python", **words}
    assert turns(row) == [("user", "Add x", ""), ("assistant", "x = 1\n", "")]


def test_a_commit_keeps_the_file_before_as_context():
    row = {"old_contents": "x = 1\n", "new_contents": "x = 2\n", "subject": "Set x"}
    assert turns(row)[0] == ("user", "Set x", "x = 1\n")


def test_a_chat_has_any_number_of_turns_and_other_names_for_its_sides():
    plain = turns(chat(SYSTEM, USER, ANSWER, USER, ANSWER))
    assert plain == [("system", "Be brief.", ""), *[("user", "ask", ""), ("assistant", "say", "")] * 2]
    for user, assistant in [("human", "gpt"), ("prompter", "bot"), ("user", "model")]:
        row = {"conversations": [{"from": "system", "value": "Be brief."}, {"from": user, "value": "ask"},
                                 {"from": assistant, "value": "say"}]}
        assert turns(row) == plain[:3]
    assert turns({"messages": [{"from": "human", "value": "ask"}, {"from": "gpt", "value": "say"}]}) == plain[1:3]


def test_an_empty_system_prompt_is_none():
    assert turns(chat({"role": "system", "content": " "}, USER, ANSWER)) == turns(chat(USER, ANSWER))


def test_text_parts_of_a_content_are_joined():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "sk"}]
    assert turns(chat({"role": "user", "content": parts}, ANSWER)) == turns(chat(USER, ANSWER))


def test_a_dialogue_is_cut_at_its_markers():
    text = "### Human: What is ## this?### Assistant: A\n### heading.\n### Human: And?\n### Assistant: b "
    assert turns({"text": text}) == [("user", "What is ## this?", ""), ("assistant", "A\n### heading.", ""),
                                     ("user", "And?", ""), ("assistant", "b", "")]
    assert turns({"text": "Be brief.\n" + text})[0] == ("system", "Be brief.", "")


CHAT_FAULTS = {
    "wrong type": [
        ({"messages": "hi"}, "'messages' is a JSON string where an array is needed"),
        (chat("hi"), "turn 1 of 'messages' is a JSON string where an object is needed"),
        (chat({"role": 3, "content": "a"}), "'role' in turn 1 of 'messages' is a JSON number where a string"),
        (chat(USER, {"role": "assistant", "content": {}}), "'content' in turn 2 of 'messages' is a JSON object")],
    "no turns": [(chat(), "holds no turn of user and assistant"), (chat(SYSTEM), "holds no turn")],
    "turn keys missing": [(chat(USER, {"role": "assistant"}), "turn 2 of 'messages' has the keys 'role' where role/content "
                           "or from/value are needed"),
                          (chat({}), "turn 1 of 'messages' has the keys none")],
    "unknown role": [(chat(USER, {"role": "to\ud800ol", "content": "3"}), r"turn 2 of 'messages' has the role 'to\?ol'; known "
                      "are system, user, human")],
    "a turn without content": [(chat(USER, {"role": "assistant", "content": None}), "'content' in turn 2 .* is null")],
    "content is not text": [
        (chat({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, ANSWER),
         "'content' in turn 1 of 'messages' has a part of type 'image_url' where"),
        (chat({"role": "user", "content": ["a"]}, ANSWER), "has a part of type 'string' where")],
    "a turn is empty": [(chat(USER, {"role": "assistant", "content": " "}), "'content' in turn 2 of 'messages' is empty"),
                        (chat({"role": "user", "content": []}, ANSWER), "'content' in turn 1 of 'messages' is empty"),
                        ({"text": "### Human: a### Assistant: ### Human: b"}, r"turn 2 of 'text' \(Assistant\) is empty")],
    "lone surrogate": [(chat(USER, {"role": "assistant", "content": "a\ud800"}), r"'content' in turn 2 .* lone surrogate "
                        r"\(\\ud800\) at character 2")],
    "begins with the assistant": [(chat(SYSTEM, ANSWER, USER, ANSWER), "turn 2 is the assistant's, and nothing was asked"),
                                  ({"text": "### Assistant: a### Human: b### Assistant: c"}, "turn 1 is the assistant's")],
    "two turns of one side": [(chat(SYSTEM, USER, ANSWER, ANSWER), "turns 3 and 4 are both the assistant's"),
                              (chat(USER, USER, ANSWER), "turns 1 and 2 are both the user's")],
    "system prompt inside": [(chat(USER, SYSTEM, ANSWER), "turn 2 is a system prompt; only the first turn can be"),
                             (chat(SYSTEM, SYSTEM, USER, ANSWER), "turn 2 is a system prompt"),
                             (chat(SYSTEM, USER, ANSWER, SYSTEM), "turn 4 is a system prompt")],
    "ends with the user": [(chat(USER, ANSWER, USER), "turn 3, the last, is the user's and has no answer")],
}
OTHER_FAULTS = {
    "'output' is empty": [({"instruction": "a", "output": "\n"}, "'output' is empty")],
    "'new_contents' is empty": [({"old_contents": "a", "new_contents": "", "subject": "b"}, "'new_contents' is empty")],
    "'subject' is empty": [({"old_contents": "a", "new_contents": "b", "subject": " "}, "'subject' is empty")],
    "'message' is empty": [({"old_contents": "a", "new_contents": "b", "subject": "", "message": ""}, "'message' is empty")],
    "wrong type": [({"instruction": "a", "input": 3, "output": "b"}, "'input' is a JSON number where a string is needed"),
                   ({"old_contents": None, "new_contents": "b", "subject": "c"}, "'old_contents' is a JSON null")],
    "keys missing": [
        ({"text": "no markers"}, r"has the keys 'text' where one of the pairs inputs/outputs, inputs/targets, "
         r"prompt/completion, question/answer is needed, or the keys of another kind: alpaca \(instruction/output\), "
         r"chat \(messages, conversations\), "
         r"dialogue \(text with '### Human:' and '### Assistant:'\), commits \(old_contents/new_contents/subject, "),
        ({}, "has the keys none where")],
    "ambiguous kind": [({"messages": [USER, ANSWER], "prompt": "ask", "completion": "say"},
                        "fits the kinds pairs and chat; say which is meant with --kind")],
}
FAULTS = [(reason, row, message) for table in (CHAT_FAULTS, OTHER_FAULTS) for reason, rows in table.items()
          for row, message in rows]


@pytest.mark.parametrize(("reason", "row", "message"), FAULTS)
def test_a_fault_has_its_reason_and_its_place(reason, row, message):
    with pytest.raises(RowError, match="^data.jsonl:7: .*" + message) as caught:
        to_example(row, kind=None, source="data.jsonl:7")
    assert caught.value.reason == reason
    str(caught.value).encode("utf-8")


def test_a_kind_that_is_given_settles_a_row_that_fits_two():
    row = {"messages": [USER, ANSWER], "prompt": "other", "completion": "answer"}
    assert turns(row, "chat")[0][1] == "ask"
    assert turns(row, "pairs")[0][1] == "other"


def test_null_columns_of_a_joined_table_do_not_make_a_row_ambiguous():
    row = {"messages": None, "prompt": "other", "completion": "answer", "text": None}
    assert detect(row, "f:1") == "pairs"
    assert detect(row | {"messages": [USER, ANSWER], "completion": None}, "f:1") == "chat"


def test_a_row_without_the_keys_of_the_given_kind_says_which_it_needs():
    with pytest.raises(RowError, match="f:1: has the keys 'prompt' where --kind alpaca needs instruction/output; drop"):
        to_example({"prompt": "a"}, kind="alpaca", source="f:1")


def test_an_unknown_kind_names_the_known_ones():
    kinds.check(None), kinds.check("chat")
    with pytest.raises(ConfigError, match="--kind: 'chats' is unknown; use one of pairs, alpaca, .*, commits, text, or"):
        kinds.check("chats")


WORDS = st.text(max_size=5) | st.sampled_from(["user", "assistant", "system", "### Human: a### Assistant: b"])
MEMBERS = st.sampled_from(["role", "content", "type", "text"])
JSON = st.recursive(st.none() | st.booleans() | st.integers() | WORDS, lambda inner: (
    st.lists(inner, max_size=4) | st.dictionaries(MEMBERS, inner, max_size=3)), max_leaves=12)
KEYS = sorted({key for kind in KINDS.values() for keys in kind.keys for key in keys} | {"input"})


@given(row=st.dictionaries(st.sampled_from(KEYS), JSON, max_size=5), kind=st.sampled_from([None, *KINDS]))
def test_any_row_is_an_example_or_a_reason(row, kind):
    try:
        example = to_example(row, kind=kind, source="f:1")
    except RowError as error:
        assert error.reason
        return
    assert isinstance(example, Example)
    said = [turn for turn in example.turns if turn.role != "system"]
    roles = ["assistant"] if example.bare_text is not None else ["user", "assistant"] * (len(said) // 2)
    assert [turn.role for turn in said] == roles
    assert all(isinstance(turn, Turn) and turn.text.strip() for turn in example.turns)
