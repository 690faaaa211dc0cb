"""Every example stays once, the first time; what is called similar is so by a brute-force count."""

import json
import random
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_ft.curation.deduplicate import Recipe, run, show
from megatron_ft.curation.exact import FirstRows
from megatron_ft.curation.near import recall
from megatron_ft.curation.texts import text_key
from megatron_ft.errors import ConfigError, DataError
from tests.curation.small_rows import commit, read_rows, write_rows
from tests.data.shared import DATA, needs_data

DUPLICATES = DATA / "sft" / "oasst_commitpackft_151.jsonl"


def pair(prompt, completion, **more):
    return {"prompt": prompt, "completion": completion} | more


def deduplicated(tmp_path, rows, recipe, **options):
    """The rows that are left, the pairs (dropped, kept, similarity) by line number, and the report."""
    path = write_rows(tmp_path / "in.jsonl", rows)
    report = run([str(path)], tmp_path / "out.jsonl", recipe, **options)
    found = [(int(each["dropped"].rpartition(":")[2]), int(each["kept"].rpartition(":")[2]), each["similarity"])
             for each in read_rows(tmp_path / "out.jsonl.duplicates.jsonl")]
    return read_rows(tmp_path / "out.jsonl"), found, report


def grams(text, n):
    """An independent statement of the n-grams."""
    words = re.findall(r"\w+|[^\w\s]", text.lower())
    return {tuple(words[at:at + n]) for at in range(max(1, len(words) - n + 1))}


def variants(seed=0):
    """200 rows: texts of 60 words, some of them copies with a few words changed."""
    draw = random.Random(seed)
    texts = []
    for _ in range(200):
        if texts and draw.random() < 0.5:
            words = draw.choice(texts).split()
            for _ in range(draw.randrange(5)):
                words[draw.randrange(60)] = f"w{draw.randrange(1000)}"
        else:
            words = [f"w{draw.randrange(1000)}" for _ in range(60)]
        texts.append(" ".join(words))
    return texts


def test_the_first_of_equal_examples_stays_whatever_else_is_in_the_row(tmp_path):
    rows = [pair("a", "b", id=1), pair("b", "a", id=2), pair("a", "b", id=3), {"inputs": "a", "outputs": "b"}, pair("a", "B"),
            pair("a \r\n", "\nb"), pair("ab", "b"), pair("\u00e9", "x"), pair("e\u0301", "x")]
    kept, found, report = deduplicated(tmp_path, rows, Recipe())
    assert kept == [rows[0], rows[1], rows[4], rows[6], rows[7]]
    assert found == [(3, 1, 1.0), (4, 1, 1.0), (6, 1, 1.0), (9, 8, 1.0)]
    assert report["counts"] == {"rows": 9, "kept": 5, "dropped": 4, "identical": 4, "clusters": 2, "bad": 0}
    assert report["largest_clusters"][0] == {"kept": f"{tmp_path / 'in.jsonl'}:1", "dropped": 3}


def test_indentation_is_a_difference():
    assert text_key(["if x:\n    y\nz"]) != text_key(["if x:\n    y\n    z"])
    assert text_key(["ab", "c"]) != text_key(["a", "bc"])


def test_kept_rows_are_the_input_s_bytes(tmp_path):
    (tmp_path / "in.jsonl").write_text('{ "prompt" : "a","completion":"b"}\r\n{"prompt": "c", "completion": "d"}')
    run([str(tmp_path / "in.jsonl")], tmp_path / "out.jsonl", Recipe())
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "in.jsonl").read_bytes() + b"\n"


@pytest.mark.parametrize("fields, kept", [
    ((), [0, 1]), (("subject",), [0]), (("subject", "lang"), [0, 1, 2]), (("all",), [0, 1, 2])])
def test_fields_say_what_is_compared(tmp_path, fields, kept):
    rows = [commit(), commit(new_contents="y", lang="Go"), commit(lang="C")]
    assert deduplicated(tmp_path, rows, Recipe(fields=fields))[0] == [rows[number] for number in kept]


def test_the_order_of_keys_is_no_difference(tmp_path):
    assert len(deduplicated(tmp_path, [{"a": "x", "b": "y"}, {"b": "y", "a": "x"}], Recipe(fields=("all",)))[0]) == 1


def test_duplicates_over_files_are_named_by_file_and_row(tmp_path):
    write_rows(tmp_path / "a.jsonl", [pair("a", "b"), pair("c", "d")])
    write_rows(tmp_path / "b.jsonl", [pair("x", "y"), pair("c", "d")])
    run([str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")], tmp_path / "out.jsonl", Recipe())
    assert read_rows(tmp_path / "out.jsonl.duplicates.jsonl") == [
        {"dropped": f"{tmp_path / 'b.jsonl'}:2", "kept": f"{tmp_path / 'a.jsonl'}:2", "similarity": 1.0}]


@pytest.mark.parametrize("threshold, n", [(0.85, 5), (0.6, 2), (1.0, 3)])
def test_similarities_are_those_of_a_brute_force_count(tmp_path, threshold, n):
    texts = variants()
    kept, found, report = deduplicated(tmp_path, [pair("same", text) for text in texts],
                                       Recipe("near", threshold=threshold, ngram=n))
    sets = [grams("same", n) | grams(text, n) for text in texts]
    dropped = {one for one, _, _ in found}
    assert len(kept) + len(dropped) == len(texts) and dropped
    for one, other, similarity in found:
        assert other < one and other not in dropped
        shared = sets[one - 1] & sets[other - 1]
        assert similarity == len(shared) / len(sets[one - 1] | sets[other - 1]) >= threshold
    missed = sum(len(sets[one] & sets[other]) / len(sets[one] | sets[other]) >= threshold for one in range(200)
                 for other in range(one) if one + 1 not in dropped and other + 1 not in dropped)
    assert missed == 0, "LSH finds 99% of the pairs at the threshold; in these rows, all"
    assert report["recipe"]["found_at_threshold"] >= 0.99


def test_near_ignores_case_and_layout_and_exact_does_not(tmp_path):
    rows = [pair("Add", "def add(a, b):\n    return a + b"), pair("add", "def add(a,b):  return a+b")]
    assert len(deduplicated(tmp_path, rows, Recipe("near"))[0]) == 1
    (tmp_path / "second").mkdir()
    assert len(deduplicated(tmp_path / "second", rows, Recipe())[0]) == 2


def test_a_dropped_row_is_like_the_row_that_stays_not_like_one_in_between(tmp_path):
    words = [f"w{number}" for number in range(100)]
    chain = [" ".join(words[at:at + 60]) for at in (0, 4, 8, 12)]  # each like the next, the last not like the first
    kept, found, _ = deduplicated(tmp_path, [pair("p", text) for text in chain], Recipe("near", threshold=0.8))
    assert [row["completion"] for row in kept] == [chain[0], chain[2]]
    assert [(one, other) for one, other, _ in found] == [(2, 1), (4, 3)]


@pytest.mark.parametrize("method", ["exact", "near"])
def test_any_number_of_workers_writes_the_same_bytes(tmp_path, method):
    rows = [pair(f"p{number % 7}", text * 30) for number, text in enumerate(variants() * 2)]
    path = write_rows(tmp_path / "in.jsonl", rows)
    assert path.stat().st_size > 3 << 20
    written = []
    for workers in (1, 2, 3):
        report = run([str(path)], tmp_path / str(workers) / "out.jsonl", Recipe(method), workers=workers)
        assert report["counts"]["kept"] < 400
        written.append([(tmp_path / str(workers) / name).read_bytes() for name in ("out.jsonl", "out.jsonl.duplicates.jsonl")])
    assert written[0] == written[1] == written[2]


@needs_data
@pytest.mark.parametrize("method", ["exact", "near"])
def test_of_151_real_rows_41_are_distinct(tmp_path, method):
    report = run([str(DUPLICATES)], tmp_path / "out.jsonl", Recipe(method))
    lines = DUPLICATES.read_bytes().splitlines(keepends=True)
    assert (tmp_path / "out.jsonl").read_bytes() == b"".join(dict.fromkeys(lines))
    assert report["counts"] == {"rows": 151, "kept": 41, "dropped": 110, "identical": 110, "clusters": 39, "bad": 0}


@settings(max_examples=100, deadline=None)
@given(batches=st.lists(st.lists(st.integers(0, 30), max_size=20), max_size=10), places=st.sampled_from([1, 4, 64]))
def test_the_table_gives_what_a_dict_gives(batches, places):
    table, known, position = FirstRows(places=places), {}, 0
    for keys in batches:
        positions = range(position + 1, position + 1 + len(keys))
        expected = [known.setdefault(key, number) for key, number in zip(keys, positions, strict=True)]
        hashes = np.array(keys, dtype=np.uint64) << np.uint64(58)  # all want the same place
        assert table.first(hashes, np.array(positions, dtype=np.int64)).tolist() == expected
        position += len(keys)


def test_the_table_takes_16_bytes_a_place():
    table = FirstRows()
    keys = np.random.RandomState(0).randint(0, 2**63, 1_000_000).astype(np.uint64)
    for at in range(0, 1_000_000, 1000):
        table.first(keys[at:at + 1000], np.arange(at + 1, at + 1001))
    assert table.bytes == 16 << 21


@settings(max_examples=30, deadline=None)
@given(rows=st.lists(st.one_of(st.integers(), st.just({"prompt": "\ud800", "completion": "x"}), st.fixed_dictionaries(
    {}, optional=dict.fromkeys(["prompt", "completion", "other"], st.sampled_from(["", "a", "b c", "B C", 3])))),
    max_size=8), method=st.sampled_from(["exact", "near"]), fields=st.sampled_from([(), ("all",), ("prompt",)]))
def test_every_row_is_kept_dropped_or_bad(tmp_path_factory, rows, method, fields):
    folder = tmp_path_factory.mktemp("rows")
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    counts = run([str(folder / "in.jsonl")], folder / "out.jsonl", Recipe(method, fields=fields, on_bad_row="skip"))["counts"]
    assert counts["kept"] + counts["dropped"] + counts["bad"] == counts["rows"] == len(rows)
    assert len((folder / "out.jsonl").read_bytes().splitlines()) == counts["kept"]
    assert len((folder / "out.jsonl.duplicates.jsonl").read_bytes().splitlines()) == counts["dropped"]


def test_recall_is_what_the_formula_says():
    assert recall(0.85, 0.85) == pytest.approx(1 - (1 - 0.85**8)**15) and recall(0.85, 0.95) > 0.99999


@pytest.mark.parametrize("recipe, message", [
    (Recipe("near", threshold=0.3), "--threshold: 0.3 is not from 0.5 to 1"),
    (Recipe("near", ngram=0), "--ngram: 0 words are no n-gram"),
    (Recipe(fields=("all", "prompt")), "--fields: 'all' stands for all fields and comes with 1 more"),
    (Recipe(fields=("prompt",), kind="pairs"), "--fields: says what is compared, and so does --kind"),
    (Recipe(kind="pear"), "--kind: 'pear' is unknown"),
])
def test_a_recipe_that_cannot_work_is_refused(tmp_path, recipe, message):
    with pytest.raises(ConfigError, match=message):
        run([str(tmp_path)], tmp_path / "out.jsonl", recipe)


def test_a_row_without_the_field_stops_with_its_line(tmp_path):
    with pytest.raises(DataError, match="in.jsonl:2: has no 'prompt', which --fields names; its keys are text; .*skip"):
        deduplicated(tmp_path, [pair("a", "b"), {"text": "c"}], Recipe(fields=("prompt",)))
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


@pytest.mark.parametrize("taken", ["out.jsonl", "out.jsonl.report.json", "out.jsonl.duplicates.jsonl"])
def test_nothing_is_overwritten(tmp_path, taken):
    (tmp_path / taken).write_text("precious")
    with pytest.raises(ConfigError, match=f"{taken} exists already"):
        deduplicated(tmp_path, [pair("a", "b")], Recipe())
    assert (tmp_path / taken).read_text() == "precious"


def test_the_summary_says_what_was_dropped(tmp_path, capsys):
    show(deduplicated(tmp_path, [pair("a", "b")] * 3, Recipe())[2])
    shown = capsys.readouterr().out
    assert "in.jsonl:1" in shown and "1 of 3 rows kept (33.3%); 2 dropped, 2 identical, 1 clusters\n" in shown
