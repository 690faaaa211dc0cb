"""Files of torch.save are read as torch reads them, without running their pickle; what is written torch reads."""

import argparse
import collections
import enum
import io
import sys
import types

import numpy as np
import pytest
import torch

from megatron_ft.errors import CheckpointError
from megatron_ft.runtime import sums, torch_archive, torch_file
from megatron_ft.runtime.pickles import Named
from megatron_ft.runtime.stored_tensor import Reading, is_finite, rows_of

BASE = torch.arange(60.0).view(5, 12)
SAVED = {
    "plain": torch.randn(3, 4), "bf16": torch.randn(2, 5).bfloat16(), "vector": torch.arange(7), "number": torch.tensor(2.5),
    "empty": torch.zeros(0, 3), "bool": torch.tensor([True, False]), "parameter": torch.nn.Parameter(torch.ones(2, 2)),
    "transposed": BASE.t(), "part": BASE[1:3], "columns": BASE[:, 2:5],
    "nested": {"list": [torch.ones(1)], "tuple": (torch.zeros(2),)}, "ordered": collections.OrderedDict(a=torch.ones(3)),
}


def same(stored, expected):
    if isinstance(expected, torch.Tensor):
        found = stored.read()
        return found.dtype == expected.dtype and torch.equal(found, expected)
    if isinstance(expected, dict):
        return list(stored) == list(expected) and all(same(stored[key], expected[key]) for key in expected)
    return len(stored) == len(expected) and all(map(same, stored, expected))


@pytest.mark.parametrize("new", [True, False])
def test_every_kind_of_tensor_is_read_as_torch_reads_it(tmp_path, new):
    torch.save(SAVED, tmp_path / "file.pt", _use_new_zipfile_serialization=new)
    assert same(torch_file.load(tmp_path / "file.pt"), torch.load(tmp_path / "file.pt", weights_only=False))


def test_a_part_of_a_file_is_a_file(tmp_path):
    inside = io.BytesIO()
    torch.save(SAVED["plain"], inside)
    (tmp_path / "file").write_bytes(b"x" * 77 + inside.getvalue() + b"y" * 5)
    stored = torch_file.load(tmp_path / "file", start=77, length=len(inside.getvalue()))
    assert torch.equal(stored.read(), SAVED["plain"])
    assert torch.equal(stored.rows(1, 3), SAVED["plain"][1:3])


@pytest.mark.parametrize("by, argument", [("name", "rotary"), ("value", 1)])
def test_enums_of_a_megatron_that_is_not_here_are_named(tmp_path, by, argument):
    """Python 3.11.0 to 3.11.3 pickled a member by its name, through getattr; others by its value."""
    module = types.ModuleType("megatron.model.enums")
    module.Kind = enum.Enum("Kind", {"rotary": 1}, module=module.__name__)
    reduced = {"name": lambda self, protocol: (getattr, (self.__class__, self._name_)),
               "value": lambda self, protocol: (self.__class__, (self._value_,))}
    module.Kind.__reduce_ex__ = reduced[by]
    sys.modules[module.__name__] = module
    try:
        torch.save({"args": argparse.Namespace(kind=module.Kind.rotary, dtype=torch.bfloat16), "rng": np.random.get_state()},
                   tmp_path / "file.pt")
    finally:
        del sys.modules[module.__name__]
    args = torch_file.load(tmp_path / "file.pt")["args"]
    assert isinstance(args.kind, Named) and args.dtype is torch.bfloat16
    assert (args.kind.name, args.kind.arguments) == ("megatron.model.enums.Kind", (argument,))


@pytest.mark.parametrize("dtype, shape", [(torch.float32, (3,)), (torch.bfloat16, (1, 7, 5)), (torch.float16, (0, 4))])
def test_what_is_written_row_by_row_torch_reads(tmp_path, dtype, shape):
    expected = torch.randn(shape).to(dtype)
    size = torch_archive.saved_bytes(dtype, shape)
    path = tmp_path / "file"
    path.write_bytes(b"z" * (40 + size + 3))
    writer = torch_archive.TensorWriter(path, 40, dtype, shape)
    for row in range(shape[0]):
        writer.write(expected[row:row + 1])
    numbers, archive = writer.finish()
    content = path.read_bytes()
    assert content[:40] == b"z" * 40 and content[40 + size:] == b"z" * 3
    assert archive == sums.crc32(content[40:40 + size])
    assert numbers == sums.crc32(expected.view(torch.uint8).numpy().tobytes() if expected.numel() else b"")
    assert torch.equal(torch.load(io.BytesIO(content[40:40 + size]), weights_only=True), expected)


def test_tensors_that_are_still_to_come_are_saved_in_their_place(tmp_path):
    first, second = torch.randn(2, 3), torch.randn(4).half()
    value = {"a": torch_archive.Coming(first.dtype, (2, 3)), "args": argparse.Namespace(dtype=torch.float16),
             "b": [torch_archive.Coming(second.dtype, (4,))]}
    with torch_archive.save(tmp_path / "file.pt", value) as tensors:
        for tensor, stream in tensors:
            stream.write((first if tensor is value["a"] else second).numpy().tobytes())
    loaded = torch.load(tmp_path / "file.pt", weights_only=False)
    assert torch.equal(loaded["a"], first) and torch.equal(loaded["b"][0], second) and loaded["args"].dtype is torch.float16


def test_rows_may_be_read_in_any_order_and_their_sum_is_the_files(tmp_path):
    expected = torch.randn(9, 4)
    torch.save(expected, tmp_path / "file.pt")
    stored = torch_file.load(tmp_path / "file.pt")
    reading = Reading(stored, "it")
    for start, stop in ((4, 6), (0, 1), (7, 9)):  # rows 1 to 3 and 6 are left to finish
        assert torch.equal(reading.rows(start, stop), expected[start:stop])
    assert reading.finish() == sums.text(sums.crc32(expected.numpy().tobytes())) == sums.text(stored.crc32)


def test_a_byte_that_was_flipped_within_a_tensor_is_noticed(tmp_path):
    torch.save(torch.ones(9, 4), tmp_path / "file.pt")
    stored = torch_file.load(tmp_path / "file.pt")
    content = bytearray((tmp_path / "file.pt").read_bytes())
    content[stored.offset + 50] ^= 1
    (tmp_path / "file.pt").write_bytes(content)
    reading = Reading(torch_file.load(tmp_path / "file.pt"), "weight")
    with pytest.raises(CheckpointError, match="weight has the checksum .{8}, but the file says .{8}; it is damaged"):
        reading.finish()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_only_finite_numbers_are_finite(dtype):
    for bad in (float("nan"), float("inf"), -float("inf")):
        numbers = torch.full((1000,), torch.finfo(dtype).max, dtype=dtype)
        assert is_finite(numbers) and is_finite(-numbers)
        numbers[777] = bad
        assert not is_finite(numbers)
    assert is_finite(torch.zeros(0, dtype=dtype))


def test_a_piece_has_at_least_a_row():
    assert rows_of((10, 1000), torch.float32, piece_bytes=100) == 1
    assert rows_of((10, 5), torch.float32, piece_bytes=100) == 5
    assert rows_of((10,), torch.float32, piece_bytes=100) == 25


def test_a_file_that_torch_did_not_write_is_refused(tmp_path):
    for content in (b"", b"PK\x03\x04", b"hello", b"\x80\x02K\x01."):
        (tmp_path / "file.pt").write_bytes(content)
        with pytest.raises(CheckpointError, match="file.pt: it cannot be read .* take another copy"):
            torch_file.load(tmp_path / "file.pt")
    with pytest.raises(CheckpointError, match="not found"):
        torch_file.load(tmp_path / "absent.pt")


@pytest.mark.parametrize("numbers", [200, 2000])
def test_archives_beyond_zip64s_limit_are_as_long_as_announced(tmp_path, monkeypatch, numbers):
    monkeypatch.setattr("zipfile.ZIP64_LIMIT", 4000)
    expected = torch.randn(numbers)
    size = torch_archive.saved_bytes(expected.dtype, (numbers,))
    (tmp_path / "file").write_bytes(b"")
    writer = torch_archive.TensorWriter(tmp_path / "file", 0, expected.dtype, (numbers,))
    writer.write(expected)
    writer.finish()
    assert (tmp_path / "file").stat().st_size == size == writer.bytes
    assert torch.equal(torch.load(tmp_path / "file", weights_only=True), expected)
    assert torch.equal(torch_file.load(tmp_path / "file").read(), expected)


def test_containers_in_many_containers_are_gone_through_once(tmp_path):
    value = [torch.ones(1)]
    for _ in range(60):
        value = [value, value]
    torch.save(value, tmp_path / "file.pt")
    assert len(torch_file.load(tmp_path / "file.pt")) == 2
