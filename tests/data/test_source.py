"""Ranges are honoured, nothing is read twice, what does not fit is counted or refused."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_ft.data.loader import Loader
from megatron_ft.data.selection import Selection
from megatron_ft.data.source import Entry, open_views, parse_entry, range_of, tags_of
from megatron_ft.errors import ConfigError, DataError
from tests.data.small_datasets import random_documents, write_dataset


@pytest.fixture
def mix(tmp_path):
    return str(write_dataset(tmp_path / "mix", random_documents(20, seed=1)))


@pytest.mark.parametrize(("text", "entry"), [
    ("data/mix", Entry("data/mix")), ("0:0.95 data/mix", Entry("data/mix", 0, 0.95)), ("1 mix", Entry("mix", weight=1)),
    ("1.0 0.5:1 a folder/mix", Entry("a folder/mix", 0.5, 1, 1.0)), ("  0.25:.5   7b  ", Entry("7b", 0.25, 0.5)),
    ("7e-1 mix", Entry("mix", weight=0.7)), ("code= mix", Entry("mix", tag="code")),
    ("c++-2.0= 0.5:1 lr=3/mix", Entry("lr=3/mix", 0.5, 1, tag="c++-2.0")), ("lr=3/mix", Entry("lr=3/mix")),
    ("lr=3", Entry("lr=3")), ("./lr= 3/mix", Entry("./lr= 3/mix")), ("0:1 lr= 3", Entry("lr= 3", 0, 1))])
def test_entries_are_read(text, entry):
    assert parse_entry(text) == entry


@pytest.mark.parametrize(("text", "message"), [
    ("", "'' is no entry"), ("0 0:1 mix", "'0 0:1 mix' has weight 0; a weight is a share of the documents and above 0"),
    ("-1 mix", "has weight -1"), ("1e999 mix", "has weight inf"), ("-0.1:1 mix", "found -0.1:1"),
    ("0.5:0.5 mix", "0 <= START < END <= 1, found 0.5:0.5"),
    ("0:1.5 mix", "found 0:1.5"), ("0:1.2.3 mix", "write START:END PREFIX")])
def test_bad_entries_are_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_entry(text)


@pytest.mark.parametrize(("train", "valid", "message"), [
    (["0.7 0:0.5 {}", "0.5:0.8 {}"], [], r"data.train: '0.7 0:0.5 .*mix' has a weight and '0.5:0.8 .*mix' has none"),
    (["{}"], ["1 0:0.5 {}", "0.5:1 {}"], "data.valid: .* has a weight and .* has none"),
    (["{}"], ["1 0:0.5 {}", "2 0.5:1 {}"], "data.valid: .* have different weights, 1 and 2; validation reads every doc")])
def test_weights_of_only_some_entries_and_of_validation_are_refused(mix, train, valid, message):
    with pytest.raises(ConfigError, match=message):
        open_views([text.format(mix) for text in train], [text.format(mix) for text in valid])


@pytest.mark.parametrize(("texts", "tags"), [
    (["a/mix"], ["mix"]), (["a/mix", "a/chat"], ["mix", "chat"]), (["a/mix", "b/mix"], ["a/mix", "b/mix"]),
    (["code= a/mix", "b/mix"], ["code", "mix"]), (["mix= a/code", "b/mix"], ["mix", "b/mix"]),
    (["x= a/mix", "x= b/mix"], ["x", "x"]), (["mix", "a/mix"], ["mix", "a/mix"]), (["/a/b", "/c/a/b"], ["/a/b", "c/a/b"]),
    (["0:0.5 mix", "0.5:1 mix"], ["mix 0:0.5", "mix 0.5:1"])])
def test_every_validation_entry_has_a_tag_of_its_own_unless_told(texts, tags):
    assert tags_of([parse_entry(text) for text in texts]) == tags


def test_a_tag_on_training_data_and_one_without_its_space_are_refused(mix):
    with pytest.raises(ConfigError, match=r"data.train: 'code= 0:1 .*mix' has the tag code, which names a validation loss"):
        open_views([f"code= {mix}"])
    with pytest.raises(DataError, match="'code=0.5:1 mix': there is no such dataset; .* a space after it: 'code= 0.5:1 mix'"):
        open_views([f"0:0.5 {mix}"], ["code=0.5:1 mix"])


@given(documents=st.integers(1, 10**7), cuts=st.lists(st.floats(0.0, 1.0), max_size=5))
def test_ranges_that_meet_split_any_number_of_documents_exactly(documents, cuts):
    """For example 0:0.95 and 0.95:1: no document in both, none in neither."""
    edges = sorted({0.0, *cuts, 1.0})
    entries = [parse_entry(f"{start!r}:{end!r} mix") for start, end in pairwise(edges)]
    ranges = [range_of(entry, documents) for entry in entries]
    assert [0, *(last for _, last in ranges)] == [*(first for first, _ in ranges), documents]


def test_train_and_validation_ranges_split_the_documents(mix):
    train, valid = open_views([f"0:0.85 {mix}"], [f"0.85:1 {mix}"])
    assert [(view.first, view.last) for view in (*train, *valid)] == [(0, 17), (17, 20)]
    seen = {number for batch in next(Loader(train, row_tokens=50, rows_per_step=30)) for row in batch.rows
            for _, number in row}
    assert seen == set(range(17))


def test_overlapping_ranges_are_refused_naming_both(mix):
    with pytest.raises(DataError, match=r"'0:0.9 .*mix' and '0.8:1 .*mix' share 2 documents"):
        open_views([f"0:0.9 {mix}"], [f"0.8:1 {mix}"])
    with pytest.raises(DataError, match=r"share 1 documents"):
        open_views([f"0:0.9 {mix}"], [f"0.85:1 {mix}"])


def test_a_copy_under_another_name_is_the_same_dataset(mix, tmp_path):
    copy = write_dataset(tmp_path / "copy", random_documents(20, seed=1))
    with pytest.raises(DataError, match=r"share 20 documents"):
        open_views([mix], [str(copy)])


@pytest.mark.parametrize("make", [Path.symlink_to, Path.hardlink_to])
def test_a_link_is_the_same_dataset(mix, tmp_path, make):
    for suffix in (".bin", ".idx", ".json"):
        make(tmp_path / f"link{suffix}", f"{mix}{suffix}")
    with pytest.raises(DataError, match=r"'0:0.9 .*mix' and '0.8:1 .*link' share 2 documents"):
        open_views([f"0:0.9 {mix}"], [f"0.8:1 {tmp_path / 'link'}"])


def test_an_empty_range_is_refused(mix):
    with pytest.raises(DataError, match=r"'0.99:1 .*mix' holds none of the dataset's 20 documents"):
        open_views([f"0.99:1 {mix}"])


def test_datasets_of_different_tokenizers_are_refused(mix, tmp_path):
    other = write_dataset(tmp_path / "other", random_documents(5, seed=2), tokenizer="another")
    with pytest.raises(DataError, match="were made with different tokenizers"):
        open_views([mix, str(other)])


def test_documents_of_several_datasets_are_all_read(mix, tmp_path):
    other = write_dataset(tmp_path / "other", random_documents(5, seed=2))
    views, _ = open_views([f"0.5:1 {mix}", str(other)])
    selection = Selection(views, row_tokens=50)
    assert [selection.identity(index) for index in range(15)] == [(mix, number) for number in range(10, 20)] + [
        (str(other), number) for number in range(5)]
    for index, (prefix, number) in enumerate(map(selection.identity, range(15))):
        expected = views[0 if prefix == mix else 1].dataset.document(number)
        assert np.array_equal(selection.document(index)[0], expected[0])


LONG_AND_SHORT = [
    [([1, 2], False), ([3, 0], True)], [([1] * 4, False), ([3] * 8, True)],
    [([1] * 9, False), ([3, 0], True)],
]


def long_and_short(tmp_path):
    return open_views([str(write_dataset(tmp_path / "long", LONG_AND_SHORT))])[0]


def test_a_document_of_one_token_more_than_a_row_fits(tmp_path):
    assert Selection(long_and_short(tmp_path), row_tokens=11).positions.tolist() == [3, 11, 10]


def test_long_documents_stop_a_run_with_their_number(tmp_path):
    message = (r"2 documents of '0:1 .*long' do not fit into rows of 8 tokens \(the first is document 1, "
               r"the longest has 12 tokens\); .*data.long_documents = drop or truncate")
    with pytest.raises(DataError, match=message):
        Selection(long_and_short(tmp_path), row_tokens=8)


def test_long_documents_are_dropped_and_counted(tmp_path):
    selection = Selection(long_and_short(tmp_path), row_tokens=8, on_long="drop")
    assert (selection.documents, dict(selection.counts)) == (1, {"dropped: too long": 2})


def test_cut_documents_are_counted_and_those_without_answer_left_out(tmp_path):
    selection = Selection(long_and_short(tmp_path), row_tokens=8, on_long="truncate")
    assert dict(selection.counts) == {"truncated": 2, "dropped: no supervised token": 1}
    assert selection.positions.tolist() == [3, 8]
    ids, supervised = selection.document(1)
    assert ids.tolist() == [1] * 4 + [3] * 5
    assert supervised.sum() == 5


def test_documents_without_answer_stop_a_run_where_asked(tmp_path):
    views, _ = open_views([str(write_dataset(tmp_path / "mute", [[([1, 2], False)], [([1], False), ([0], True)]]))])
    with pytest.raises(DataError, match=r"1 documents of .* have no supervised token among their first 9"):
        Selection(views, row_tokens=8, on_unsupervised="stop")
    assert Selection(views, row_tokens=8).documents == 1


def test_nothing_left_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"no document is left of \['0:1 .*long'\] \(.*'dropped: too long': 3"):
        Selection(long_and_short(tmp_path), row_tokens=2, on_long="drop")
