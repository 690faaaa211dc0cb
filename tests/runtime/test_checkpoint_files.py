"""The files of a checkpoint: their sums while they are written, what is wrong with them later, and how they go."""

import dataclasses
import os
import threading
import zlib
from pathlib import Path

import pytest
import torch

from megatron_ft.runtime import checkpoint_files
from megatron_ft.runtime.checkpoint_files import Record, SummedFile


def test_what_torch_writes_is_summed_up_on_the_way(tmp_path):
    tensor = torch.arange(5_000_011, dtype=torch.float32)  # more than one chunk of 16 MiB
    with SummedFile(tmp_path / "a") as stream:
        torch.save(tensor, stream)
        first = stream.tell()
        stream.write(b"end")
    content = (tmp_path / "a").read_bytes()
    assert stream.record() == Record(len(content), f"{zlib.crc32(content):08x}") == checkpoint_files.record(tmp_path / "a")
    assert len(content) == first + 3
    assert torch.equal(torch.load(tmp_path / "a", weights_only=True), tensor)


def test_an_error_while_torch_writes_is_raised_after_it_with_the_files_name(tmp_path):
    with pytest.raises(OSError, match=r"\[Errno 28\] No space left on device: '/dev/full'"), \
            SummedFile(Path("/dev/full")) as stream:
        torch.save(torch.zeros(1_000_003), stream)
        assert stream.tell() > 4_000_000, "torch went on unharmed"
        with pytest.raises(OSError, match="No space left"):
            stream.check()


def test_a_small_file_on_a_full_disk_is_no_success(tmp_path):
    """Its bytes are still in the buffer when the last write returns."""
    with pytest.raises(OSError, match="No space left"), SummedFile(Path("/dev/full")) as stream:
        stream.write(b"few")


def test_writing_can_be_given_up(tmp_path):
    stop = threading.Event()
    with pytest.raises(InterruptedError, match="given up"), SummedFile(tmp_path / "a", stop=stop) as stream:
        stream.write(b"first")
        stop.set()
        stream.write(b"second")
    assert (tmp_path / "a").read_bytes() == b"first"


def test_damage_is_named_by_file(tmp_path):
    (tmp_path / "hf").mkdir()
    files = {}
    for name, content in {"a": b"aaaa", "b": b"bbb", "hf/c": b"cc"}.items():
        (tmp_path / name).write_bytes(content)
        files[name] = checkpoint_files.record(tmp_path / name)
    assert checkpoint_files.damage(tmp_path, files) == []
    (tmp_path / "hf/c").write_bytes(b"cd")
    assert checkpoint_files.damage(tmp_path, files) == [f"hf/c has the checksum {zlib.crc32(b'cd'):08x}, expected "
                                                        f"{zlib.crc32(b'cc'):08x}"]
    (tmp_path / "a").unlink()
    (tmp_path / "b").write_bytes(b"b")
    assert checkpoint_files.damage(tmp_path, files) == ["a is missing", "b has 1 bytes, expected 3"]


def test_every_file_is_read_by_one_rank_and_the_bytes_are_shared_evenly():
    files = {str(number): Record(size, "") for number, size in enumerate([70, 3, 20, 60, 50, 9, 41])}
    shares = [checkpoint_files.share(files, rank=rank, ranks=3) for rank in range(3)]
    assert sorted(name for share in shares for name in share) == sorted(files)
    assert [sum(record.bytes for record in share.values()) for share in shares] == [82, 80, 91]


def test_a_checkpoint_is_taken_away_whole_and_what_was_left_hidden_is_found(tmp_path):
    folder = tmp_path / "iter_0000250"
    (folder / "hf").mkdir(parents=True)
    (tmp_path / ".iter_0000250.removed" / "old").mkdir(parents=True)
    hidden = checkpoint_files.hide(folder)
    assert not folder.exists() and (hidden / "hf").is_dir()
    (tmp_path / ".iter_0000500.partial").mkdir()
    (tmp_path / ".other.partial").mkdir()
    (tmp_path / ".latest_checkpointed_iteration.txt.q3_x").write_text("500")  # killed before its rename
    left = sorted(checkpoint_files.leftovers(tmp_path))
    assert [path.name for path in left] == [".iter_0000250.removed", ".iter_0000500.partial",
                                            ".latest_checkpointed_iteration.txt.q3_x"]
    for path in left:
        checkpoint_files.delete(path)
    assert [path.name for path in tmp_path.iterdir()] == [".other.partial"]
    assert checkpoint_files.leftovers(tmp_path / "nowhere") == []


def test_free_space_is_that_of_the_disk_a_folder_will_be_on(tmp_path):
    assert abs(checkpoint_files.free_bytes(tmp_path / "not" / "yet") - checkpoint_files.free_bytes(tmp_path)) < 2**30
    stat = os.statvfs(tmp_path)
    assert abs(checkpoint_files.free_bytes(tmp_path) - stat.f_bavail * stat.f_frsize) < 2**30


def test_records_survive_json():
    assert Record(**dataclasses.asdict(Record(3, "0000ffff"))) == Record(3, "0000ffff")
