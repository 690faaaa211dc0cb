"""What a rank gets: every label by position, every document once, the same rows in every layout, exact resume."""

import itertools

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import GPTBigCodeConfig, GPTBigCodeForCausalLM

from megatron_ft.data.loader import Batch, Loader, ValidationLoader
from megatron_ft.data.selection import Selection
from megatron_ft.data.source import open_views
from megatron_ft.errors import ConfigError, DataError
from tests.data.small_datasets import END_OF_TEXT, random_documents, write_dataset

ROW = 41  # fits the longest random document (40 tokens) with room to spare


@pytest.fixture
def views(tmp_path):
    write_dataset(tmp_path / "mix", random_documents(97, seed=1))
    return open_views([str(tmp_path / "mix")])[0]


def one_row(tmp_path, documents, **options) -> Batch:
    views, _ = open_views([str(write_dataset(tmp_path / "one", documents))])
    (batch,) = next(Loader(views, row_tokens=options.pop("row_tokens", 10), rows_per_step=1, **options))
    return batch


def rows_of(batches: list[Batch]) -> list:
    return [row for batch in batches for row in batch.rows]


def flat(batch: Batch) -> list[list]:
    return [getattr(batch, name)[0].tolist() for name in ("tokens", "labels", "loss_mask", "position_ids")]


def test_a_row_worked_out_by_hand(tmp_path):
    batch = one_row(tmp_path, [[([5, 6], False), ([7, 8, 0], True)], [([9], False), ([4, 0], True)]])
    tokens, labels, mask, positions = flat(batch)
    assert tokens == [5, 6, 7, 8, 9, 4, 0, 0, 0, 0]
    assert labels == [6, 7, 8, 0, 4, 0, 0, 0, 0, 0]
    assert mask == [0, 1, 1, 1, 1, 1, 0, 0, 0, 0]
    assert positions == [0, 1, 2, 3, 0, 1, 0, 0, 0, 0]
    assert batch.cu_seqlens.tolist() == [0, 4, 6, 10]
    assert (batch.max_seqlen, batch.supervised, batch.targets, batch.documents) == (4, 5, 2, 2)
    assert [number for _, number in batch.rows[0]] == [0, 1]


def test_dtypes_are_the_contract(tmp_path):
    batch = one_row(tmp_path, [[([5], False), ([7, 0], True)]])
    assert batch.tokens.dtype == batch.labels.dtype == batch.position_ids.dtype == torch.int64
    assert batch.loss_mask.dtype == batch.weight.dtype == torch.float32
    assert batch.cu_seqlens.dtype == torch.int32
    assert batch.tokens.shape == (1, 10)


def test_end_of_text_inside_a_prompt_is_masked_and_at_the_end_supervised_though_padding_has_its_id(tmp_path):
    _, labels, mask, _ = flat(one_row(tmp_path, [[([5, END_OF_TEXT, 6], False), ([7, END_OF_TEXT], True)]]))
    assert [(label, on) for label, on in zip(labels, mask, strict=True) if label == END_OF_TEXT] == [
        (END_OF_TEXT, 0.0), (END_OF_TEXT, 1.0)] + [(END_OF_TEXT, 0.0)] * 6


def test_each_target_weighs_one_in_total(tmp_path):
    turns = [([1, 2], False), ([3, 4, 0], True), ([5], False), ([6, 0], True)]
    batch = one_row(tmp_path, [turns], weighting="target")
    assert batch.weight[0].tolist() == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3, 0, 1 / 2, 1 / 2, 0, 0, 0])
    assert (batch.targets, batch.supervised) == (2, 5)
    assert float(batch.weight.sum()) == pytest.approx(2)


def test_answers_of_neighbouring_documents_are_two_targets(tmp_path):
    batch = one_row(tmp_path, [[([1, 2, 3, 0], True)], [([4, 5, 0], True)]], weighting="target")
    assert batch.targets == 2
    assert batch.weight[0].tolist() == pytest.approx([1 / 3] * 3 + [1 / 2] * 2 + [0] * 5)


def test_loss_on_all_supervises_every_label_whatever_the_segments_say(tmp_path):
    documents = [[([5, 6], False), ([7, 8, 0], True), ([1], False)], [([9, 4], False)]]
    batch = one_row(tmp_path, documents, loss_on="all")
    tokens, labels, mask, _ = flat(batch)
    assert tokens == [5, 6, 7, 8, 0, 9, 0, 0, 0, 0]
    assert labels == [6, 7, 8, 0, 1, 4, 0, 0, 0, 0]
    assert mask == batch.weight[0].tolist() == [1] * 6 + [0] * 4
    assert (batch.supervised, batch.documents) == (6, 2)


MUTE = [[([5, 6, 7], False)], [([9], False), ([4, 0], True)], [([3], True)], [([1] * 20, False), ([2] * 9, True)]]
"""Documents of which the first has no answer, the third nothing to predict, and the last no answer within a row of 10."""


def test_with_loss_on_all_a_document_without_an_answer_is_read_and_one_of_a_single_token_is_not(tmp_path):
    views, _ = open_views([str(write_dataset(tmp_path / "one", MUTE))])
    options = {"row_tokens": 10, "on_long": "truncate"}
    answers, everything = (Selection(views, loss_on=what, **options) for what in ("answers", "all"))
    assert [everything.identity(index)[1] for index in range(everything.documents)] == [0, 1, 3]
    assert everything.counts == {"truncated": 1, "dropped: no supervised token": 1}
    assert [answers.identity(index)[1] for index in range(answers.documents)] == [1]
    with pytest.raises(DataError, match=r"1 documents .* have no supervised token .* \(the first is document 2\)"):
        Selection(views, loss_on="all", on_unsupervised="stop", **options)
    (step,) = ValidationLoader(views, rows_per_step=2, loss_on="all", **options)
    assert sum(batch.supervised for batch in step) == 2 + 2 + 10


def test_what_is_supervised_changes_the_order_of_rows_only_if_it_changes_the_documents(views, tmp_path):
    options = {"row_tokens": ROW, "rows_per_step": 4, "seed": 3}
    answers, everything = (Loader(views, loss_on=what, **options) for what in ("answers", "all"))
    assert answers.fingerprint == everything.fingerprint
    assert rows_of(next(answers)) == rows_of(next(everything))
    mute, _ = open_views([str(write_dataset(tmp_path / "mute", MUTE))])
    assert Loader(mute, **options).fingerprint != Loader(mute, loss_on="all", **options).fingerprint


def test_loss_on_all_is_the_loss_of_transformers_on_its_input_ids(views):
    config = GPTBigCodeConfig(vocab_size=128, n_positions=ROW, n_embd=12, n_layer=1, n_head=3, n_inner=20)
    torch.manual_seed(0)
    model = GPTBigCodeForCausalLM(config).eval()
    batches = [batch for step in ValidationLoader(views, row_tokens=ROW, rows_per_step=8, loss_on="all") for batch in step]
    with torch.no_grad():
        theirs = sum(float(model(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1) for ids in (
            torch.from_numpy(views[0].dataset.document(number)[0].astype(np.int64))[None] for number in range(97)))
        ours = sum(float((batch.weight * cross_entropy(alone_logits(model, batch), batch.labels[0], reduction="none")).sum())
                   for batch in batches)
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert sum(batch.supervised for batch in batches) == views[0].dataset.lengths.sum() - 97


def alone_logits(model, batch: Batch) -> torch.Tensor:
    """Logits [m*T, vocabulary] of each of a batch's documents as if it were alone."""
    return torch.cat([model(input_ids=part).logits[0] for part in batch.tokens.split(batch.cu_seqlens.diff().tolist(), dim=1)])


def test_a_row_without_room_has_no_padding_document(tmp_path):
    batch = one_row(tmp_path, [[([1, 2], False), ([3] * 9, True)]])
    assert batch.cu_seqlens.tolist() == [0, 10]


def test_micro_batch_of_rows_is_one_packed_sequence(views):
    (batch,) = next(Loader(views, row_tokens=ROW, rows_per_step=3, rows_per_micro_batch=3))
    singles = next(Loader(views, row_tokens=ROW, rows_per_step=3))
    for name in ("tokens", "labels", "loss_mask", "weight", "position_ids"):
        assert torch.equal(getattr(batch, name), torch.cat([getattr(single, name) for single in singles], dim=1))
    starts = [single.cu_seqlens[:-1] + number * ROW for number, single in enumerate(singles)]
    assert batch.cu_seqlens.tolist() == [*torch.cat(starts).tolist(), 3 * ROW]
    assert batch.supervised == sum(single.supervised for single in singles)


def test_an_epoch_reads_every_document_once_and_epochs_differ(views):
    loader = Loader(views, row_tokens=ROW, rows_per_step=1)
    epochs = [[rows_of(next(loader))[0] for _ in range(loader.rows_per_epoch)] for _ in range(2)]
    for rows in epochs:
        assert sorted(number for row in rows for _, number in row) == list(range(97))
    assert epochs[0] != epochs[1]
    assert loader.epoch == 2.0


def test_a_step_goes_on_into_the_next_epoch(views):
    rows = Loader(views, row_tokens=ROW, rows_per_step=1).rows_per_epoch
    single = Loader(views, row_tokens=ROW, rows_per_step=1)
    loader = Loader(views, row_tokens=ROW, rows_per_step=2 * rows + 3)
    step = rows_of(next(loader))
    assert step == [rows_of(next(single))[0] for _ in range(2 * rows + 3)]
    counts = np.bincount([number for row in step[:2 * rows] for _, number in row])
    assert set(counts) == {2}


@pytest.mark.parametrize("position_steps", [1, 7, 23])
def test_resume_from_a_position_is_exact(views, position_steps):
    options = {"row_tokens": ROW, "rows_per_step": 8, "rows_per_micro_batch": 2, "seed": 5}
    whole = Loader(views, **options)
    for _ in range(position_steps):
        next(whole)
    resumed = Loader(views, position=whole.position, **options)
    for ours, theirs in zip(itertools.islice(whole, 5), itertools.islice(resumed, 5), strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert one.rows == other.rows
            assert torch.equal(one.tokens, other.tokens)
            assert torch.equal(one.cu_seqlens, other.cu_seqlens)
    assert whole.position == resumed.position == (position_steps + 5) * 8


@pytest.mark.parametrize(("dp_size", "rows_per_micro_batch"), [(1, 4), (2, 1), (2, 3), (4, 3), (12, 1)])
def test_a_step_has_the_same_rows_in_every_layout(views, dp_size, rows_per_micro_batch):
    reference = Loader(views, row_tokens=ROW, rows_per_step=12)
    ranks = [Loader(views, row_tokens=ROW, rows_per_step=12, rows_per_micro_batch=rows_per_micro_batch, dp_rank=rank,
                    dp_size=dp_size) for rank in range(dp_size)]
    for _ in range(5):
        shares = [next(rank) for rank in ranks]
        dealt = [row for turn in zip(*shares, strict=True) for batch in turn for row in batch.rows]
        assert dealt == rows_of(next(reference))


def test_seeds_give_other_orders_and_other_fingerprints(views):
    one, other = (Loader(views, row_tokens=ROW, rows_per_step=4, seed=seed) for seed in (1, 2))
    assert one.fingerprint != other.fingerprint
    assert rows_of(next(one)) != rows_of(next(other))
    assert Loader(views, row_tokens=ROW, rows_per_step=2, seed=1).fingerprint == one.fingerprint


@pytest.mark.parametrize(("dp_size", "rows_per_micro_batch"), [(1, 1), (2, 2), (3, 1)])
def test_validation_reads_all_rows_once_with_equally_many_micro_batches(views, dp_size, rows_per_micro_batch):
    ranks = [list(ValidationLoader(views, row_tokens=ROW, rows_per_step=12, rows_per_micro_batch=rows_per_micro_batch,
                                   dp_rank=rank, dp_size=dp_size)) for rank in range(dp_size)]
    assert len({tuple(len(step) for step in rank) for rank in ranks}) == 1
    batches = [batch for rank in ranks for step in rank for batch in step]
    assert sorted(number for batch in batches for row in batch.rows for _, number in row) == list(range(97))
    assert sum(batch.supervised for batch in batches) == views[0].dataset.supervised.sum()
    assert len(ranks[0]) == len(ValidationLoader(views, row_tokens=ROW, rows_per_step=12,
                                                 rows_per_micro_batch=rows_per_micro_batch, dp_size=dp_size))


def test_validation_fills_its_last_step_to_whole_turns_of_micro_batches(views):
    """47 rows: 40 in the first step, and of the last 7 rows two ranks get 4 micro-batches each, which become 5."""
    for rank in range(2):
        loader = ValidationLoader(views, row_tokens=ROW, rows_per_step=40, dp_rank=rank, dp_size=2, micro_batches_multiple=5)
        assert [len(step) for step in loader] == [20, 5]


def test_an_empty_row_has_no_loss_but_is_a_whole_sequence(tmp_path):
    views, _ = open_views([str(write_dataset(tmp_path / "one", [[([5], False), ([7, 0], True)]]))])
    (step,) = ValidationLoader(views, row_tokens=10, rows_per_step=2, dp_rank=1, dp_size=2)
    (batch,) = step
    assert (batch.documents, batch.supervised, batch.targets, float(batch.loss_mask.sum())) == (0, 0, 0, 0.0)
    assert batch.cu_seqlens.tolist() == [0, 10]


def test_rows_that_cannot_be_dealt_out_are_refused(views):
    with pytest.raises(ConfigError, match=r"10 rows per step .*2 rows per micro-batch x 2 data-parallel ranks = 4"):
        Loader(views, row_tokens=ROW, rows_per_step=10, rows_per_micro_batch=2, dp_size=2)


def test_no_entry_is_refused():
    with pytest.raises(DataError, match="no dataset is named"):
        ValidationLoader([], row_tokens=ROW, rows_per_step=1)
