"""Filtering writes what stays byte for byte, counts the rest, and does not depend on who does the work."""

import gzip
import json

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_ft.curation.commit_rules import RULES, TOKEN_LENGTH
from megatron_ft.curation.filter_commits import Filter, run, show
from megatron_ft.data.input_files import Chunk, Position
from megatron_ft.errors import ConfigError, DataError
from tests.curation.small_rows import commit, read_rows, write_rows
from tests.data.shared import SFT_ROWS, STARCODER, needs_data

NO_TOKENS = tuple(rule for rule in RULES if rule.name != TOKEN_LENGTH)


def many(count):
    """Commits of all fates, with enough text for several chunks."""
    subjects = ["Set the default of x to two", "[net] Fix the parser for nested lists", "fix it",
                "Bump version to the next one", "Fix what I broke in there", "Add the number ÄÖ to it"]
    return [commit(subject=subjects[number % 6], old_contents="x = 1\n" * 500, new_contents=f"y = {number}\n" * 500)
            for number in range(count)]


def test_kept_rows_are_the_input_s_bytes_and_edited_ones_have_a_new_subject(tmp_path):
    kept = json.dumps(commit(), separators=(" ,", " :  "))
    edited = json.dumps(commit(subject="net: Fix the parser of all lists", n=1))
    (tmp_path / "in.jsonl").write_text(f"{kept}\r\n\n{edited}\n{json.dumps(commit(subject='fix it'))}")
    report = run([tmp_path / "in.jsonl"], tmp_path / "out.jsonl", NO_TOKENS, rejected=tmp_path / "no.jsonl")
    first, second = (tmp_path / "out.jsonl").read_bytes().splitlines(keepends=True)
    assert first == kept.encode() + b"\r\n"
    assert json.loads(second) == commit(subject="Fix the parser of all lists", n=1)
    assert read_rows(tmp_path / "no.jsonl") == [{"rule": "subject_length", "source": f"{tmp_path / 'in.jsonl'}:4",
                                                 "row": commit(subject="fix it")}]
    assert report == json.loads((tmp_path / "out.jsonl.report.json").read_text())
    assert report["counts"] == {"rows": 3, "kept": 2, "edited": 1, "dropped": 1, "bad": 0}
    (rule,) = (rule for rule in report["rules"] if rule["name"] == "subject_length")
    assert (rule["rows"], rule["first"], rule["parameters"]["min_words"]) == (1, [f"{tmp_path / 'in.jsonl'}:4"], 5)
    assert report["inputs"][0]["path"] == str(tmp_path / "in.jsonl") and report["versions"]["megatron_ft"]


def test_a_message_serves_where_there_is_no_subject(tmp_path):
    row = commit(message="Fix the parser of all lists\n\nIt crashed.")
    del row["subject"]
    write_rows(tmp_path / "in.jsonl", [row])
    run([tmp_path / "in.jsonl"], tmp_path / "out.jsonl", NO_TOKENS)
    assert read_rows(tmp_path / "out.jsonl") == [row]


def test_any_number_of_workers_writes_the_same_bytes(tmp_path):
    write_rows(tmp_path / "in.jsonl", many(600))
    written = []
    for workers in (1, 2, 3):
        folder = tmp_path / str(workers)
        report = run([tmp_path / "in.jsonl"], folder / "out.jsonl", NO_TOKENS, workers=workers, rejected=folder / "no.jsonl")
        del report["output"]["path"], report["rejected"]
        written.append(((folder / "out.jsonl").read_bytes(), (folder / "no.jsonl").read_bytes(), report))
    assert written[0] == written[1] == written[2]
    assert report["counts"]["rows"] == 600 and report["inputs"][0]["bytes"] > 3 << 20


@pytest.mark.parametrize("suffix, unpack", [(".gz", gzip.decompress), (".zst", lambda data: b"".join(
    zstandard.ZstdDecompressor().read_to_iter(data)))])
def test_the_name_says_how_the_output_is_compressed(tmp_path, suffix, unpack):
    write_rows(tmp_path / "in.jsonl", many(30))
    for name in ("out.jsonl", "out.jsonl" + suffix, "again.jsonl" + suffix):
        run([tmp_path / "in.jsonl"], tmp_path / name, NO_TOKENS)
    packed = (tmp_path / ("out.jsonl" + suffix)).read_bytes()
    assert unpack(packed) == (tmp_path / "out.jsonl").read_bytes()
    assert packed == (tmp_path / ("again.jsonl" + suffix)).read_bytes()


@pytest.mark.parametrize("line, message", [
    (b'{"subject": "Fix it"', r"in.jsonl:2: is no JSON"),
    (b'["Fix it"]', r"in.jsonl:2: holds a JSON array"),
    (b'{"subject": "Fix it", "old_contents": null, "new_contents": ""}', r"in.jsonl:2: 'old_contents' is a JSON null"),
    (b'{"subject": "Fix it", "old_contents": ""}', r"in.jsonl:2: 'new_contents' is missing where a commit has a string"),
    (b'{"old_contents": "", "new_contents": ""}', r"in.jsonl:2: 'subject' is missing"),
    (b'{"subject": "a\\ud800", "old_contents": "", "new_contents": ""}', r"'subject' has a lone surrogate at character 2"),
])
def test_a_bad_row_stops_with_its_place_or_is_counted(tmp_path, line, message):
    good = json.dumps(commit()).encode()
    (tmp_path / "in.jsonl").write_bytes(good + b"\n" + line + b"\n" + good + b"\n")
    with pytest.raises(DataError, match=message + ".*--on-bad-row=skip"):
        run([tmp_path / "in.jsonl"], tmp_path / "out.jsonl", NO_TOKENS)
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]
    report = run([tmp_path / "in.jsonl"], tmp_path / "out.jsonl", NO_TOKENS, on_bad_row="skip")
    assert report["counts"] == {"rows": 3, "kept": 2, "edited": 0, "dropped": 0, "bad": 1}
    assert [entry["first"] for entry in report["bad_rows"].values()] == [[f"{tmp_path / 'in.jsonl'}:2"]]


def test_counting_tokens_needs_a_tokenizer(tmp_path):
    write_rows(tmp_path / "in.jsonl", [commit()])
    with pytest.raises(ConfigError, match="--tokenizer: is not given, and the rule token_length counts tokens"):
        run([tmp_path / "in.jsonl"], tmp_path / "out.jsonl", RULES)


@pytest.mark.parametrize("taken", ["out.jsonl", "out.jsonl.report.json", "no.jsonl"])
def test_nothing_is_overwritten(tmp_path, taken):
    write_rows(tmp_path / "in.jsonl", [commit()])
    (tmp_path / taken).write_text("precious")
    with pytest.raises(ConfigError, match=f"{taken} exists already"):
        run([tmp_path / "in.jsonl"], tmp_path / "out.jsonl", NO_TOKENS, rejected=tmp_path / "no.jsonl")
    assert (tmp_path / taken).read_text() == "precious"


def test_outputs_are_jsonl_and_two_of_them(tmp_path):
    with pytest.raises(ConfigError, match=r"--output: .*out.parquet: JSONL is what is written; end the name in .jsonl, "):
        run([tmp_path], tmp_path / "out.parquet", NO_TOKENS)
    with pytest.raises(ConfigError, match="--rejected: .*out.jsonl is --output too"):
        run([tmp_path], tmp_path / "out.jsonl", NO_TOKENS, rejected=tmp_path / "out.jsonl")


def test_the_summary_says_what_was_dropped_where(tmp_path, capsys):
    write_rows(tmp_path / "in.jsonl", many(12))
    show(run([tmp_path / "in.jsonl"], tmp_path / "out.jsonl", NO_TOKENS))
    shown = capsys.readouterr().out
    assert "first_person" in shown and "in.jsonl:5" in shown
    assert f"{tmp_path / 'out.jsonl'}: 6 of 12 rows kept (50.0%); 2 edited, 6 dropped\n" in shown


values = st.one_of(st.none(), st.integers(), st.text(max_size=30), st.sampled_from(
    ["Add the parser of all lists", "[x] Fix the parser of lists", "WIP: add it", "Bump it to the next of all"]))


@settings(max_examples=150, deadline=None)
@given(rows=st.lists(st.one_of(values, st.fixed_dictionaries({}, optional=dict.fromkeys(
    ["subject", "message", "old_contents", "new_contents", "new_file", "lang"], values))), max_size=5))
def test_every_row_is_kept_dropped_or_bad(rows):
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    result = Filter(NO_TOKENS, on_bad_row="skip", with_rejected=True)(Chunk("f", 1, data, False, len(data), Position(), ""))
    dropped = sum(entry["rows"] for entry in result.dropped.values())
    assert result.counts["kept"] + dropped == result.counts["rows"] == len(rows) - len(result.bad)
    assert result.kept.count(b"\n") == result.counts["kept"] and result.rejected.count(b"\n") == dropped


@needs_data
def test_what_the_published_script_kept_stays(tmp_path):
    """Rows 725-1177 are from CommitPackFT itself, already filtered: subject, line break, old file -> new file."""
    rows = []
    for row in read_rows(SFT_ROWS)[725:]:
        subject, _, old = row["prompt"].partition("\n")
        rows.append({"subject": subject, "old_contents": old, "new_contents": row["completion"]})
    rows += [commit(old_contents="x = 1\n" * times, new_contents="x = 2\n" * times) for times in (1, 150)]
    write_rows(tmp_path / "in.jsonl", rows)
    report = run([tmp_path / "in.jsonl"], tmp_path / "out.jsonl", RULES, tokenizer_path=str(STARCODER))
    assert report["counts"] == {"rows": 455, "kept": 453, "edited": 0, "dropped": 2, "bad": 0}
    assert report["rules"][-1]["name"] == TOKEN_LENGTH and report["rules"][-1]["rows"] == 2
    assert report["tokenizer"]
