"""The format is megatron-core's: each side reads what the other wrote; what is damaged is refused by name."""

import json

import numpy as np
import pytest
import torch
from megatron.core.datasets.indexed_dataset import IndexedDataset, IndexedDatasetBuilder

from megatron_ft.data.indexed import dtype_for, open_dataset, read_index
from megatron_ft.data.writer import Writer
from megatron_ft.errors import DataError
from tests.data.small_datasets import random_documents, write_dataset

TWO_TURNS = [([5, 6], False), ([7, 0], True), ([8], False), ([9, 4, 0], True)]


@pytest.fixture
def prefix(tmp_path):
    return write_dataset(tmp_path / "mix", [TWO_TURNS, [([3], False), ([1, 0], True)]])


def test_megatron_core_reads_what_we_write(tmp_path):
    documents = random_documents(20, seed=3)
    written = IndexedDataset(str(write_dataset(tmp_path / "mix", documents)), multimodal=True)
    segments = [segment for document in documents for segment in document]
    assert len(written) == len(segments)
    for number, (ids, supervised) in enumerate(segments):
        tokens, mode = written[number]
        assert tokens.tolist() == list(ids)
        assert mode == int(supervised)
    assert written.document_indices.tolist() == list(range(0, 41, 2))
    assert written.index.sequence_modes.tolist() == [0, 1] * 20


@pytest.mark.parametrize("vocabulary", [1000, 70000])
def test_files_are_byte_for_byte_megatron_cores(tmp_path, vocabulary):
    builder = IndexedDatasetBuilder(str(tmp_path / "theirs.bin"), dtype=dtype_for(vocabulary).type, multimodal=True)
    with Writer(tmp_path / "ours", vocabulary=vocabulary) as writer:
        for segments in (TWO_TURNS, [([3], False), ([1, 0], True)]):
            ids = [token for part, _ in segments for token in part]
            lengths, modes = [len(part) for part, _ in segments], [int(mode) for _, mode in segments]
            builder.add_document(torch.tensor(ids), lengths, modes)
            writer.add(np.array(ids), np.array(lengths), np.array(modes))
        writer.finish()
    builder.finalize(str(tmp_path / "theirs.idx"))
    for suffix in (".bin", ".idx"):
        assert (tmp_path / f"ours{suffix}").read_bytes() == (tmp_path / f"theirs{suffix}").read_bytes()


def test_blocks_of_documents_are_written_as_one_by_one(tmp_path):
    documents = random_documents(6, seed=2)
    write_dataset(tmp_path / "single", documents)
    segments = [segment for document in documents for segment in document]
    with Writer(tmp_path / "block", vocabulary=1000) as writer:
        writer.add(np.concatenate([ids for ids, _ in segments]), np.array([len(ids) for ids, _ in segments]),
                   np.array([int(mode) for _, mode in segments]), segments=np.full(6, 2))
        writer.finish()
    for suffix in (".bin", ".idx"):
        assert (tmp_path / f"block{suffix}").read_bytes() == (tmp_path / f"single{suffix}").read_bytes()


def test_documents_come_back_with_their_masks(prefix):
    dataset = open_dataset(prefix)
    ids, supervised = dataset.document(0)
    assert ids.tolist() == [5, 6, 7, 0, 8, 9, 4, 0]
    assert ids.dtype == np.int32
    assert supervised.tolist() == [False, False, True, True, False, True, True, True]
    assert (dataset.documents, dataset.lengths.tolist(), dataset.supervised.tolist()) == (2, [8, 3], [5, 2])


def test_a_supervised_first_token_is_not_counted_since_nothing_predicts_it(tmp_path):
    dataset = open_dataset(write_dataset(tmp_path / "plain", [[([1, 2, 0], True)]]))
    assert dataset.supervised.tolist() == [2]


def test_no_index_is_refused_with_its_first_bytes(prefix):
    prefix.with_suffix(".idx").write_bytes(b"PK\x03\x04 something else")
    with pytest.raises(DataError, match=r"mix.idx: is no index \(first bytes b'PK.*b'MMIDIDX"):
        open_dataset(prefix)


def test_a_truncated_bin_is_refused_with_both_sizes(prefix):
    path = prefix.with_suffix(".bin")
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(DataError, match=r"mix.bin: has 19 bytes where its index asks for 22; it is truncated"):
        open_dataset(prefix)


@pytest.mark.parametrize("keep", [20, 60, -1])
def test_a_truncated_index_is_refused(prefix, keep):
    path = prefix.with_suffix(".idx")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match="mix.idx: (is truncated: 20 bytes|has .* bytes where 6 sequences in 2)"):
        open_dataset(prefix)


def test_an_index_without_modes_is_refused(prefix):
    builder = IndexedDatasetBuilder(str(prefix.with_suffix(".bin")), dtype=np.uint16)
    builder.add_document(torch.tensor([1, 2, 3]), [2, 1])
    builder.finalize(str(prefix.with_suffix(".idx")))
    with pytest.raises(DataError, match="mix.idx: has no mode per segment, so nothing says which tokens are answers"):
        read_index(prefix.with_suffix(".idx"))


@pytest.mark.parametrize(("offset", "value", "fault"), [
    (9, 2, "has version 2 and dtype code 8"), (17, 6, "has version 1 and dtype code 6"),
    (34, 0, "a sequence without tokens"), (34 + 24 + 8, 99, "byte offsets"),
    (34 + 72 + 8, 5, "document starts"), (34 + 72 + 24, 7, "a mode other than 0")])
def test_a_damaged_index_is_refused_by_its_fault(prefix, offset, value, fault):
    path = prefix.with_suffix(".idx")
    content = bytearray(path.read_bytes())
    content[offset] = value
    if fault == "document starts":
        content[offset + 8] = 1  # falls from 5 to 1
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match=fault):
        read_index(path)


def test_a_dataset_without_manifest_was_never_finished(prefix):
    prefix.with_suffix(".json").unlink()
    with pytest.raises(DataError, match="mix.json: is missing, so the dataset was never finished"):
        open_dataset(prefix)


def test_a_manifest_of_another_dataset_is_refused(prefix, tmp_path):
    other = write_dataset(tmp_path / "other", [[([5, 6], False), ([7, 1], True)]])
    prefix.with_suffix(".json").write_bytes(other.with_suffix(".json").read_bytes())
    with pytest.raises(DataError, match=r"mix.json: was written for another mix.idx or mix.bin"):
        open_dataset(prefix)


@pytest.mark.parametrize(("text", "message"), [
    ("{", "is no manifest"), ("[]", "is no manifest"),
    (json.dumps({"format": 9}), "has format 9, this version reads 2"),
    (json.dumps({"format": 2, "colour": 1}), r"missing or unknown: bin_file, colour, counts")])
def test_a_bad_manifest_is_refused(prefix, text, message):
    prefix.with_suffix(".json").write_text(text)
    with pytest.raises(DataError, match=message):
        open_dataset(prefix)


def test_a_prefix_without_files_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"gone.bin: there is no such file; .* must be the --output .* of a dataset pair"):
        open_dataset(tmp_path / "gone")


def test_mode_bytes_are_where_the_format_says(prefix):
    assert prefix.with_suffix(".idx").read_bytes()[-6:] == bytes([0, 1, 0, 1, 0, 1])


def test_a_writer_goes_on_from_what_was_synced_and_forgets_what_came_later(tmp_path):
    def add(writer, *sizes):
        for size in sizes:
            writer.add(np.arange(size), np.array([1, size - 1]), np.array([0, 1]))

    with Writer(tmp_path / "a", vocabulary=100) as writer:
        add(writer, 5, 3)
        extent = writer.sync()
        add(writer, 90, 80)  # then the process is killed
    with Writer(tmp_path / "a", vocabulary=100, after=extent) as writer:
        add(writer, 4)
        writer.finish()
    with Writer(tmp_path / "b", vocabulary=100) as writer:
        add(writer, 5, 3, 4)
        writer.finish()
    for suffix in (".bin", ".idx"):
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bin", "a.idx", "b.bin", "b.idx"]


def test_a_large_index_is_written_as_a_small_one(tmp_path, monkeypatch):
    documents = random_documents(40, seed=3)
    whole = write_dataset(tmp_path / "whole", documents)
    monkeypatch.setattr("megatron_ft.data.writer.AT_ONCE", 7)
    pieces = write_dataset(tmp_path / "pieces", documents)
    assert pieces.with_suffix(".idx").read_bytes() == whole.with_suffix(".idx").read_bytes()
