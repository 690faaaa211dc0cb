"""Each row is an example or a reason: nothing crashes, nothing is lost uncounted."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_ft.data import kinds
from megatron_ft.data.example import Example
from megatron_ft.data.input_files import OVERSIZED, Chunk, Position
from megatron_ft.data.rows import FIRST_SHOWN, Dropped, Row, RowError, parse, rows_of

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


def read_row(line: bytes, source: str) -> Example | None:
    """The example in a line; None for a blank one."""
    path, _, number = source.partition(":")
    for row in rows_of(Chunk(path, int(number), line.replace(b"\n", b" "), False, len(line), Position(), "")):
        if row.error is not None:
            raise row.error
        return kinds.to_example(row.value, kind=None, source=row.source)
    return None


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


def chunk(data: bytes, first: int = 1) -> Chunk:
    return Chunk("f", first, data, False, len(data), Position(), "")


def test_rows_have_the_numbers_of_their_lines_and_a_last_line_needs_no_break():
    found = list(rows_of(chunk(b'{"a": 1}\n\n \t\r\n[]\n{"a": 2}', first=10)))
    assert [(row.source, row.value) for row in found] == [("f:10", {"a": 1}), ("f:13", None), ("f:14", {"a": 2})]
    assert found[1].error.reason == "not an object"


def test_a_row_is_written_as_it_was_read():
    lines = [b'{"a":  1.50, "b": "\\u00e9"}\r\n', b'{"a": NaN}']
    assert [row.to_line() for row in rows_of(chunk(b"".join(lines)))] == [lines[0], lines[1] + b"\n"]
    assert Row("f:1", {"a": "é", "b": [1, None]}, None).to_line() == '{"a":"é","b":[1,null]}\n'.encode()


@pytest.mark.parametrize("line", [OVERSIZED, OVERSIZED + b"x", OVERSIZED + b"12", OVERSIZED + "²".encode()])
def test_data_that_looks_like_our_own_mark_is_a_bad_row(line):
    with pytest.raises(RowError):
        parse(line, "f:1")


def test_dropped_rows_are_counted_with_the_first_places():
    dropped = Dropped()
    for line in range(1, 11):
        dropped.add("empty", f"f:{line}")
    dropped.add("other", "f:20")
    assert dropped.rows == 11
    assert dropped.by_reason["empty"] == {"rows": 10, "first": [f"f:{line}" for line in range(1, FIRST_SHOWN + 1)]}
