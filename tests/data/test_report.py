"""What is told about a dataset: numbers that are true, text that is safe to print, pictures that are there."""

import json
import os
import pty
import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from megatron_ft.data import report, report_plot, report_text
from megatron_ft.data import tokenizer as reader
from megatron_ft.data.build import build
from megatron_ft.data.chunk import Recipe
from megatron_ft.data.indexed import open_dataset
from megatron_ft.data.pack import Packing
from megatron_ft.errors import ConfigError, DataError
from tests.data.small_datasets import END_OF_TEXT, random_documents, write_dataset
from tests.data.small_pairs import pairs_of, write_pair
from tests.data.small_tokenizers import bytes_tokenizer, sentencepiece_tokenizer

SCRIPT = Path(__file__).resolve().parents[2] / "preprocess" / "inspect_dataset.py"
ROWS = ['{"inputs": "ask é", "outputs": "say\\nmore"}',
        '{"inputs": "red \\u001b[31m\\r", "outputs": "turn \\u202e\\u0007 back\\t."}',
        '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, '
        '{"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]}']


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return bytes_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def prefix(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("data")
    (path / "a.jsonl").write_text("".join(f"{row}\n" for row in [*ROWS, "{", "[]"]), encoding="utf-8")
    build([path / "a.jsonl"], path / "mix", Recipe(str(folder), "octocoder", on_bad_row="skip"))
    return path / "mix"


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True, check=False,
                          env=os.environ | {"PYTHONIOENCODING": "utf-8"} | environment)


def test_the_summary_names_what_was_dropped(prefix):
    text = report.summary("mix", open_dataset(prefix).manifest)
    assert text.startswith("mix: 3 documents of 5 rows, template octocoder\n")
    assert f"1 rows dropped: invalid JSON (first: {prefix.parent}/a.jsonl:4)" in text
    assert "1 rows dropped: not an object" in text


def test_the_statistics_are_those_of_the_lengths(tmp_path):
    documents = [*random_documents(101, seed=3, longest=900), [([5, 6], False)]]
    dataset = open_dataset(write_dataset(tmp_path / "mix", documents))
    lengths = sorted(sum(len(ids) for ids, _ in segments) for segments in documents)
    text = report.statistics(dataset)
    assert text.splitlines()[0].split(":", 1)[1].strip() == (
        f"min {lengths[0]}, median {lengths[50]}, mean {np.mean(lengths):.1f}, p90 {lengths[91]}, p99 {lengths[100]}, "
        f"max {lengths[-1]}")
    assert "1 documents without a supervised token, left out in training (first: document 101)" in text


@pytest.mark.parametrize("per_doubling", [1, 2, 6, 24])
@pytest.mark.parametrize("lengths", [[1], [2, 2], [37], [1, 2, 3, 4, 5, 4096], [19, 300, 100_000], [2**20 - 1, 2**20]])
def test_every_length_is_in_exactly_one_bin(lengths, per_doubling):
    edges = report.edges_of(np.array(lengths), per_doubling=per_doubling)
    assert (np.diff(edges) > 0).all()
    assert edges[0] <= min(lengths) < edges[1]
    assert edges[-2] <= max(lengths) < edges[-1]


def test_the_histogram_counts_every_document_once(tmp_path):
    dataset = open_dataset(write_dataset(tmp_path / "mix", random_documents(300, seed=3, longest=900)))
    counted = 0
    for line in report.histogram(dataset).splitlines()[1:]:
        low, _, high = line.split()[0].replace(",", "").partition("-")
        count = int(line.split()[-2])
        assert count == ((dataset.lengths >= int(low)) & (dataset.lengths <= int(high or low))).sum()
        assert ("▏" in line or any(block in line for block in report.BLOCKS[1:])) == (count > 0)
        counted += count
    assert counted == 300
    assert report.histogram(dataset).endswith("100%\n")
    assert set(report.histogram(dataset, blocks=" #")) <= set(" #\n%0123456789,.-tokensdcumupher")


def test_fit_says_what_packing_gives(tmp_path, monkeypatch, capsys):
    dataset = open_dataset(write_dataset(tmp_path / "mix", [*random_documents(300, seed=3), [([5, 6], False)]]))
    packing = Packing(dataset.lengths[:300][dataset.lengths[:300] <= 33] - 1, 32)
    long = int((dataset.lengths > 33).sum())
    assert report.fit(dataset, 32).splitlines() == [
        f"  rows of 32 tokens: {long} documents ({long / 301:.2%}) do not fit (data.long_documents: stop, drop or truncate)",
        f"  {300 - long} documents packed: {packing.rows} rows, {report.percent(packing.fill)} full"]
    monkeypatch.setattr(report, "PACKED_AT_MOST", 250)
    about = re.search(r"packed: about (\d+) rows, .* full \(measured on 250 of them\)", report.fit(dataset, 64))
    assert abs(int(about[1]) - Packing(dataset.lengths[:300] - 1, 64).rows) <= 2
    assert "rows of 2 tokens: 301 documents (100.00%) do not fit" in report.fit(write_long(tmp_path), 2)
    with pytest.raises(ConfigError, match="--row-tokens: rows of 1 tokens hold no document"):
        report.fit(dataset, 1)


def write_long(folder: Path):
    return open_dataset(write_dataset(folder / "long", [[([1] * 4, False), ([2], True)]] * 301))


def test_supervised_text_is_marked_and_the_rest_is_not(prefix, folder):
    dataset, ours = open_dataset(prefix), reader.load(folder)
    assert report_text.shown(dataset, 0, ours, colour=False) == (
        "document 0: 25 tokens, 6 supervised\nQuestion: ask é\n\nAnswer:⟦ say\nmore<|endoftext|>⟧\n".replace("25", str(
            dataset.lengths[0])).replace(" 6 ", f" {dataset.supervised[0]} "))
    assert report_text.shown(dataset, 0, ours, colour=True).endswith(
        "Answer:\033[32m say\033[0m\n\033[32mmore<|endoftext|>\033[0m\n")
    turns = report_text.shown(dataset, 2, ours, colour=False)
    assert turns.count("⟦") == turns.count("⟧") == 2
    assert "Answer:⟦ b<|endoftext|>⟧\n\nQuestion: c\n\nAnswer:⟦ d<|endoftext|>⟧" in turns


def test_control_characters_in_data_do_not_reach_the_terminal(prefix, folder):
    dataset, ours = open_dataset(prefix), reader.load(folder)
    for ids in (False, True):
        text = report_text.shown(dataset, 1, ours, colour=False, ids=ids)
        assert not set(text) & set("\x1b\r\x07\u202e")
    assert "red \\x1b[31m" in report_text.shown(dataset, 1, ours, colour=False)
    assert "turn \\u202e\\x07 back\t." in report_text.shown(dataset, 1, ours, colour=False)


def test_every_token_is_listed_with_its_id_and_the_texts_make_the_document(prefix, folder):
    dataset, ours = open_dataset(prefix), reader.load(folder)
    ids, supervised = dataset.document(2)
    lines = report_text.shown(dataset, 2, ours, colour=False, ids=True).splitlines()[2:]
    found = [re.fullmatch(r" *(\d+) +(\d+)  (yes|-  ) +(.*)", line) for line in lines]
    assert [int(match[1]) for match in found] == list(range(len(ids)))
    assert [int(match[2]) for match in found] == ids.tolist()
    assert [match[3] == "yes" for match in found] == supervised.tolist()
    assert "".join(eval(match[4]) for match in found) == ours.decode(ids.tolist())


def test_sentencepiece_keeps_its_spaces_and_names_ids_without_text(tmp_path):
    model = sentencepiece_tokenizer(tmp_path / "tokenizer")
    (tmp_path / "a.jsonl").write_text('{"inputs": "def double", "outputs": "return x"}\n', encoding="utf-8")
    build([tmp_path / "a.jsonl"], tmp_path / "mix", Recipe(str(model), "octocoder"))
    dataset, ours = open_dataset(tmp_path / "mix"), reader.load(model)
    assert report_text.shown(dataset, 0, ours, colour=False).endswith(
        "\n<id 1>Question: def double\n\nAnswer:⟦ return x<id 2>⟧\n")
    lines = report_text.shown(dataset, 0, ours, colour=False, ids=True).splitlines()[2:]
    assert "".join(eval(line.split("  ")[-1].strip()) for line in lines) == "Question: def double\n\nAnswer: return x"


def test_a_first_token_that_nothing_predicts_is_not_shown_as_supervised(tmp_path, folder):
    ours = reader.load(folder)
    dataset = open_dataset(write_dataset(tmp_path / "all", [[(ours.encode_text("ab", first=True), True)]]))
    assert report_text.shown(dataset, 0, ours, colour=False).endswith(" tokens, 1 supervised\na⟦b⟧\n")


def test_documents_are_chosen_by_number_and_at_random(prefix):
    dataset = open_dataset(prefix)
    assert report_text.choose(dataset, [2, 0]) == [2, 0]
    assert report_text.choose(dataset, [1], at_random=2, seed=5) == [1, *sorted(random.Random(5).sample(range(3), 2))]
    assert report_text.choose(dataset, [], at_random=99) == [0, 1, 2]
    for number in (3, -1):
        with pytest.raises(ConfigError, match=rf"--document: {number} is not there; the dataset has documents 0 to 2"):
            report_text.choose(dataset, [number])
    with pytest.raises(ConfigError, match="--random: -1 documents cannot be shown"):
        report_text.choose(dataset, [], at_random=-1)


def test_the_tokenizer_is_found_where_the_manifest_says_and_another_is_refused(prefix, folder, tmp_path):
    assert report.open_to_read(str(prefix), None, decodes=False)[1] is None
    found = report.open_to_read(str(prefix), None, decodes=True)[1]
    assert found.fingerprint == reader.load(folder).fingerprint
    other = bytes_tokenizer(tmp_path / "other", ["<x>"])
    with pytest.raises(DataError, match=r"mix: was made with another tokenizer \(its fingerprint is \w{12}, that of .*er is"):
        report.open_to_read(str(prefix), str(other), decodes=True)
    nameless = write_dataset(tmp_path / "nameless", random_documents(2, seed=1))
    with pytest.raises(ConfigError, match=r"--tokenizer: name the tokenizer that '.*nameless' was made with$"):
        report.open_to_read(str(nameless), None, decodes=True)
    moved = open_dataset(prefix).manifest
    moved.recipe["tokenizer"] = "gone/away"
    with pytest.raises(ConfigError, match=r"was made with; it was at gone/away, which is not there"):
        report.tokenizer_of(moved, "mix", None)


def test_dataset_pairs_are_shown_too(prefix, folder, tmp_path):
    native = open_dataset(prefix)
    pair = write_pair(tmp_path / "pair", pairs_of(native, with_end=False)[:2])
    dataset, ours = report.open_to_read(str(pair), str(folder), decodes=True)
    assert f"{pair}: 2 documents of a dataset pair" in report.statistics(dataset)
    assert report_text.shown(dataset, 0, ours, colour=False) == report_text.shown(native, 0, ours, colour=False)
    with pytest.raises(ConfigError, match=r"--tokenizer: '.*pair' is a dataset pair, which does not say what made its ids"):
        report.open_to_read(str(pair), None, decodes=False)


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_the_picture_is_drawn(tmp_path, suffix):
    for name, documents in (("some", random_documents(50, seed=1)), ("one", [[([1], False), ([END_OF_TEXT], True)]])):
        dataset = open_dataset(write_dataset(tmp_path / name, documents))
        path = report_plot.require_writable(tmp_path / "pictures" / f"{name}{suffix}")
        report_plot.plot(dataset, path, row_tokens=30)
        assert path.stat().st_size > 5000
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == [f"one{suffix}", f"some{suffix}"]
    with pytest.raises(ConfigError, match=r"--plot: .*exists already"):
        report_plot.require_writable(path)


def test_pictures_of_nothing_or_of_another_kind_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"--plot: a.jpg ends in '.jpg'; end it in one of .png, .svg, .pdf"):
        report_plot.require_writable("a.jpg")
    with pytest.raises(DataError, match="empty: holds no document, so there is nothing to draw"):
        report_plot.plot(open_dataset(write_dataset(tmp_path / "empty", [])), tmp_path / "a.png")


def test_an_empty_dataset_has_statistics(tmp_path):
    dataset = open_dataset(write_dataset(tmp_path / "empty", []))
    assert (report.statistics(dataset), report.histogram(dataset)) == ("", "")
    assert "0 documents" in report.fit(dataset, 100)


def test_the_script_marks_in_a_pipe_and_colours_a_terminal(prefix, folder, tmp_path):
    piped = run(prefix, "--document", 0, 2)
    assert piped.returncode == 0, piped.stderr
    assert piped.stdout.count("⟦") == 3 and "\033" not in piped.stdout
    assert "\033[32m say" in run(prefix, "--document", 0, "--colour", "always", NO_COLOR="1").stdout
    assert "\\u27e6" in run(prefix, "--document", 0, PYTHONIOENCODING="ascii", PYTHONUTF8="0").stdout
    whole = run(prefix, "--row-tokens", 64, "--plot", tmp_path / "a.svg")
    assert "up to here" in whole.stdout and "rows of 64 tokens" in whole.stdout and (tmp_path / "a.svg").is_file()
    assert run(prefix, "--document", 7).returncode == 2
    assert "--ids: says how documents are shown" in run(prefix, "--ids").stderr
    assert run(prefix, "--plot", "a.gif").returncode == 2


def test_the_documents_of_a_spike_are_shown_worst_first(prefix, tmp_path):
    documents = [{"prefix": str(prefix), "document": 2, "loss": 9.25, "supervised": 4},
                 {"prefix": str(prefix), "document": 0, "loss": 1.5, "supervised": 9}]
    lines = [{"step": 7, "reason": "spike", "loss": 4.0, "mean_before": 1.25, "documents": documents},
             {"step": 9, "reason": "not finite", "loss": None, "mean_before": None, "documents": documents[1:]}]
    spikes = tmp_path / "spikes.jsonl"
    spikes.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 11, "docum')
    shown = run("--documents-from", spikes)
    assert shown.returncode == 0, shown.stderr
    first, second = shown.stdout.split("step 9: not finite, loss not finite; 1 documents\n")
    assert first.startswith("step 7: spike, loss 4.0000, mean before 1.2500; 2 documents\n\n"
                            f"{prefix}, loss 9.2500\ndocument 2: ")
    assert first.index("document 2: ") < first.index(f"{prefix}, loss 1.5000\ndocument 0: ")
    assert "⟦ say\nmore" in first and "⟦ say\nmore" in second
    assert run("--documents-from", spikes, "--step", 9).stdout == "step 9" + shown.stdout.partition("step 9")[2]
    assert "document 0:" not in run("--documents-from", spikes, "--step", 7, "--worst", 1).stdout


@pytest.mark.parametrize(("text", "arguments", "message"), [
    ("", ["mix"], "--documents-from: name either a PREFIX or .*, not both"),
    ("", ["--random", "2"], "--documents-from: shows the documents of its file; leave out .*--random"),
    ("", ["--step", "3"], r"--step: .*s.jsonl has no step 3; it has none"),
    ("{}\n", [], r"s.jsonl:1: names no documents \(KeyError: 'documents'\); name the spikes.jsonl"),
    ("oh\n", [], "s.jsonl:1: names no documents .JSONDecodeError"),
    ('{"step": 1, "reason": "spike", "loss": 2, "documents": [{"prefix": "PREFIX", "document": 5, "loss": 1}]}\n', [],
     "s.jsonl:1: names document 5 of .*mix, which has 3; it is not the dataset that the run was trained on")])
def test_files_that_name_no_documents_are_refused(prefix, tmp_path, text, arguments, message):
    (tmp_path / "s.jsonl").write_text(text.replace("PREFIX", str(prefix)))
    ended = run("--documents-from", tmp_path / "s.jsonl", *arguments)
    assert ended.returncode == 2 and re.search(message, ended.stderr), ended.stderr


def test_neither_prefix_nor_file_is_refused(tmp_path):
    assert "--documents-from: name either a PREFIX or a file of documents by --documents-from, one of them" in run().stderr
    assert "--documents-from: " in run("--documents-from", tmp_path).stderr


@pytest.mark.parametrize(("no_color", "is_green"), [("", True), ("1", False)])
def test_a_terminal_gets_green_unless_no_color_is_set(prefix, no_color, is_green):
    ours, theirs = pty.openpty()
    process = subprocess.Popen([sys.executable, SCRIPT, str(prefix), "--document", "0"], stdout=theirs,
                               env=os.environ | {"NO_COLOR": no_color, "TERM": "xterm"})
    os.close(theirs)
    text = b""
    try:
        while block := os.read(ours, 1 << 16):
            text += block
    except OSError:  # Linux's way to say that the other end is closed
        pass
    assert process.wait() == 0
    assert (b"\033[32m say" in text) == is_green
    os.close(ours)
