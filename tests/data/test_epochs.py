"""What an epoch reads with weights: exact shares, every document equally often over time, the same at any position."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from megatron_ft.data.epochs import Epochs, draw, shares_of
from megatron_ft.data.loader import Loader
from megatron_ft.data.selection import Selection
from megatron_ft.data.source import open_views
from megatron_ft.errors import DataError
from tests.data.small_datasets import random_documents, write_dataset

ROW = 41
SIZES = {"one": 60, "two": 25, "three": 15}


@pytest.fixture
def folder(tmp_path):
    for seed, (name, count) in enumerate(SIZES.items()):
        write_dataset(tmp_path / name, random_documents(count, seed=seed))
    return tmp_path


def views(folder, *weights):
    return open_views([f"{weight} {folder / name}" for weight, name in zip(weights, SIZES, strict=False)])[0]


def epochs_of(folder, *weights) -> Epochs:
    return Epochs(Selection(views(folder, *weights), row_tokens=ROW), seed=3)


def documents(epochs: Epochs, number: int) -> np.ndarray:
    first = int(epochs.rows_of_first(number))
    return np.concatenate([epochs.row(first + row) for row in range(epochs.rows(number))])


@given(documents=st.integers(0, 10**6), weights=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=8))
def test_shares_sum_to_the_whole_and_are_within_one_of_exact(documents, weights):
    counts = shares_of(documents, weights)
    assert sum(counts) == documents
    assert all(abs(count - documents * weight / sum(weights)) < 1 for count, weight in zip(counts, weights, strict=True))


@given(size=st.integers(1, 12), count=st.integers(1, 40), epochs=st.integers(1, 9))
def test_over_time_every_document_of_an_entry_is_read_equally_often(size, count, epochs):
    drawn = [draw(size, count, seed=5, entry=1, epoch=epoch) for epoch in range(epochs)]
    assert all(len(items) == count for items in drawn)
    times = np.bincount(np.concatenate(drawn), minlength=size)
    assert times.sum() == epochs * count and times.max() - times.min() <= 1


@given(size=st.integers(1, 12), count=st.integers(1, 12), epoch=st.integers(0, 50))
def test_a_document_repeats_within_an_epoch_only_across_two_passes(size, count, epoch):
    times = np.bincount(draw(size, count, seed=5, entry=1, epoch=epoch), minlength=size)
    passes = -(-(epoch + 1) * count // size) - epoch * count // size
    assert times.max() <= passes


@pytest.mark.parametrize(("weights", "counts"), [([1e308, 1e308], [5, 5]), ([1e-300, 3e-300], [3, 7]), ([1, 1e-300], [10, 0])])
def test_weights_of_any_size_are_shares(weights, counts):
    assert shares_of(10, weights) == counts


def test_what_is_drawn_is_the_same_forever():
    """The second of an entry's epochs of 4 of 10 documents is within a pass, the third is across two."""
    assert draw(10, 4, seed=7, entry=0, epoch=1).tolist() == [0, 3, 4, 6]
    assert draw(10, 4, seed=7, entry=0, epoch=2).tolist() == [3, 4, 8, 9]
    assert draw(10, 4, seed=7, entry=1, epoch=2).tolist() == [1, 5, 8, 9]
    assert draw(10, 4, seed=8, entry=0, epoch=2).tolist() == [0, 3, 6, 7]


def test_epochs_have_the_shares_in_whole_rows(folder):
    epochs = epochs_of(folder, 0.2, 0.5, 0.3)
    assert epochs.differ and epochs.counts == [20, 50, 30]
    bounds = np.cumsum([0, *SIZES.values()])
    for number in range(6):
        read = documents(epochs, number)
        assert np.histogram(read, bins=bounds)[0].tolist() == [20, 50, 30]
        assert epochs.rows(number) == epochs.packing(number).rows
    times = Counter(np.concatenate([documents(epochs, number) for number in range(3)]).tolist())
    assert set(times.values()) == {1, 6}  # 3 x 20 of 60 once; 3 x 50 of 25 and 3 x 30 of 15 six times


def test_rows_never_overflow_and_differ_between_epochs(folder):
    epochs = epochs_of(folder, 0.2, 0.5, 0.3)
    positions = epochs._selection.positions
    assert all(positions[epochs.row(position)].sum() <= ROW for position in range(300))
    assert len({epochs.rows(number) for number in range(10)}) > 1


def test_a_position_is_found_in_its_epoch(folder):
    ahead, there = epochs_of(folder, 2, 2, 1), epochs_of(folder, 2, 2, 1)
    ends = np.cumsum([ahead.rows(number) for number in range(8)]).tolist()
    for epoch, (begin, end) in enumerate(itertools.pairwise([0, *ends])):
        assert [there.place(position) for position in (begin, end - 1)] == [(epoch, 0), (epoch, end - begin - 1)]
    assert ahead.rows_of_first(8) == ends[-1]
    assert ahead.rows_of_first(2.5) == ends[1] + (ends[2] - ends[1]) / 2


@pytest.mark.parametrize("weights", [(0.6, 0.25, 0.15), (60, 25, 15), (7,)])
def test_weights_in_proportion_to_sizes_are_no_weights(folder, weights):
    weighted, plain = (Loader(views(folder, *texts), row_tokens=ROW, rows_per_step=5, seed=2)
                       for texts in (weights, [""] * len(weights)))
    assert not weighted.epochs.differ
    assert weighted.fingerprint == plain.fingerprint
    for _ in range(20):
        assert [batch.rows for batch in next(weighted)] == [batch.rows for batch in next(plain)]


def test_what_a_checkpoint_remembers_changes_with_the_weights(folder):
    prints = {Loader(views(folder, *weights), row_tokens=ROW, rows_per_step=5).fingerprint
              for weights in [("", "", ""), (1, 1, 1), (1, 2, 1)]}
    assert len(prints) == 3


@pytest.mark.parametrize("steps", [0, 1, 6, 7, 13, 40])
def test_a_weighted_run_resumes_exactly_at_any_position(folder, steps):
    options = {"row_tokens": ROW, "rows_per_step": 6, "rows_per_micro_batch": 2, "seed": 5}
    whole = Loader(views(folder, 1, 3, 1), **options)
    for _ in range(steps):
        next(whole)
    resumed = Loader(views(folder, 1, 3, 1), position=whole.position, **options)
    assert resumed.epoch == whole.epoch
    for ours, theirs in itertools.islice(zip(whole, resumed, strict=True), 12):
        for one, other in zip(ours, theirs, strict=True):
            assert one.rows == other.rows and torch.equal(one.tokens, other.tokens)
    assert whole.epoch == resumed.epoch > 12 * 6 / (2 * whole.rows_per_epoch)


@pytest.mark.parametrize("dp_size", [2, 3])
def test_every_layout_reads_the_same_weighted_rows(folder, dp_size):
    reference = Loader(views(folder, 1, 3, 1), row_tokens=ROW, rows_per_step=6)
    ranks = [Loader(views(folder, 1, 3, 1), row_tokens=ROW, rows_per_step=6, dp_rank=rank, dp_size=dp_size)
             for rank in range(dp_size)]
    for _ in range(15):
        shares = [next(rank) for rank in ranks]
        dealt = [row for turn in zip(*shares, strict=True) for batch in turn for row in batch.rows]
        assert dealt == [row for batch in next(reference) for row in batch.rows]


def test_an_entry_that_would_never_be_read_is_refused(folder):
    with pytest.raises(DataError, match=r"'1 0:1 .*three' would never be read: 15 of its documents can be trained on, and its "
                                        "share of an epoch's 100 is 0; raise its weight or leave it out"):
        epochs_of(folder, 1000, 1000, 1)


def test_an_entry_without_documents_that_fit_is_refused(folder):
    write_dataset(folder / "long", [[([1] * 60, False), ([2], True)]] * 3)
    chosen = open_views([f"1 {folder / 'one'}", f"1 {folder / 'long'}"])[0]
    with pytest.raises(DataError, match=r"'1 0:1 .*long' would never be read: 0 of its documents can be trained on"):
        Epochs(Selection(chosen, row_tokens=ROW, on_long="drop"), seed=3)
