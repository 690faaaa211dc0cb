"""Each row is an example or a reason: nothing crashes, nothing is lost uncounted."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_ft.data.example import Example
from megatron_ft.data.records import read_row, stream_lines
from megatron_ft.data.rows import FIRST_SHOWN, Dropped, RowError
from megatron_ft.errors import DataError

SKIP_HINT = r"; drop the row or pass --on-bad-row=skip \(skipped rows are counted by reason\)$"

BAD_ROWS = {
    "empty outputs": (b'{"inputs": "a", "outputs": ""}', "'outputs' is empty", "'outputs' is empty"),
    "blank inputs": (b'{"inputs": " \\n", "targets": "b"}', "'inputs' is empty", "'inputs' is empty"),
    "no outputs": (b'{"inputs": "a", "answer": 1}', "keys missing",
                   "has the keys 'inputs', 'answer' where one of the pairs inputs/outputs, inputs/targets"),
    "cut off": (b'{"inputs": "a", ', "invalid JSON", "is no JSON: .* at column 17"),
    "array": (b'["a", "b"]', "not an object", "holds a JSON array where an object is needed"),
    "null": (b"null", "not an object", "holds a JSON null"),
    "number": (b'{"inputs": 3, "outputs": "b"}', "wrong type", "'inputs' is a JSON number where a string"),
    "null output": (b'{"prompt": "a", "completion": null}', "wrong type", "'completion' is a JSON null"),
    "latin-1": ('{"inputs": "é", "outputs": "b"}'.encode("latin-1"), "invalid UTF-8", r"byte 13 \(0xe9\) is not UTF-8"),
    "surrogate": (b'{"inputs": "ab\\ud800", "outputs": "b"}', "lone surrogate", r"\(\\ud800\) at character 3"),
    "surrogate key": (b'{"\\ud800": "a"}', "keys missing", "has the keys"),
    "deep": (b"[" * 100_000, "invalid JSON", "is no JSON"),
    "long number": (b'{"inputs": ' + b"9" * 5000 + b"}", "invalid JSON", "is no JSON that can be read"),
}


@pytest.mark.parametrize("keys", [("inputs", "outputs"), ("inputs", "targets"), ("prompt", "completion")])
def test_known_keys_are_read(keys):
    row = {keys[0]: "ask", "other": 1, keys[1]: "answer"}
    assert read_row(json.dumps(row).encode(), "f:2") == Example.pair("ask", "answer", source="f:2")


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_bad_row_says_where_what_and_what_to_do(name):
    line, reason, message = BAD_ROWS[name]
    with pytest.raises(RowError, match=r"^data.jsonl:7: .*" + message + r".*" + SKIP_HINT) as caught:
        read_row(line, "data.jsonl:7")
    assert caught.value.reason == reason


def test_blank_lines_and_a_byte_order_mark_are_no_rows():
    assert read_row(b"  \r\n", "f:3") is None
    assert read_row(b'\xef\xbb\xbf{"inputs": "a", "outputs": "b"}', "f:1") == Example.pair("a", "b", source="f:1")


@given(inputs=st.text(), outputs=st.text(), ascii_only=st.booleans())
def test_any_text_comes_back_whole(inputs, outputs, ascii_only):
    line = json.dumps({"inputs": inputs, "outputs": outputs}, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    try:
        example = read_row(line, "f:2")
    except RowError as error:
        assert not inputs.strip() or not outputs.strip(), error
    else:
        assert tuple(turn.text for turn in example.turns) == (inputs, outputs)


@given(line=st.binary(max_size=200))
def test_any_bytes_are_an_example_or_a_reason(line):
    try:
        example = read_row(line, "f:2")
    except RowError as error:
        assert error.reason
    else:
        assert example is None or isinstance(example, Example)


@given(position=st.integers(0, 40), byte=st.integers(0, 255))
def test_a_mutated_row_never_breaks_the_reader(position, byte):
    line = bytearray(b'{"inputs": "ask \\u00e9", "outputs": "answer"}')
    line[position] = byte
    try:
        example = read_row(bytes(line), "f:2")
    except RowError as error:
        assert error.reason
    else:
        assert example is None or all(turn.text for turn in example.turns)


def test_lines_are_numbered_from_one_and_a_last_line_without_newline_counts(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"one\n\nthree")
    assert list(stream_lines(tmp_path / "a.jsonl")) == [(1, b"one\n"), (2, b"\n"), (3, b"three")]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match="gone.jsonl: there is no such file"):
        next(stream_lines(tmp_path / "gone.jsonl"))


def test_dropped_rows_are_counted_with_the_first_places():
    dropped = Dropped()
    for line in range(1, 11):
        dropped.add("empty", f"f:{line}")
    dropped.add("other", "f:20")
    assert dropped.rows == 11
    assert dropped.by_reason["empty"] == {"rows": 10, "first": [f"f:{line}" for line in range(1, FIRST_SHOWN + 1)]}
