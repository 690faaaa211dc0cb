"""From a JSONL file to a dataset that opens: whole or absent, the same bytes for any number of processes."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import tokenizers

from megatron_ft.data import chunk
from megatron_ft.data import tokenizer as reader
from megatron_ft.data.build import build
from megatron_ft.data.chunk import Recipe, cut_into_chunks
from megatron_ft.data.indexed import open_dataset
from megatron_ft.data.manifest import file_sha256
from megatron_ft.data.report import GREEN, PLAIN, coloured, summary
from megatron_ft.errors import ConfigError, DataError
from tests.data.shared import LLAMA, SFT_ROWS, STARCODER, needs_data

SCRIPTS = Path(__file__).resolve().parents[2] / "preprocess"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A byte-level tokenizer without merges: ids are bytes, so lengths are known."""
    path = tmp_path_factory.mktemp("tokenizer")
    model = tokenizers.ByteLevelBPETokenizer()
    model.train_from_iterator(["a"], vocab_size=257, special_tokens=["<|end|>"])
    model.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text('{"eos_token": "<|end|>"}')
    return str(path)


def write_rows(path: Path, rows: list) -> Path:
    path.write_bytes(b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows))
    return path


def rows(count: int) -> list:
    return [{"inputs": f"ask {number}", "outputs": "answer " * (number % 7 + 1)} for number in range(count)]


def run(script: str, *arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, SCRIPTS / script, *map(str, arguments)], capture_output=True, text=True,
                          check=False)


def test_the_dataset_holds_every_row_in_order_and_the_manifest_its_counts(folder, tmp_path):
    source = write_rows(tmp_path / "a.jsonl", rows(30))
    manifest = build([source], tmp_path / "out" / "mix", Recipe(folder, "octocoder"))
    dataset = open_dataset(tmp_path / "out" / "mix")
    ours = reader.load(folder)
    for number, row in enumerate(rows(30)):
        ids, supervised = dataset.document(number)
        assert ours.decode(ids[~supervised]) == f"Question: {row['inputs']}\n\nAnswer:"
        assert ours.decode(ids[supervised]) == f" {row['outputs']}<|end|>"
    assert dataset.manifest == manifest
    assert manifest.counts == {"rows": 30, "documents": 30, "tokens": dataset.lengths.sum(),
                               "supervised": dataset.supervised.sum(), "truncated": 0}
    assert manifest.inputs == [{"path": str(source), "bytes": source.stat().st_size, "sha256": file_sha256(source)}]
    assert manifest.tokenizer == {"fingerprint": ours.fingerprint, "vocabulary": 257, "end_of_text": 0}
    assert manifest.bin_file["sha256"] == file_sha256(tmp_path / "out" / "mix.bin")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["mix.bin", "mix.idx", "mix.json"]


@pytest.mark.slow
def test_any_number_of_processes_gives_the_same_bytes(folder, tmp_path):
    text = {"inputs": "ask", "outputs": "x" * 1000}
    source = write_rows(tmp_path / "a.jsonl", [*rows(50), b"{", *[text] * 3000, b"[]", *rows(20)])
    for workers in (1, 2, 3):
        build([source], tmp_path / f"w{workers}", Recipe(folder, "plain", on_bad_row="skip"), workers=workers)
    contents = [[(tmp_path / f"w{workers}{suffix}").read_bytes() for suffix in (".bin", ".idx", ".json")]
                for workers in (1, 2, 3)]
    assert contents[0] == contents[1] == contents[2]


def test_bad_rows_stop_with_the_first_of_them_and_leave_nothing(folder, tmp_path):
    source = write_rows(tmp_path / "a.jsonl", [*rows(6), {"inputs": "a", "outputs": ""}, b"{"])
    with pytest.raises(DataError, match=r"a.jsonl:7: 'outputs' is empty; drop the row or pass --on-bad-row=skip"):
        build([source], tmp_path / "mix", Recipe(folder, "octocoder"))
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_skipped_rows_are_counted_by_reason_with_their_lines(folder, tmp_path):
    bad = [b"{", {"inputs": "a", "outputs": ""}, b"", b"[]", b"{"]
    source = write_rows(tmp_path / "a.jsonl", [*rows(2), *bad, *rows(1)])
    manifest = build([source], tmp_path / "mix", Recipe(folder, "octocoder", on_bad_row="skip"))
    assert manifest.dropped == {
        "invalid JSON": {"rows": 2, "first": [f"{source}:3", f"{source}:7"]},
        "'outputs' is empty": {"rows": 1, "first": [f"{source}:4"]},
        "not an object": {"rows": 1, "first": [f"{source}:6"]}}
    assert (manifest.counts["rows"], manifest.counts["documents"]) == (7, 3)
    text = summary("mix", manifest)
    assert "3 documents of 7 rows" in text
    assert f"2 rows dropped: invalid JSON (first: {source}:3, {source}:7)" in text


# A document has 22 tokens more than its outputs: 20 of the prompt, a space, the end.
LENGTHS = [{"inputs": "a", "outputs": "x" * size} for size in (5, 50, 5)]


def test_long_documents_stop_are_dropped_or_cut(folder, tmp_path):
    source = write_rows(tmp_path / "a.jsonl", LENGTHS)
    with pytest.raises(DataError, match=r"a.jsonl:2: the document has 72 tokens, --max-length is 40; .*--on-long=drop"):
        build([source], tmp_path / "stop", Recipe(folder, "octocoder", on_bad_row="skip", max_length=40))
    dropped = build([source], tmp_path / "drop", Recipe(folder, "octocoder", max_length=40, on_long="drop"))
    assert dropped.dropped == {"longer than --max-length": {"rows": 1, "first": [f"{source}:2"]}}
    cut = build([source], tmp_path / "cut", Recipe(folder, "octocoder", max_length=40, on_long="truncate"))
    assert (cut.counts["documents"], cut.counts["truncated"], cut.dropped) == (3, 1, {})
    assert open_dataset(tmp_path / "cut").lengths.max() == 40


def test_a_cut_that_leaves_no_answer_is_counted(folder, tmp_path):
    source = write_rows(tmp_path / "a.jsonl", [{"inputs": "a" * 50, "outputs": "x"}, *rows(1)])
    manifest = build([source], tmp_path / "cut", Recipe(folder, "octocoder", max_length=40, on_long="truncate"))
    assert manifest.dropped == {"no answer within --max-length": {"rows": 1, "first": [f"{source}:1"]}}


def test_chunks_are_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(chunk, "CHUNK_BYTES", 10)
    (tmp_path / "a").write_bytes(b"12345\n" * 5 + b"end")
    digest = hashlib.sha256()
    chunks = list(cut_into_chunks(tmp_path / "a", digest))
    assert [(piece.first_line, len(piece.lines)) for piece in chunks] == [(1, 2), (3, 2), (5, 2)]
    assert digest.hexdigest() == file_sha256(tmp_path / "a")


def test_bad_arguments_are_refused(folder, tmp_path):
    source = write_rows(tmp_path / "a.jsonl", rows(2))
    recipe = Recipe(folder, "octocoder")
    with pytest.raises(ConfigError, match="--workers: 0 processes"):
        build([source], tmp_path / "mix", recipe, workers=0)
    with pytest.raises(DataError, match=r"--input: .*gone.jsonl is no file"):
        build([tmp_path / "gone.jsonl"], tmp_path / "mix", recipe)
    with pytest.raises(ConfigError, match="names a file twice"):
        build([source, source], tmp_path / "mix", recipe)
    with pytest.raises(DataError, match=r"no document came of 1 rows \(dropped: \{'invalid JSON': 1\}\)"):
        build([write_rows(tmp_path / "bad", [b"{"])], tmp_path / "mix", Recipe(folder, "octocoder", on_bad_row="skip"))
    (tmp_path / "mix.idx").touch()
    with pytest.raises(ConfigError, match=r"--output: .*mix.idx exists already"):
        build([source], tmp_path / "mix", recipe)


def test_a_document_is_shown_with_its_answer_in_green(folder, tmp_path):
    build([write_rows(tmp_path / "a.jsonl", rows(2))], tmp_path / "mix", Recipe(folder, "octocoder"))
    dataset = open_dataset(tmp_path / "mix")
    assert f"Answer:{GREEN} answer answer <|end|>{PLAIN}" in coloured(dataset, 1, reader.load(folder))
    with pytest.raises(ConfigError, match="2 is not there; the dataset has documents 0 to 1"):
        coloured(dataset, 2, reader.load(folder))


def test_the_scripts_work_and_tell_the_truth_by_exit_code(folder, tmp_path):
    source = write_rows(tmp_path / "a.jsonl", rows(5))
    arguments = ("--input", source, "--output", tmp_path / "mix", "--tokenizer", folder)
    done = run("tokenize_sft.py", *arguments)
    assert (done.returncode, done.stdout.splitlines()[0]) == (
        0, f"{tmp_path}/mix: 5 documents of 5 rows, template octocoder"), done.stderr
    again = run("tokenize_sft.py", *arguments)
    assert again.returncode == 2
    assert "error: ConfigError: --output:" in again.stderr
    assert "Traceback" not in again.stderr
    shown = run("inspect_dataset.py", tmp_path / "mix", "--document", 3, "--tokenizer", folder)
    assert shown.returncode == 0
    assert "Question: ask 3" in shown.stdout
    assert run("inspect_dataset.py", tmp_path / "mix", "--document", 3).returncode == 2


@needs_data
@pytest.mark.parametrize(("tokenizer", "tokens", "supervised"), [
    (STARCODER, 499_015, 377_365), (LLAMA, 537_697, 401_595)], ids=["starcoder", "llama"])
def test_the_real_rows_become_documents(tokenizer, tokens, supervised, tmp_path):
    manifest = build([SFT_ROWS], tmp_path / "mix", Recipe(str(tokenizer), "octocoder"))
    assert manifest.dropped == {}
    assert (manifest.counts["rows"], manifest.counts["documents"]) == (1178, 1178)
    assert (manifest.counts["tokens"], manifest.counts["supervised"]) == (tokens, supervised)
    ours, dataset = reader.load(tokenizer), open_dataset(tmp_path / "mix")
    for number, line in enumerate(SFT_ROWS.read_text(encoding="utf-8").splitlines()[::100]):
        row = json.loads(line)
        ids, is_answer = dataset.document(100 * number)
        assert ours.decode(ids[len(ours.begin):-1].tolist()).endswith(row["completion"])
        assert ids[-1] == ours.end_of_text
        assert is_answer[-1]


def test_preprocessing_needs_neither_torch_nor_transformers(folder):
    code = (f"import sys; from megatron_ft.data import build, report, tokenizer; tokenizer.load({folder!r}); "
            "print([name for name in ('torch', 'transformers', 'megatron') if name in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
