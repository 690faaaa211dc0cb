"""Merged datasets: shards give the whole byte for byte; what does not belong together is refused by name."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from megatron_ft.data import writer
from megatron_ft.data.build import build
from megatron_ft.data.chunk import Recipe
from megatron_ft.data.indexed import open_dataset
from megatron_ft.data.inputs import Shard
from megatron_ft.data.manifest import Manifest, file_sha256
from megatron_ft.data.merge import merge
from megatron_ft.data.source import open_views
from megatron_ft.errors import ConfigError, DataError
from tests.data.kills import killed_before_the_index_is_moved
from tests.data.small_datasets import random_documents, write_dataset
from tests.data.small_pairs import write_pair
from tests.data.small_tokenizers import bytes_tokenizer

SCRIPT = Path(__file__).resolve().parents[2] / "preprocess" / "merge_datasets.py"
SUFFIXES = (".bin", ".idx", ".json")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(bytes_tokenizer(tmp_path_factory.mktemp("tokenizer")))


def write_rows(path: Path, count: int, *, first: int = 0) -> Path:
    """Rows of two kinds and of different lengths, every seventh of them bad."""
    made = []
    for number in range(first, first + count):
        text = "word " * (number * 37 % 60 + 1) + str(number)
        row = {"instruction": "do", "input": text, "output": "x"} if number % 3 else {"inputs": f"{number}?", "outputs": text}
        made.append("{broken" if number % 7 == 3 else json.dumps(row))
    path.write_text("".join(line + "\n" for line in made), encoding="utf-8")
    return path


def rewrite(prefix: Path, **changed: object) -> None:
    """Change fields of a manifest."""
    path = Path(f"{prefix}.json")
    dataclasses.replace(Manifest.read(path), **changed).write(path)


def contents(prefix: Path) -> list[bytes]:
    return [Path(f"{prefix}{suffix}").read_bytes() for suffix in (".bin", ".idx")]


@pytest.fixture(scope="module")
def made(folder, tmp_path_factory):
    """A whole dataset and its four shards, by name."""
    path = tmp_path_factory.mktemp("made")
    sources = [write_rows(path / "a.jsonl", 60), write_rows(path / "b.jsonl", 3, first=60), write_rows(path / "c.jsonl", 90)]
    recipe = Recipe(folder, "octocoder", on_bad_row="skip", max_length=200, on_long="truncate")
    build(sources, path / "whole", recipe)
    for index in range(4):
        build(sources, path / f"s{index}", recipe, shard=Shard(index, 4))
    return path


@pytest.fixture
def parts(made, tmp_path):
    """Copies of them that a test may damage."""
    for path in made.glob("*.*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def shards(path: Path, order: str = "0123") -> list[Path]:
    return [path / f"s{index}" for index in order]


@pytest.mark.parametrize("order", ["0123", "2301"])
@pytest.mark.parametrize("at_once", [1 << 20, 5])
def test_shards_in_any_order_are_the_whole_byte_for_byte(made, tmp_path, monkeypatch, capsys, order, at_once):
    monkeypatch.setattr(writer, "AT_ONCE", at_once)
    monkeypatch.setattr("megatron_ft.data.merge_sources.AT_ONCE", at_once)
    merged = merge(shards(made, order), tmp_path / "mix")
    assert contents(tmp_path / "mix") == contents(made / "whole")
    whole = open_dataset(made / "whole").manifest
    assert merged == open_dataset(tmp_path / "mix").manifest
    for field in ("recipe", "template", "template_fingerprint", "tokenizer", "counts", "kinds", "dropped", "versions",
                  "bin_file", "idx_file"):
        assert getattr(merged, field) == getattr(whole, field), field
    assert merged.dropped["invalid JSON"]["rows"] == 9 + 13
    assert merged.counts["truncated"] > 0
    stretches = [(Path(stretch["path"]).name, *stretch["rows"]) for stretch in merged.inputs]
    assert stretches[0][:2] == ("a.jsonl", 0) and stretches[-1][2] == 90
    assert ("put into the order of the shards" in capsys.readouterr().err) == (order != "0123")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mix.bin", "mix.idx", "mix.json"]


def test_a_glob_names_shards_quoted_or_expanded_by_the_shell(made, tmp_path):
    merge([made / "s*"], tmp_path / "quoted")
    merge(sorted(path for suffix in SUFFIXES for path in made.glob(f"s?{suffix}")), tmp_path / "expanded")
    assert contents(tmp_path / "quoted") == contents(tmp_path / "expanded") == contents(made / "whole")
    with pytest.raises(DataError, match=r"--input: no dataset matches '.*t\*'; quote the pattern"):
        merge([made / "t*"], tmp_path / "mix")


@pytest.mark.parametrize(("order", "message"), [
    ("013", r"--input: shard 2/4 missing; all 4 shards of a build must be named, each once"),
    ("3", r"--input: shards 0/4, 1/4, 2/4 missing"),
    ("01233", r"names .*s3 twice")])
def test_a_missing_or_double_shard_is_named(made, tmp_path, order, message):
    with pytest.raises((ConfigError, DataError), match=message):
        merge(shards(made, order), tmp_path / "mix")
    assert list(tmp_path.iterdir()) == []


def test_a_copy_of_a_shard_is_no_other_shard(parts):
    for suffix in SUFFIXES:
        (parts / f"copy{suffix}").write_bytes((parts / f"s1{suffix}").read_bytes())
    with pytest.raises(DataError, match=r"shard 1/4 is there twice \('.*s1' and '.*copy'\); shard 3/4 missing"):
        merge([*shards(parts, "012"), parts / "copy"], parts / "mix")


def test_an_empty_shard_is_fine(folder, tmp_path):
    line = json.dumps({"inputs": "ask", "outputs": "x" * 500})
    (tmp_path / "a.jsonl").write_text(f"{line}\n{line[:100]}\n", encoding="utf-8")
    recipe = Recipe(folder, "octocoder", on_bad_row="skip")
    build([tmp_path / "a.jsonl"], tmp_path / "whole", recipe)
    found = [build([tmp_path / "a.jsonl"], tmp_path / f"s{index}", recipe, shard=Shard(index, 3)) for index in range(3)]
    assert [manifest.counts["documents"] for manifest in found] == [1, 0, 0]
    merge(shards(tmp_path, "201"), tmp_path / "mix")
    assert contents(tmp_path / "mix") == contents(tmp_path / "whole")
    with pytest.raises(DataError, match=r"--input: none of .*s1, .*s2 holds a document"):
        merge(shards(tmp_path, "12"), tmp_path / "none")


@pytest.mark.parametrize(("changed", "message"), [
    ({"recipe": {"max_length": 100}}, r"shards of different builds \(max_length: 200 and 100\)"),
    ({"recipe": {"shard": "2/5"}}, r"shards of different builds \(number of shards: 4 and 5\)"),
    ({"recipe": {"shard": "0/1"}}, r"s2' is a whole dataset and '.*s0' is shard 0/4"),
    ({"template_fingerprint": "other words"}, r"shards of different builds \(template's text: \w+ and other words"),
    ({"tokenizer": {"fingerprint": "f"}}, r"s0' and '.*s2' were made with different tokenizers")])
def test_shards_of_other_builds_are_refused(parts, changed, message):
    manifest = Manifest.read(parts / "s2.json")
    rewrite(parts / "s2", **{name: getattr(manifest, name) | value if isinstance(value, dict) else value
                             for name, value in changed.items()})
    with pytest.raises(DataError, match=message):
        merge(shards(parts), parts / "mix")


def test_shards_may_differ_in_the_path_of_the_tokenizer_and_in_what_stops_them(parts):
    rewrite(parts / "s2", recipe=Manifest.read(parts / "s2.json").recipe | {"tokenizer": "elsewhere", "on_bad_row": "stop"})
    assert merge(shards(parts), parts / "mix").recipe["on_bad_row"] == "mixed (skip, stop)"
    assert contents(parts / "mix") == contents(parts / "whole")


@pytest.mark.parametrize("change", ["gap", "overlap", "size", "order"])
def test_shards_that_do_not_go_on_where_the_last_one_stopped_are_refused(parts, change):
    inputs = Manifest.read(parts / "s2.json").inputs
    if change == "gap":
        inputs[0]["rows"][0] += 1
    elif change == "overlap":
        inputs[0]["rows"][0] -= 1
    elif change == "size":
        inputs[0]["bytes"] += 1
    else:
        inputs.append(Manifest.read(parts / "s1.json").inputs[0])
    rewrite(parts / "s2", inputs=inputs)
    with pytest.raises(DataError, match=r"s2: as shard 2/4 it read .*jsonl \(\d+ bytes\) from row \d+ to \d+, where the shards "
                                        r"before it had read that file \(\d+ bytes\) up to row \d+; rows would be missing"):
        merge(shards(parts), parts / "mix")


def test_other_datasets_follow_one_another_as_they_are_named(folder, tmp_path, capsys):
    one = build([write_rows(tmp_path / "a.jsonl", 20)], tmp_path / "one", Recipe(folder, "octocoder", on_bad_row="skip"))
    two = build([write_rows(tmp_path / "b.jsonl", 9, first=80)], tmp_path / "two",
                Recipe(folder, "alpaca", on_bad_row="skip", loss_on="all"))
    merged = merge([tmp_path / "two", tmp_path / "one"], tmp_path / "mix")
    datasets = [open_dataset(tmp_path / name) for name in ("two", "one", "mix")]
    documents = [dataset.document(number) for dataset in datasets[:2] for number in range(dataset.documents)]
    assert datasets[2].documents == len(documents) == merged.counts["documents"]
    for number, expected in enumerate(documents):
        for ours, theirs in zip(datasets[2].document(number), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    for name in merged.counts:
        assert merged.counts[name] == one.counts[name] + two.counts[name]
    assert merged.counts["supervised"] == datasets[2].supervised.sum()
    assert (merged.template, merged.recipe["loss_on"]) == ("mixed (alpaca, octocoder)", "mixed (all, answers)")
    firsts = [manifest.dropped["invalid JSON"]["first"] for manifest in (two, one, merged)]
    assert firsts[0] + firsts[1] == firsts[2]
    assert merged.bin_file["sha256"] == file_sha256(tmp_path / "mix.bin")
    assert "the datasets differ in loss_on: mixed (all, answers)" in capsys.readouterr().err
    assert open_views([f"0:0.9 {tmp_path / 'mix'}"], [f"0.9:1 {tmp_path / 'mix'}"])[0][0].last == 22


def test_the_same_documents_are_not_taken_twice(tmp_path):
    one = write_dataset(tmp_path / "one", random_documents(5, seed=1))
    other = write_dataset(tmp_path / "other", random_documents(5, seed=1))
    with pytest.raises(DataError, match=r"one' and '.*other' hold the same documents.*give it a weight"):
        merge([one, other], tmp_path / "mix")


def test_another_tokenizer_or_another_size_of_ids_is_refused(tmp_path):
    one = write_dataset(tmp_path / "one", random_documents(5, seed=1))
    other = write_dataset(tmp_path / "other", random_documents(5, seed=2), tokenizer="another")
    with pytest.raises(DataError, match="one' and '.*other' were made with different tokenizers .*another"):
        merge([one, other], tmp_path / "mix")
    wide = write_dataset(tmp_path / "wide", random_documents(5, seed=2), vocabulary=70_000)
    rewrite(wide, tokenizer=Manifest.read(tmp_path / "one.json").tokenizer)
    with pytest.raises(DataError, match="'bytes per id': 2.*'bytes per id': 4"):
        merge([one, wide], tmp_path / "mix")


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize(("damage", "message"), [
    (lambda path: flip(path / "s1.bin", -7), r"s1.bin: is not the file that its manifest describes"),
    (lambda path: flip(path / "s3.idx", 60), r"s3.idx: is not the file that its manifest describes"),
    (lambda path: flip(path / "s3.idx", 2), r"s3.idx: is not the file that its manifest describes"),
    (lambda path: os.truncate(path / "s2.bin", 10), r"s2.bin: has 10 bytes where s2.json says \d+ bytes"),
    (lambda path: (path / "s2.idx").unlink(), r"s2.idx: is missing where s2.json says \d+ bytes"),
    (lambda path: (path / "s2.json").unlink(), r"s2.json: is missing, so the dataset was never finished"),
    (lambda path: rewrite(path / "s2", counts={"documents": 1}), r"s2.idx: holds \d+ documents where s2.json counts 1")])
def test_a_damaged_source_is_refused_by_name_and_nothing_is_left(parts, damage, message):
    damage(parts)
    with pytest.raises(DataError, match=message):
        merge(shards(parts), parts / "out" / "mix")
    assert not (parts / "out").exists() or list((parts / "out").iterdir()) == []


def test_swapped_bins_of_the_same_size_are_found(tmp_path):
    one, two = (write_dataset(tmp_path / name, [[([5, 6], False), ([answer, 0], True)]]) for name, answer in
                (("one", 7), ("two", 8)))
    first, second = (Path(f"{prefix}.bin") for prefix in (one, two))
    first_bytes, second_bytes = first.read_bytes(), second.read_bytes()
    first.write_bytes(second_bytes)
    second.write_bytes(first_bytes)
    with pytest.raises(DataError, match=r"one.bin: is not the file that its manifest describes"):
        merge([one, two], tmp_path / "mix")


def test_a_dataset_pair_and_a_wrong_name_are_refused(tmp_path):
    pair = write_pair(tmp_path / "pair", [([5, 6], [7])])
    for name in (pair, f"{pair}_targets_document"):
        with pytest.raises(DataError, match=r"is a dataset pair of OctoPack's Megatron.*name it in data.train.*pair'\)"):
            merge([name], tmp_path / "mix")
    with pytest.raises(DataError, match=r"there is no dataset '.*gone'"):
        merge([tmp_path / "gone"], tmp_path / "mix")


def test_nothing_is_overwritten(made, tmp_path):
    (tmp_path / "mix.idx").touch()
    with pytest.raises(ConfigError, match=r"--output: .*mix.idx exists already"):
        merge(shards(made), tmp_path / "mix")
    (tmp_path / ".other.partial").mkdir()
    (tmp_path / ".other.partial" / "state.json").write_text('{"key": {}}')
    with pytest.raises(ConfigError, match=r"is an interrupted preprocess/tokenize_sft.py of .*other; let it finish"):
        merge(shards(made), tmp_path / "other")
    assert (tmp_path / ".other.partial" / "state.json").exists()


def test_a_kill_while_the_files_are_moved_to_their_place_is_made_good(made, tmp_path):
    with killed_before_the_index_is_moved():
        merge(shards(made), tmp_path / "mix")
    with pytest.raises(DataError, match="mix.idx: there is no such file"):
        open_dataset(tmp_path / "mix")
    with pytest.raises(ConfigError, match=r"holds another finished dataset, whose process was killed"):
        merge([made / "whole"], tmp_path / "mix")
    merge(shards(made), tmp_path / "mix")
    assert contents(tmp_path / "mix") == contents(made / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mix.bin", "mix.idx", "mix.json"]


SLOW_MERGE = """
import sys, time
from megatron_ft.data import merge
merge.BLOCK_BYTES = 4000
update = merge.log.tqdm.update
def slow(bar, count):
    time.sleep(0.01)
    update(bar, count)
merge.log.tqdm.update = slow
merge.merge(sys.argv[1:-1], sys.argv[-1])
"""


@pytest.mark.slow
def test_killed_at_any_moment_it_leaves_nothing_that_looks_finished(made, tmp_path):
    command = [sys.executable, "-c", SLOW_MERGE, *map(str, shards(made)), str(tmp_path / "mix")]
    for wait in (0.0, 0.05, 0.1, 0.15, 0.2):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        while process.poll() is None and not (tmp_path / ".mix.partial" / "mix.bin").exists():
            time.sleep(0.01)
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert [path.name for path in tmp_path.iterdir()] == [".mix.partial"]
    merge(shards(made), tmp_path / "mix")
    assert contents(tmp_path / "mix") == contents(made / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mix.bin", "mix.idx", "mix.json"]


def test_the_script_tells_the_truth_by_exit_code(made, tmp_path):
    arguments = ("--input", *shards(made, "3210"), "--output", tmp_path / "mix")
    command = [sys.executable, SCRIPT, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{tmp_path}/mix: 91 documents of 153 rows, template octocoder\n")
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert "error: ConfigError: --output:" in again.stderr and "Traceback" not in again.stderr
