"""A cached packing is the packing: keyed by all that it depends on, believed only when whole, never in the way."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from megatron_ft.data import pack, pack_cache
from megatron_ft.data.pack import Packing
from megatron_ft.data.pack_cache import LEFTOVER_AGE_S, key_of, read, write

ROW = 64
LENGTHS = np.random.RandomState(2).randint(1, ROW + 1, size=500)
ARRAY = np.arange(7)
KEY = "0" * 32


@pytest.fixture(autouse=True)
def every_packing_pays(monkeypatch):
    monkeypatch.setattr(pack, "CACHED_FROM_DOCUMENTS", 1)


@pytest.fixture
def messages(monkeypatch):
    """What is logged, as (level, line)."""
    lines = []
    logger = pack_cache.log.get()
    for level in ("info", "warning"):
        monkeypatch.setattr(logger, level, lambda text, *values, level=level: lines.append((level, text % values)))
    return lines


def rows(packing: Packing, **epoch: int) -> list[list[int]]:
    plan = packing.epoch(**epoch) if epoch else packing.in_order()
    return [plan.row(number).tolist() for number in range(packing.rows)]


def packings_made(monkeypatch) -> list[int]:
    """Grows by the row length with each packing that is really made."""
    made, really = [], pack._pack_sorted
    monkeypatch.setattr(pack, "_pack_sorted", lambda lengths, row: (made.append(row), really(lengths, row))[1])
    return made


def test_a_cached_packing_is_read_back_and_is_the_packing(tmp_path, monkeypatch):
    made = packings_made(monkeypatch)
    first, again, without = Packing(LENGTHS, ROW, cache=tmp_path), Packing(LENGTHS, ROW, cache=tmp_path), Packing(LENGTHS, ROW)
    assert made == [ROW, ROW]  # the first and the one without a cache
    assert rows(first) == rows(again) == rows(without)
    assert rows(first, seed=3, epoch=5) == rows(again, seed=3, epoch=5) == rows(without, seed=3, epoch=5)


def test_everything_that_a_packing_depends_on_makes_another_file(tmp_path, monkeypatch):
    made = packings_made(monkeypatch)
    Packing(LENGTHS, ROW, cache=tmp_path)
    one_longer = np.concatenate([[LENGTHS[0] % ROW + 1], LENGTHS[1:]])
    for lengths, row in ((LENGTHS, ROW + 1), (one_longer, ROW), (LENGTHS[1:], ROW)):
        assert rows(Packing(lengths, row, cache=tmp_path)) == rows(Packing(lengths, row))
    monkeypatch.setattr(pack, "ALGORITHM", "another")
    Packing(LENGTHS, ROW, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 5
    assert len(made) == 5 + 3


def test_keys_differ_by_kind_order_shape_and_value():
    one = np.array([1, 2], dtype=np.int64)
    keys = [key_of("a", 1, one), key_of("a", 2, one), key_of("b", 1, one), key_of("a", 1, one[::-1]), key_of("a", "1", one),
            key_of("a", 1, one.astype(np.int32)), key_of("a", 1, one[:, None]), key_of("a", one, 1), key_of("a1", one)]
    assert len(set(keys)) == len(keys)
    assert key_of("a", 1, one) == key_of("a", 1, one.copy())


def test_few_documents_are_not_cached(tmp_path, monkeypatch):
    monkeypatch.setattr(pack, "CACHED_FROM_DOCUMENTS", len(LENGTHS) + 1)
    Packing(LENGTHS, ROW, cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_the_file_is_one_that_numpy_reads(tmp_path):
    write(tmp_path, KEY, ARRAY)
    assert np.array_equal(np.load(tmp_path / f"{KEY}.npy"), ARRAY)
    assert np.array_equal(read(tmp_path, KEY), ARRAY)


@pytest.mark.parametrize("damage", [
    lambda content: content[:-1], lambda content: content[:40], lambda content: b"", lambda content: b"x" * 500,
    lambda content: content[:-33] + bytes([content[-33] ^ 1]) + content[-32:], lambda content: content + b"\0"])
def test_a_damaged_file_is_said_and_made_anew(tmp_path, messages, damage):
    whole = Packing(LENGTHS, ROW, cache=tmp_path)
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    path.write_bytes(damage(content))
    assert rows(Packing(LENGTHS, ROW, cache=tmp_path)) == rows(whole)
    assert messages == [("warning", f"{path}: is damaged (its checksum does not fit); it is not used and is made anew")]
    assert path.read_bytes() == content


def test_a_whole_file_under_another_name_is_not_believed(tmp_path, messages):
    write(tmp_path, KEY, ARRAY)
    (tmp_path / f"{KEY}.npy").rename(tmp_path / f"{'1' * 32}.npy")
    assert read(tmp_path, "1" * 32) is None
    assert "is damaged" in messages[0][1]


@pytest.mark.parametrize("place", ["a file/cache", "a file", "/proc/cache"])
def test_a_place_that_cannot_be_written_means_no_cache_and_one_line(tmp_path, messages, place):
    (tmp_path / "a file").write_text("")
    packing = Packing(LENGTHS, ROW, cache=tmp_path / place)
    assert rows(packing) == rows(Packing(LENGTHS, ROW))
    ((level, line),) = messages
    assert level == "info"
    assert line.startswith("data: the packing is not cached (") and "data.cache_dir can name a folder" in line


@pytest.fixture
def shared_folder():
    """A folder that another user can enter, as tmp_path's parents do not let one."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def no_root():
    """Calling it gives up what lets root write anywhere, until the test ends."""
    before = os.geteuid()
    yield lambda: os.seteuid(65534) if before == 0 else None
    os.seteuid(before)


def test_a_read_only_folder_is_read_from_and_not_written_to(shared_folder, messages, monkeypatch, no_root):
    Packing(LENGTHS, ROW, cache=shared_folder)
    shared_folder.chmod(0o555)
    no_root()
    made = packings_made(monkeypatch)
    Packing(LENGTHS, ROW, cache=shared_folder)
    assert (made, messages) == ([], [])
    Packing(LENGTHS, ROW + 1, cache=shared_folder)
    assert made == [ROW + 1]
    assert "not cached ([Errno 13] Permission denied" in messages[0][1]


def test_a_full_disk_leaves_no_part_of_a_file(tmp_path, messages, monkeypatch):
    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    write(tmp_path, KEY, ARRAY)
    assert not list(tmp_path.iterdir())
    assert "No space left on device" in messages[0][1]


WRITER = """
import sys
from pathlib import Path
import numpy as np
from megatron_ft.data import pack
pack.CACHED_FROM_DOCUMENTS = 1
lengths = np.random.RandomState(2).randint(1, 65, size=500)
{before}
for row in range(64, 64 + {rows}):
    pack.Packing(lengths, row, cache=Path(sys.argv[1]))
"""


def start_writer(folder: Path, *, before: str = "", rows: int = 1) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", WRITER.format(before=before, rows=rows), folder], stderr=subprocess.PIPE)


def test_processes_that_write_at_once_leave_whole_files_alone(tmp_path):
    folder = tmp_path / "made by whoever is first"
    for writer in [start_writer(folder, rows=40) for _ in range(4)]:
        assert (writer.communicate()[1], writer.returncode) == (b"", 0)
    assert len(list(folder.iterdir())) == 40
    assert not list(folder.glob(".*"))
    assert rows(Packing(LENGTHS, 70, cache=folder)) == rows(Packing(LENGTHS, 70))


def test_a_writer_that_is_killed_leaves_nothing_that_is_believed_or_stays(tmp_path, monkeypatch):
    writer = start_writer(tmp_path, before="Path.replace = lambda self, target: __import__('time').sleep(600)")
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".*.partial")) and time.monotonic() < deadline:
        time.sleep(0.01)
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    (partial,) = tmp_path.iterdir()
    made = packings_made(monkeypatch)
    assert rows(Packing(LENGTHS, ROW, cache=tmp_path)) == rows(Packing(LENGTHS, ROW))
    assert len(made) == 2
    assert partial.exists()  # it may be another process's that is still writing
    old = time.time() - LEFTOVER_AGE_S - 1
    os.utime(partial, (old, old))
    Packing(LENGTHS, ROW + 1, cache=tmp_path)
    assert not partial.exists()
    assert len(list(tmp_path.iterdir())) == 2
