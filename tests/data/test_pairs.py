"""A dataset pair of OctoPack's gives what the native dataset of the same ids gives, or says why it cannot be read."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from megatron.core.datasets.indexed_dataset import IndexedDataset, IndexedDatasetBuilder

from megatron_ft.data.indexed import open_dataset
from megatron_ft.data.loader import Loader, ValidationLoader
from megatron_ft.data.pairs import INPUTS, TARGETS, open_pair
from megatron_ft.data.selection import Selection
from megatron_ft.data.source import open_views
from megatron_ft.errors import ConfigError, DataError
from tests.data.shared import SFT_ROWS, STARCODER, needs_data
from tests.data.small_datasets import END_OF_TEXT, write_dataset
from tests.data.small_pairs import pairs_of, write_half, write_pair

TOKENIZE = Path(__file__).resolve().parents[2] / "preprocess" / "tokenize_sft.py"
PAIRS = [([5, 6], [7, 8]), ([9], [4, END_OF_TEXT]), ([1, 2, 3], [1])]
TENSORS = ("tokens", "labels", "loss_mask", "weight", "position_ids", "cu_seqlens")


@pytest.fixture
def prefix(tmp_path):
    return str(write_pair(tmp_path / "pair", PAIRS))


def views_of(*train: str, valid: tuple[str, ...] = ()):
    return open_views(train, valid, end_of_text=lambda: END_OF_TEXT)


def prompts_and_answers(count: int) -> list:
    """Native documents with different ids at every place, closed by the end-of-text token."""
    random = np.random.RandomState(4)
    return [[(random.randint(1, 900, random.randint(1, 20)).tolist(), False),
             ([*random.randint(1, 900, random.randint(1, 20)).tolist(), END_OF_TEXT], True)] for _ in range(count)]


def require_same_batches(native: Path, pair: Path, *, row_tokens: int, steps: int) -> None:
    """The same documents in the same rows, and every tensor of every batch equal, in training and in validation."""
    train, valid = [f"0:0.9 {native}"], [f"0.9:1 {native}"]
    end_of_text = open_dataset(native).end_of_text
    of_native = open_views(train, valid)
    of_pair = open_views([text.replace(str(native), str(pair)) for text in train],
                         [text.replace(str(native), str(pair)) for text in valid], end_of_text=lambda: end_of_text)
    options = {"row_tokens": row_tokens, "rows_per_step": 4, "rows_per_micro_batch": 2, "on_long": "truncate"}
    one, other = (Loader(views[0], seed=3, **options) for views in (of_native, of_pair))
    assert one.rows_per_epoch == other.rows_per_epoch and one.selection.counts == other.selection.counts
    ours = [next(one) for _ in range(steps)] + list(ValidationLoader(of_native[1], **options))
    theirs = [next(other) for _ in range(steps)] + list(ValidationLoader(of_pair[1], **options))
    for left, right in zip(ours, theirs, strict=True):
        for batch, paired in zip(left, right, strict=True):
            for name in TENSORS:
                assert torch.equal(getattr(batch, name), getattr(paired, name)), name
            assert (batch.supervised, batch.targets, batch.max_seqlen) == (paired.supervised, paired.targets, paired.max_seqlen)
            assert [[number for _, number in row] for row in batch.rows] == [
                [number for _, number in row] for row in paired.rows]


def test_documents_are_inputs_targets_and_one_end_of_text(prefix):
    pair = open_pair(prefix, end_of_text=END_OF_TEXT)
    documents = [pair.document(number) for number in range(3)]
    assert [ids.tolist() for ids, _ in documents] == [[5, 6, 7, 8, 0], [9, 4, 0], [1, 2, 3, 1, 0]]
    assert [supervised.tolist() for _, supervised in documents] == [
        [False, False, True, True, True], [False, True, True], [False, False, False, True, True]]
    assert {ids.dtype for ids, _ in documents} == {np.dtype(np.int32)}
    assert (pair.documents, pair.lengths.tolist(), pair.supervised.tolist()) == (3, [5, 3, 5], [3, 2, 2])
    assert pair.vocabulary == 10


@pytest.mark.parametrize(("dtype", "most"), [(np.uint16, 60_000), (np.int32, 120_000)])
def test_both_widths_of_megatron_core_are_read_with_their_highest_id(tmp_path, dtype, most):
    prefix = write_pair(tmp_path / "pair", [([most, 1], [2]), ([3], [most - 1])], dtype=dtype)
    assert IndexedDataset(f"{prefix}{INPUTS}").index.dtype == dtype
    pair = open_pair(prefix, end_of_text=END_OF_TEXT)
    assert pair.document(0)[0].tolist() == [most, 1, 2, END_OF_TEXT]
    assert pair.vocabulary == most + 1


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
@pytest.mark.parametrize("with_end", [True, False])
def test_a_pair_gives_the_batches_of_the_native_dataset(tmp_path, dtype, with_end):
    native = write_dataset(tmp_path / "native", prompts_and_answers(97))
    pair = write_pair(tmp_path / "pair", pairs_of(open_dataset(native), with_end=with_end), dtype=dtype)
    require_same_batches(native, pair, row_tokens=30, steps=40)


@needs_data
@pytest.mark.parametrize("row_tokens", [2048, 8192])
def test_the_pair_of_the_real_rows_gives_the_batches_of_the_native_dataset(real, row_tokens):
    native, pair = real
    require_same_batches(native, pair, row_tokens=row_tokens, steps=30)


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """The 1178 real rows, natively and as megatron-core's builder writes the same ids into a pair."""
    folder = tmp_path_factory.mktemp("real")
    subprocess.run([sys.executable, TOKENIZE, "--input", SFT_ROWS, "--output", folder / "native", "--tokenizer", STARCODER,
                    "--template", "plain"], check=True, capture_output=True)
    return folder / "native", write_pair(folder / "pair", pairs_of(open_dataset(folder / "native"), with_end=False))


def test_train_and_validation_ranges_of_a_pair_split_its_documents(tmp_path):
    prefix = write_pair(tmp_path / "pair", [([1], [2])] * 20)
    train, valid = views_of(f"0:0.85 {prefix}", valid=(f"0.85:1 {prefix}",))
    assert [(view.first, view.last) for view in (*train, *valid)] == [(0, 17), (17, 20)]


def test_a_copied_pair_is_the_same_dataset(tmp_path, prefix):
    for half in (INPUTS, TARGETS):
        for suffix in (".bin", ".idx"):
            shutil.copy(f"{prefix}{half}{suffix}", tmp_path / f"copy{half}{suffix}")
    with pytest.raises(DataError, match=r"'0:1 .*pair' and '0.5:1 .*copy' share 1 documents"):
        views_of(prefix, valid=(f"0.5:1 {tmp_path / 'copy'}",))


def test_pairs_of_the_same_prompts_with_other_answers_are_different_datasets(tmp_path, prefix):
    other = write_pair(tmp_path / "other", [(inputs, [8]) for inputs, _ in PAIRS])
    assert len(views_of(prefix, str(other))[0]) == 2


def test_what_a_checkpoint_remembers_changes_with_ids_and_with_end_of_text(tmp_path, prefix):
    other = write_pair(tmp_path / "other", [*PAIRS[:2], ([1, 2, 3], [2])])
    prints = {Selection(open_views([str(name)], end_of_text=lambda end=end: end)[0], row_tokens=9).fingerprint
              for name, end in ((prefix, END_OF_TEXT), (other, END_OF_TEXT), (prefix, 11))}
    assert len(prints) == 3


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pairs=st.lists(st.tuples(*[st.lists(st.integers(0, 9), min_size=1, max_size=5)] * 2), min_size=1, max_size=8))
def test_any_pair_keeps_its_ids_lengths_and_counts(tmp_path, pairs):
    pair = open_pair(write_pair(tmp_path / "any", pairs), end_of_text=END_OF_TEXT)
    for number, (inputs, targets) in enumerate(pairs):
        ids, supervised = pair.document(number)
        answer = targets if targets[-1] == END_OF_TEXT else [*targets, END_OF_TEXT]
        assert ids.tolist() == [*inputs, *answer]
        assert supervised.tolist() == [False] * len(inputs) + [True] * len(answer)
        assert (pair.lengths[number], pair.supervised[number]) == (len(ids), supervised.sum())


def test_a_native_dataset_of_the_same_name_comes_first(tmp_path, prefix):
    write_dataset(Path(prefix), prompts_and_answers(4))
    assert views_of(prefix)[0][0].dataset.documents == 4


@pytest.mark.parametrize("half", [INPUTS, TARGETS])
def test_one_half_is_refused_with_the_name_of_the_pair(prefix, half):
    with pytest.raises(DataError, match=rf"pair{half}' is one half of a dataset pair; name the pair: '{prefix}'"):
        views_of(f"{prefix}{half}")


@pytest.mark.parametrize("missing", [f"{INPUTS}.idx", f"{TARGETS}.bin"])
def test_a_missing_file_is_named(prefix, missing):
    Path(f"{prefix}{missing}").unlink()
    with pytest.raises(DataError, match=rf"pair{missing}: there is no such file, but others of the pair '.*pair' are there"):
        views_of(prefix)


def test_unequal_counts_are_refused_with_both_and_the_reason(prefix):
    write_half(Path(f"{prefix}{TARGETS}"), [[7], [8]])
    with pytest.raises(DataError, match=r"pair_inputs_document has 3 documents and pair_targets_document 2: where a side was "
                                        "empty, only the other was written, and every pair after it is shifted"):
        views_of(prefix)


def test_documents_of_several_sequences_are_refused(prefix):
    builder = IndexedDatasetBuilder(f"{prefix}{INPUTS}.bin", dtype=np.uint16)
    builder.add_document(torch.tensor([1, 2, 3]), [2, 1])
    builder.finalize(f"{prefix}{INPUTS}.idx")
    with pytest.raises(DataError, match="pair_inputs_document.idx: has 2 sequences in 1 documents; in a pair every document"):
        views_of(prefix)


def test_a_truncated_half_is_refused_with_both_sizes(prefix):
    path = Path(f"{prefix}{TARGETS}.bin")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match="pair_targets_document.bin: has 9 bytes where its index asks for 10; it is truncated"):
        views_of(prefix)


def test_a_damaged_index_is_refused(prefix):
    path = Path(f"{prefix}{TARGETS}.idx")
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(DataError, match="pair_targets_document.idx: has 103 bytes where 3 sequences in 3 documents take 102"):
        views_of(prefix)


def test_an_id_below_zero_is_refused(tmp_path):
    prefix = write_pair(tmp_path / "pair", [([1], [-3])], dtype=np.int32)
    with pytest.raises(DataError, match="pair_targets_document.bin: holds the id -3, and no id is below 0"):
        views_of(str(prefix))


def test_a_pair_without_a_known_end_of_text_is_refused(prefix):
    with pytest.raises(ConfigError, match="data.end_of_text: is not set, and a dataset pair does not say which id ends"):
        open_views([prefix])


def test_a_pair_and_a_dataset_that_end_answers_differently_are_refused(tmp_path, prefix):
    native = write_dataset(tmp_path / "native", prompts_and_answers(4))
    with pytest.raises(DataError, match=r"answers of '0:1 .*pair' end with id 7, those of '0:1 .*native' with id 0"):
        open_views([prefix, str(native)], end_of_text=lambda: 7)
