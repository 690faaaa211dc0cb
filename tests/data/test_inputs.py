"""Every format gives the same rows as a stream; a stretch of it begins and ends between two rows; damage is refused."""

import gzip
import hashlib
import json
from pathlib import Path

import datasets
import huggingface_hub
import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_ft.data import input_files, inputs
from megatron_ft.data.input_files import Part, Position
from megatron_ft.data.inputs import Shard
from megatron_ft.data.rows import rows_of
from megatron_ft.errors import ConfigError, DataError

ROWS = [{"inputs": f"ask {number} é", "outputs": "x" * (number * 7 % 40 + 1)} for number in range(57)]
LINES = b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in ROWS)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(input_files, "CHUNK_BYTES", 300)


def write(path: Path, kind: str) -> Path:
    """The rows in a format."""
    if kind == "jsonl":
        path.write_bytes(LINES)
    elif kind == "gz":  # two members, as `cat a.gz b.gz` makes
        path.write_bytes(gzip.compress(LINES[:1000]) + gzip.compress(LINES[1000:]))
    elif kind == "zst":
        path.write_bytes(zstandard.compress(LINES[:1000]) + zstandard.compress(LINES[1000:]))
    elif kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path, row_group_size=20)
    elif kind == "saved":
        datasets.Dataset.from_list(ROWS).save_to_disk(path)
    elif kind == "splits":
        datasets.DatasetDict({"test": datasets.Dataset.from_list(ROWS[:3]), "train": datasets.Dataset.from_list(ROWS)}
                             ).save_to_disk(path)
    return path


KINDS = ["jsonl", "gz", "zst", "parquet", "saved", "splits"]


def read(parts: list[Part]) -> list[tuple[str, dict]]:
    return [(row.source, row.value) for part in parts for chunk in part.chunks() for row in rows_of(chunk)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_gives_the_same_rows_with_their_numbers(tmp_path, kind):
    path = write(tmp_path / "data", kind)
    found = read(inputs.parts(inputs.find([str(path)])))
    name = f"{path}[train]" if kind == "splits" else str(path)
    assert found == [(f"{name}:{number}", row) for number, row in enumerate(ROWS, start=1)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 2, 3, 5, 40, 100])
def test_shards_in_order_are_the_whole(tmp_path, kind, count):
    files = inputs.find([str(write(tmp_path / "data", kind))])
    whole = read(inputs.parts(files))
    assert [row for index in range(count) for row in read(inputs.parts(files, Shard(index, count)))] == whole


@settings(max_examples=150, deadline=None)
@given(texts=st.lists(st.binary(max_size=30).map(lambda text: text.replace(b"\n", b"")), max_size=12), ends=st.booleans(),
       cut=st.integers(0, 400), count=st.integers(1, 9))
def test_a_cut_is_the_first_line_start_at_or_after_it(tmp_path_factory, texts, ends, cut, count):
    data = b"\n".join(texts) + b"\n" * ends
    path = tmp_path_factory.mktemp("cut") / "a"
    path.write_bytes(b"x" + data)  # `x`: no magic number of another format
    data = b"x" + data
    file = input_files.TextFile(path)
    cut = min(cut, len(data))
    expected = next((at for at in range(cut, len(data)) if at == 0 or data[at - 1:at] == b"\n"), len(data))
    found = file.cut(cut)
    assert found.offset == expected
    assert found.row == data.count(b"\n", 0, expected) + (expected == len(data) and expected > 0 and data[-1:] != b"\n")
    read_back = b"".join(chunk.data for index in range(count) for part in inputs.parts([file], Shard(index, count))
                         for chunk in part.chunks())
    assert read_back == data


@pytest.mark.parametrize("kind", KINDS)
def test_reading_goes_on_anywhere_and_knows_what_it_has_read(tmp_path, kind):
    (file,) = inputs.find([str(write(tmp_path / "data", kind))])
    chunks = list(Part(file).chunks())
    assert len(chunks) > 3
    for at, chunk in enumerate(chunks):
        digest = file.digest(Position(), chunk.end)
        assert digest.hexdigest() == chunk.digest
        rest = [row for later in Part(file).chunks(after=chunk.end, digest=digest) for row in rows_of(later)]
        assert rest == [row for later in chunks[at + 1:] for row in rows_of(later)]
    if kind in ("jsonl", "gz", "zst"):
        assert chunks[-1].digest == hashlib.sha256(LINES).hexdigest()


def test_memory_does_not_hold_a_line_without_an_end(tmp_path, monkeypatch):
    monkeypatch.setattr(input_files, "LONGEST_ROW_BYTES", 1000)
    monkeypatch.setattr("megatron_ft.data.rows.LONGEST_ROW_BYTES", 1000)
    (tmp_path / "a").write_bytes(b'{"a": 1}\n{"a": "' + b"x" * 5000 + b'"}\n{"a": 2}\n{"a": "' + b"x" * 3000)
    file = input_files.TextFile(tmp_path / "a")
    chunks = list(Part(file).chunks())
    assert max(len(chunk.data) for chunk in chunks) < 1500
    found = [row for chunk in chunks for row in rows_of(chunk)]
    assert [row.value for row in found] == [{"a": 1}, None, {"a": 2}, None]
    assert f"{tmp_path}/a:2: is a line of 5,010 bytes, at most 1,000 are read" in str(found[1].error)
    assert found[3].source.endswith(":4")
    assert chunks[-1].digest == hashlib.sha256((tmp_path / "a").read_bytes()).hexdigest()
    for chunk in chunks:
        assert file.digest(Position(), chunk.end).hexdigest() == chunk.digest


def test_folders_and_globs_give_their_files_in_order_of_name(tmp_path, capsys):
    for name in ("b.jsonl", "a.jsonl.gz", "c.parquet"):
        write(tmp_path / name, {"b.jsonl": "jsonl", "a.jsonl.gz": "gz", "c.parquet": "parquet"}[name])
    (tmp_path / "README.md").write_text("about")
    (tmp_path / ".hidden.jsonl").write_text("{}")
    found = [Path(file.path).name for file in inputs.find([str(tmp_path)])]
    assert found == ["a.jsonl.gz", "b.jsonl", "c.parquet"]
    assert "1 files are not read: README.md" in capsys.readouterr().err
    assert [Path(file.path).name for file in inputs.find([f"{tmp_path}/*.jsonl*"])] == ["a.jsonl.gz", "b.jsonl"]
    with pytest.raises(ConfigError, match=r"names .*b.jsonl twice"):
        inputs.find([str(tmp_path), f"{tmp_path}/b*"])
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "b.jsonl")
    with pytest.raises(ConfigError, match=r"link.jsonl twice"):
        inputs.find([str(tmp_path)])


@pytest.mark.parametrize("kind", ["gz", "zst"])
@pytest.mark.parametrize("keep", [0.3, 0.7, 0.99])
def test_a_compressed_file_that_was_cut_off_is_refused(tmp_path, kind, keep):
    whole = write(tmp_path / "a", kind).read_bytes()
    (tmp_path / "a").write_bytes(whole[:int(len(whole) * keep)])
    with pytest.raises(DataError, match=r"a: its compressed data is damaged or cut off at byte \d+ of \d+"):
        read(inputs.parts(inputs.find([str(tmp_path / "a")])))


def test_what_cannot_be_read_is_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    write(tmp_path / "a.parquet", "parquet")
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-20])
    (tmp_path / "array.json").write_text('[{"inputs": "a"}]')
    (tmp_path / "text.gz").write_text("{}")
    write(tmp_path / "splits", "splits")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.txt").touch()
    for name, message in {
        "cut.parquet": "cut.parquet: is no whole Parquet file", "array.json": "is one JSON array.*jq -c '.\\[\\]'",
        "text.gz": "is no .gz file, it begins with b'{}'", "empty": "holds no .jsonl.*it holds a.txt",
        "no*": "no file matches '.*no\\*'", "gone.jsonl": "gone.jsonl is no file, folder or glob",
    }.items():
        with pytest.raises(DataError, match=message):
            inputs.find([str(tmp_path / name)])
    with pytest.raises(ConfigError, match="--split: .*splits has no split 'dev'; it has test, train"):
        inputs.find([str(tmp_path / "splits")], split="dev")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="someone/dataset is no file or folder, and the Hugging Face hub gives no split"):
        inputs.find(["someone/dataset"])
    (tmp_path / "splits" / "train" / "state.json").write_text("{")
    with pytest.raises(DataError, match="looks like a saved dataset and cannot be read as one"):
        inputs.find([str(tmp_path / "splits")])


def test_a_hub_id_may_name_a_configuration(tmp_path, monkeypatch):
    asked = []

    def load_dataset(name, configuration, *, split):
        asked.append((name, configuration, split))
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    found = inputs.find(["owner/name", "owner/name:python"], split="test")
    assert asked == [("owner/name", None, "test"), ("owner/name", "python", "test")]
    assert [file.path for file in found] == ["owner/name[test]", "owner/name:python[test]"]
    assert [row for _, row in read(inputs.parts(found))] == ROWS * 2


@pytest.mark.parametrize("text", ["4/4", "1", "-1/4", "a/b", "0/0"])
def test_a_shard_that_is_none_is_refused(text):
    with pytest.raises(ConfigError, match=rf"--shard: '{text}' is no shard; write i/n"):
        Shard.parse(text)
