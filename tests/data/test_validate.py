"""Every fault that is planted is found, by name and with its first document; what is whole is called so."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from megatron_ft.data import scan as scanner
from megatron_ft.data import tokenizer
from megatron_ft.data.build import build
from megatron_ft.data.chunk import Recipe
from megatron_ft.data.indexed import open_dataset
from megatron_ft.data.manifest import Manifest, describe_file
from megatron_ft.data.merge import merge
from megatron_ft.data.validate import TOGETHER, to_text, validate
from megatron_ft.errors import ConfigError, DataError
from tests.data.small_datasets import END_OF_TEXT, VOCABULARY, random_documents, write_dataset
from tests.data.small_pairs import write_pair
from tests.data.small_tokenizers import bytes_tokenizer, sentencepiece_tokenizer

SCRIPT = Path(__file__).resolve().parents[2] / "preprocess" / "validate_dataset.py"


def good_documents(count: int, *, seed: int) -> list:
    """Different documents that end with the end-of-text id."""
    random = np.random.RandomState(seed)
    return [[(random.randint(1, 900, random.randint(1, 20)).tolist(), False),
             ([*random.randint(1, 900, random.randint(1, 20)).tolist(), END_OF_TEXT], True)] for _ in range(count)]


def counted(prefix: Path, **changed: object) -> Path:
    """Give a dataset the manifest that a build would have given it, but for what is `changed`."""
    dataset = open_dataset(prefix)
    counts = {"rows": dataset.documents, "documents": dataset.documents, "tokens": int(dataset.lengths.sum()),
              "supervised": int(dataset.supervised.sum()), "truncated": 0}
    dataclasses.replace(dataset.manifest, **{"counts": counts} | changed).write(Path(f"{prefix}.json"))
    return prefix


def good(folder: Path, name: str = "mix", *, seed: int = 1, documents: list | None = None) -> Path:
    return counted(write_dataset(folder / name, good_documents(30, seed=seed) if documents is None else documents))


def rewrite(prefix: Path, **changed: object) -> None:
    path = Path(f"{prefix}.json")
    dataclasses.replace(Manifest.read(path), **changed).write(path)


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def of(prefix: Path, *names: str, **options: object) -> dict:
    """The checks of one dataset by name."""
    return {check.name: check for check in validate([str(prefix)], **options)[0].checks}


def failures(prefix: Path, **options: object) -> list[str]:
    checks = [check for verdict in validate([str(prefix)], **options) for check in verdict.checks]
    return [check.name for check in checks if check.result == "FAILED"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return bytes_tokenizer(tmp_path_factory.mktemp("tokenizer"), begin="<|begin|>")


@pytest.fixture
def built(folder, tmp_path):
    """A dataset of a real tokenizer, as the command builds it."""
    rows = [{"inputs": f"ask {number}", "outputs": "word " * number + "é"} for number in range(1, 25)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "{\n", encoding="utf-8")
    build([tmp_path / "a.jsonl"], tmp_path / "mix",
          Recipe(str(folder), "octocoder", on_bad_row="skip", max_length=60, on_long="truncate"))
    return tmp_path / "mix"


def test_a_built_dataset_passes_every_check(built, folder):
    verdicts = validate([str(built)], reader=tokenizer.load(folder), row_tokens=100)
    assert [(check.name, check.result) for verdict in verdicts for check in verdict.checks] == [
        (name, "ok") for name in ("files", "manifest", "index", "hash of .idx", "size of .bin", "tokenizer", "hash of .bin",
                                  "counts", "ids", "ends", "openings", "decoding", "supervised", "row length", "copies",
                                  "opens in training")]
    truncated = Manifest.read(Path(f"{built}.json")).counts["truncated"]
    assert truncated > 0 and f"but for {truncated} truncated ones" in to_text(verdicts)
    assert of(built)["tokenizer"].result == "skipped"


def test_a_merged_dataset_passes_too(tmp_path):
    one, two = good(tmp_path, "one", seed=1), good(tmp_path, "two", seed=2)
    merge([one, two], tmp_path / "mix")
    assert failures(tmp_path / "mix") == []


@pytest.mark.parametrize("block_tokens", [1, 50, 1 << 20])
def test_a_scan_finds_the_same_whatever_its_blocks(tmp_path, monkeypatch, block_tokens):
    monkeypatch.setattr(scanner, "BLOCK_TOKENS", block_tokens)
    documents = good_documents(30, seed=1)
    documents += [[([3, 4], False), ([5], True)], [([9], False), ([9, 0], True)], documents[7], documents[2]]
    prefix = good(tmp_path, documents=documents)
    dataset = open_dataset(prefix)
    tokens = np.fromfile(f"{prefix}.bin", dtype=np.uint16)
    found = scanner.scan(tokens, dataset.lengths, vocabulary=800, end_of_text=0, opening=[9], label="x")
    flat = [[token for ids, _ in segments for token in ids] for segments in documents]
    assert found.sha256 == describe_file(Path(f"{prefix}.bin"))["sha256"]
    strange = [(token, number) for number, ids in enumerate(flat) for token in ids if token >= 800]
    assert (found.strange_ids, found.first_strange) == (len(strange), strange[0])
    assert found.unended.tolist() == [30]
    assert found.unopened.tolist() == [number for number, ids in enumerate(flat) if ids[0] != 9]
    assert found.used[:799].tolist() == [any(token in ids for ids in flat) for token in range(799)]
    same = [[one == other for other in flat] for one in flat]
    assert (found.fingerprints[:, None] == found.fingerprints).tolist() == same
    assert scanner.copies(found.fingerprints) == (2, (2, 33))


def test_fingerprints_tell_order_place_and_length_apart(monkeypatch):
    def fingerprints(documents):
        lengths = np.array([len(ids) for ids in documents])
        return scanner.scan(np.concatenate(documents).astype(np.int32), lengths, vocabulary=9, end_of_text=0, opening=(),
                            label="x").fingerprints
    documents = [[1, 2], [2, 1], [1], [1, 1], [2, 2], [1, 2, 0], [0], [0, 0], [1, 2, 1], [2, 1, 1]]
    assert len(np.unique(fingerprints(documents))) == len(documents)
    long = np.ones(200_000, dtype=np.int64)
    other = long.copy()
    long[5], other[5 + scanner.WEIGHTS] = 2, 2
    assert len(np.unique(fingerprints([long, other, long[:-1]]))) == 3


def test_a_flipped_byte_in_the_bin_is_found(tmp_path):
    prefix = good(tmp_path)
    flip(Path(f"{prefix}.bin"), 40)
    assert failures(prefix) == ["hash of .bin"]  # the id is still one of the vocabulary
    assert "mix.bin has sha256" in of(prefix)["hash of .bin"].detail


def test_swapped_bins_of_the_same_size_are_found(tmp_path):
    documents = good_documents(10, seed=1)
    one, two = good(tmp_path, "one", documents=documents), good(tmp_path, "two", documents=documents[:9] + [
        [(segment[0][::-1], segment[1]) if number == 0 else segment for number, segment in enumerate(documents[9])]])
    first, second = (Path(f"{prefix}.bin") for prefix in (one, two))
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    assert failures(one) == failures(two) == ["hash of .bin"]


@pytest.mark.parametrize(("cut", "found"), [
    (".idx", ["index", "hash of .idx", "opens in training"]), (".bin", ["size of .bin", "hash of .bin", "opens in training"])])
def test_a_cut_file_is_found_and_the_content_is_not_read(tmp_path, cut, found):
    prefix = good(tmp_path)
    path = Path(f"{prefix}{cut}")
    os.truncate(path, path.stat().st_size - 3)
    assert failures(prefix) == found
    assert of(prefix)["content"].result == "skipped"
    assert "truncated" in of(prefix)[found[0]].detail


def test_a_changed_index_is_found(tmp_path):
    prefix = good(tmp_path)
    flip(Path(f"{prefix}.idx"), -1)  # the last segment becomes a prompt
    assert failures(prefix) == ["hash of .idx", "counts", "opens in training"]
    assert of(prefix)["supervised"].document == 29
    assert "of .idx" in to_text(validate([str(prefix)]))


@pytest.mark.parametrize(("suffix", "found"), [(".json", "mix.json"), (".bin", "mix.bin")])
def test_a_missing_file_is_a_failure_and_a_missing_dataset_an_error(tmp_path, suffix, found):
    prefix = good(tmp_path)
    Path(f"{prefix}{suffix}").unlink()
    assert failures(prefix) == ["files", "opens in training"]
    assert of(prefix)["files"].detail == f"{found} missing: the dataset was never finished, or not all of it copied"
    with pytest.raises(DataError, match=r"there is no dataset '.*gone'"):
        validate([str(tmp_path / "gone")])


def test_a_manifest_that_is_none_is_found(tmp_path):
    prefix = good(tmp_path)
    Path(f"{prefix}.json").write_text("{")
    assert failures(prefix) == ["manifest", "opens in training"]


@pytest.mark.parametrize(("name", "detail"), [
    ("documents", r"documents: manifest 31, index 30; rows: 30 read, but 31 written and 0 dropped"),
    ("tokens", "tokens: manifest "), ("supervised", "supervised: manifest "),
    ("rows", "rows: 31 read, but 30 written and 0 dropped")])
def test_edited_counts_are_found(tmp_path, name, detail):
    prefix = good(tmp_path)
    counts = Manifest.read(Path(f"{prefix}.json")).counts
    rewrite(prefix, counts=counts | {name: counts[name] + 1})
    assert failures(prefix) == ["counts"]
    assert of(prefix)["counts"].detail.startswith(detail)


@pytest.mark.parametrize("token", [VOCABULARY, VOCABULARY + 7])
def test_an_id_beyond_the_vocabulary_is_found_with_its_document(tmp_path, token):
    documents = good_documents(30, seed=1)
    documents[17][0][0][-1] = token
    documents[20][0][0][0] = token
    check = of(good(tmp_path, documents=documents))["ids"]
    assert (check.result, check.document) == ("FAILED", 17)
    assert check.detail == f"2 tokens are no ids from 0 to 999 (first: {token} in document 17)"


def test_a_negative_id_is_found(tmp_path):
    prefix = write_dataset(tmp_path / "wide", good_documents(5, seed=1), vocabulary=70_000)
    path = Path(f"{prefix}.bin")
    ids = np.fromfile(path, dtype=np.int32)
    ids[-2] = -5
    ids.tofile(path)
    rewrite(prefix, bin_file=describe_file(path))
    assert of(counted(prefix))["ids"].detail == "1 tokens are no ids from 0 to 69999 (first: -5 in document 4)"


def test_a_document_without_its_end_is_found_unless_it_was_truncated(tmp_path):
    documents = good_documents(30, seed=1)
    documents[4] = [([1, 2, 3], False), ([4, 5], True)]
    prefix = good(tmp_path, documents=documents)
    check = of(prefix)["ends"]
    assert (check.result, check.document) == ("FAILED", 4)
    assert check.detail.startswith("1 documents do not end with the end-of-text id 0, and 0 were truncated")
    counts = Manifest.read(Path(f"{prefix}.json")).counts | {"truncated": 1}
    for recipe, result in (({"max_length": 5}, "ok"), ({"max_length": 6}, "FAILED"), ({"max_length": "mixed (4, 5)"}, "ok")):
        rewrite(prefix, counts=counts, recipe=recipe)
        assert of(prefix)["ends"].result == result, recipe


def test_documents_without_a_supervised_token_are_a_warning(tmp_path):
    documents = [*good_documents(3, seed=1), [([1, 2, END_OF_TEXT], False)], [([END_OF_TEXT], True)]]
    check = of(good(tmp_path, documents=documents))["supervised"]
    assert (check.result, check.document) == ("warning", 3)
    assert check.detail.startswith("2 documents without a supervised token")
    assert failures(tmp_path / "mix") == []


def test_long_documents_and_copies_are_warnings(tmp_path):
    documents = good_documents(6, seed=1)
    documents += [documents[2], [(list(range(1, 100)), False), ([END_OF_TEXT], True)], documents[2]]
    prefix = good(tmp_path, documents=documents)
    found = of(prefix, row_tokens=98)
    assert (found["row length"].result, found["row length"].document) == ("warning", 7)
    assert found["row length"].detail.startswith(
        "1 documents do not fit into rows of 98 tokens (first: document 7; the longest has 100)")
    assert of(prefix, row_tokens=99)["row length"].result == "ok"
    assert (found["copies"].result, found["copies"].document) == ("warning", 6)
    assert found["copies"].detail == "2 documents equal an earlier one (first: document 6 equals document 2)"
    assert failures(prefix, row_tokens=98) == []
    with pytest.raises(ConfigError, match="--row-tokens: rows of 1 tokens"):
        validate([str(prefix)], row_tokens=1)


def test_another_tokenizer_is_found(built, tmp_path):
    other = tokenizer.load(bytes_tokenizer(tmp_path / "other", ["<x>"]))
    found = of(built, reader=other)
    assert found["tokenizer"].result == "FAILED"
    assert "the dataset was made with another one: fingerprint" in found["tokenizer"].detail
    assert "openings" not in found and "decoding" not in found


def test_a_document_that_does_not_begin_as_the_tokenizer_opens_it_is_found(folder, tmp_path):
    ours = tokenizer.load(folder)
    documents = [[([*ours.begin, *ours.encode_text(f"a{number}", first=True)], False), ([ours.end_of_text], True)]
                 for number in range(5)]
    documents[3][0][0].pop(0)
    prefix = good(tmp_path, documents=documents)
    rewrite(prefix, tokenizer={"fingerprint": ours.fingerprint, "vocabulary": ours.vocabulary, "end_of_text": ours.end_of_text})
    check = of(prefix, reader=ours)["openings"]
    assert (check.result, check.document) == ("FAILED", 3)
    assert f"1 documents do not begin with the tokenizer's opening ids {ours.begin}" in check.detail


def test_ids_that_have_no_text_are_told(tmp_path):
    ours = tokenizer.load(sentencepiece_tokenizer(tmp_path / "tokenizer", ["<control>"]))
    control = ours.special("<control>")
    prefix = good(tmp_path, documents=[[([*ours.begin, control], False), ([5, ours.end_of_text], True)]])
    rewrite(prefix, tokenizer={"fingerprint": ours.fingerprint, "vocabulary": ours.vocabulary, "end_of_text": ours.end_of_text})
    check = of(prefix, reader=ours)["decoding"]
    assert check.result == "warning"
    assert check.detail.startswith(f"1 of 4 different ids have no text (first: {control})")
    ours.decode = lambda ids: [][0]
    assert of(prefix, reader=ours)["decoding"].result == "FAILED"


def test_several_datasets_are_checked_against_one_another(tmp_path):
    one, two = good(tmp_path, "one", seed=1), good(tmp_path, "two", seed=2)
    verdicts = validate([f"0:0.9 {one}", f"0.9:1 {one}", str(two)])
    assert [verdict.subject for verdict in verdicts] == [str(one), str(two), TOGETHER]
    assert all(verdict.ok for verdict in verdicts)
    overlapping = validate([f"0:0.9 {one}", f"0.8:1 {one}"])[-1].checks[0]
    assert (overlapping.result, "share 3 documents" in overlapping.detail) == ("FAILED", True)
    rewrite(two, tokenizer=Manifest.read(Path(f"{two}.json")).tokenizer | {"fingerprint": "other"})
    other = validate([str(one), str(two)])
    assert [verdict.ok for verdict in other] == [True, True, False]
    assert "were made with different tokenizers" in other[-1].checks[0].detail


def test_documents_that_two_datasets_share_are_a_warning(tmp_path):
    documents = good_documents(30, seed=1)
    one, two = good(tmp_path, "one", documents=documents[:20]), good(tmp_path, "two", documents=documents[16:])
    check = validate([str(one), str(two)])[-1].checks[1]
    assert (check.result, check.document) == ("warning", 0)
    assert check.detail == f"4 documents of {two} are in those named before it too (first: document 0)"


def test_an_empty_dataset_fails_as_training_would(tmp_path):
    prefix = good(tmp_path, documents=[])
    assert failures(prefix) == ["opens in training"]
    assert "holds none of the dataset's 0 documents" in validate([str(prefix)])[-1].checks[0].detail


def test_a_dataset_pair_is_refused(tmp_path):
    pair = write_pair(tmp_path / "pair", [([5, 6], [7])])
    with pytest.raises(DataError, match=r"is a dataset pair of OctoPack's Megatron"):
        validate([str(pair)])


def test_the_script_tells_the_truth_by_exit_code_and_as_json(tmp_path):
    def run(*arguments):
        return subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True, check=False)

    prefix = counted(write_dataset(tmp_path / "mix", random_documents(5, seed=1)), counts=dict.fromkeys(
        ("rows", "documents", "tokens", "supervised", "truncated"), 0))
    done = run(prefix)
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith(f"{prefix}: FAILED\n  ok       files")
    good(tmp_path, "whole")
    done = run(tmp_path / "whole", "--json", "--row-tokens", 5)
    assert done.returncode == 0, done.stderr
    verdict = json.loads(done.stdout)
    assert verdict["ok"] and verdict["verdicts"][0]["subject"] == str(tmp_path / "whole")
    assert {"name": "files", "result": "ok", "detail": "whole.bin, whole.idx, whole.json", "document": None} in (
        verdict["verdicts"][0]["checks"])
    gone = run(tmp_path / "gone")
    assert gone.returncode == 2 and "Traceback" not in gone.stderr
