"""From a JSONL file to a dataset that opens: whole or absent, the same bytes for any number of processes."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tokenizers

from megatron_ft.data import build as build_module
from megatron_ft.data import input_files
from megatron_ft.data import tokenizer as reader
from megatron_ft.data.build import build
from megatron_ft.data.chunk import Recipe
from megatron_ft.data.indexed import open_dataset
from megatron_ft.data.inputs import Shard
from megatron_ft.data.manifest import file_sha256
from megatron_ft.data.partial import partial_output
from megatron_ft.data.report import summary
from megatron_ft.data.tokenizer_fast import FastTokenizer
from megatron_ft.errors import ConfigError, DataError
from tests.data.kills import killed_before_the_index_is_moved
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
    assert (manifest.kinds, manifest.recipe["shard"]) == ({"pairs": 30}, "0/1")
    assert manifest.inputs == [{"path": str(source), "bytes": source.stat().st_size, "sha256": file_sha256(source),
                                "rows": [0, 30]}]
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


def test_bad_arguments_are_refused(folder, tmp_path):
    source = write_rows(tmp_path / "a.jsonl", rows(2))
    recipe = Recipe(folder, "octocoder")
    with pytest.raises(ConfigError, match="--workers: 0 processes"):
        build([source], tmp_path / "mix", recipe, workers=0)
    with pytest.raises(DataError, match=r"--input: .*gone.jsonl is no file, folder or glob"):
        build([tmp_path / "gone.jsonl"], tmp_path / "mix", recipe)
    with pytest.raises(ConfigError, match=r"names .*a.jsonl twice"):
        build([source, source], tmp_path / "mix", recipe)
    with pytest.raises(DataError, match=r"no document came of 1 rows \(dropped: \{'invalid JSON': 1\}\)"):
        build([write_rows(tmp_path / "bad", [b"{"])], tmp_path / "mix", Recipe(folder, "octocoder", on_bad_row="skip"))
    (tmp_path / "mix.idx").touch()
    with pytest.raises(ConfigError, match=r"--output: .*mix.idx exists already"):
        build([source], tmp_path / "mix", recipe)


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


def test_a_full_disk_leaves_nothing_that_looks_finished(folder, tmp_path):
    source = write_rows(tmp_path / "a.jsonl", rows(3000))
    arguments = ("--input", source, "--output", tmp_path / "mix", "--tokenizer", folder, "--workers", 1)
    command = [sys.executable, SCRIPTS / "tokenize_sft.py", *map(str, arguments)]
    limited = subprocess.run(command, capture_output=True, text=True, check=False,  # no file may pass 20,000 bytes
                             preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)))
    assert limited.returncode == 2
    assert "error: [Errno 27] File too large" in limited.stderr
    assert "Traceback" not in limited.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]
    assert run("tokenize_sft.py", *arguments).returncode == 0


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


def contents(prefix: Path) -> list[bytes]:
    """A dataset without its manifest, which says which shard it is."""
    return [prefix.with_name(prefix.name + suffix).read_bytes() for suffix in (".bin", ".idx")]


def mixed_rows(count: int) -> list:
    """Rows of several kinds and lengths, some of them bad."""
    made: list = []
    for number in range(count):
        text = "word " * (number * 37 % 90 + 1) + str(number)
        made.append([{"inputs": f"ask {number}", "outputs": text},
                     {"instruction": "do", "input": text, "output": str(number)},
                     {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "yes ½"},
                                   {"role": "user", "content": "and?"}, {"role": "assistant", "content": text}]},
                     b"{broken", {"inputs": "a", "outputs": ""}][number % 5])
    return made


@pytest.mark.parametrize("count", [2, 3, 7])
def test_shards_in_order_are_the_whole(folder, tmp_path, count):
    sources = [write_rows(tmp_path / f"{name}.jsonl", mixed_rows(size)) for name, size in (("a", 40), ("b", 3), ("c", 80))]
    recipe = Recipe(folder, "octocoder", on_bad_row="skip")
    build(sources, tmp_path / "whole", recipe)
    found = [build(sources, tmp_path / f"s{index}", recipe, shard=Shard(index, count)) for index in range(count)]
    assert b"".join(contents(tmp_path / f"s{index}")[0] for index in range(count)) == contents(tmp_path / "whole")[0]
    for name in ("rows", "documents", "tokens"):
        assert sum(manifest.counts[name] for manifest in found) == open_dataset(tmp_path / "whole").manifest.counts[name]
    stretches = [(part["path"], *part["rows"]) for manifest in found for part in manifest.inputs]
    for (path, _, end), (next_path, begin, _) in zip(stretches, stretches[1:], strict=False):
        assert begin == (end if path == next_path else 0)


def test_lines_are_numbered_from_the_top_of_the_file_in_every_shard(folder, tmp_path):
    source = write_rows(tmp_path / "a.jsonl", [*rows(90), b"{", *rows(9)])
    with pytest.raises(DataError, match=r"a.jsonl:91: is no JSON"):
        build([source], tmp_path / "s", Recipe(folder, "octocoder"), shard=Shard(3, 4))


def test_fast_encoder_and_reference_give_the_same_bytes(folder, tmp_path):
    source = write_rows(tmp_path / "a.jsonl", mixed_rows(60))
    for encoder in ("auto", "reference"):
        build([source], tmp_path / encoder, Recipe(folder, "octocoder", on_bad_row="skip"), encoder=encoder)
    assert contents(tmp_path / "auto") == contents(tmp_path / "reference")


@pytest.fixture
def wrong_about_zebras(monkeypatch):
    """gigatoken gives another last id to texts with a zebra, which the battery does not have."""
    encode = FastTokenizer.encode_flat

    def wrong(self, texts, *, first):
        ids, counts = encode(self, texts, first=first)
        for text, end in zip(texts, counts.cumsum(), strict=True):
            ids[end - 1] += "zebra" in text
        return ids, counts

    monkeypatch.setattr(FastTokenizer, "encode_flat", wrong)


def test_an_encoder_that_is_wrong_about_the_first_rows_is_not_used(folder, tmp_path, wrong_about_zebras, capsys):
    source = write_rows(tmp_path / "a.jsonl", [*rows(3), {"inputs": "a zebra", "outputs": "yes"}])
    build([source], tmp_path / "auto", Recipe(folder, "octocoder"))
    assert "encoding with tokenizers, the reference: gigatoken gives other ids for the first rows" in capsys.readouterr().err
    build([source], tmp_path / "reference", Recipe(folder, "octocoder"), encoder="reference")
    assert contents(tmp_path / "auto") == contents(tmp_path / "reference")


def test_an_encoder_that_turns_out_to_be_wrong_stops_the_build(folder, tmp_path, wrong_about_zebras, monkeypatch):
    monkeypatch.setattr(input_files, "CHUNK_BYTES", 2000)
    zebras = [{"inputs": "a zebra", "outputs": "yes"}] * 30
    source = write_rows(tmp_path / "a.jsonl", [*rows(90), *zebras, *rows(90)])
    with pytest.raises(DataError, match=r"a.jsonl:\d+: gigatoken gives other ids .* --encoder reference"):
        build([source], tmp_path / "mix", Recipe(folder, "octocoder"))
    assert build([source], tmp_path / "mix", Recipe(folder, "octocoder"), encoder="reference").counts["rows"] == 210


def test_an_interrupted_build_goes_on_where_it_was(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(input_files, "CHUNK_BYTES", 500)
    monkeypatch.setattr(build_module, "SAVE_EVERY_S", 0.0)
    sources = [write_rows(tmp_path / f"{name}.jsonl", rows(60)) for name in "ab"]
    recipe = Recipe(folder, "octocoder")
    build(sources, tmp_path / "whole", recipe)
    (tmp_path / "b.jsonl").write_bytes((tmp_path / "b.jsonl").read_bytes() + b'{"inputs": "a", "outputs": ""}\n')
    with pytest.raises(DataError, match=r"b.jsonl:61: 'outputs' is empty"):
        build(sources, tmp_path / "mix", recipe)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("mix")] == []
    assert (tmp_path / ".mix.partial").is_dir()
    write_rows(tmp_path / "b.jsonl", rows(60))  # the row is taken out
    build(sources, tmp_path / "mix", recipe)
    assert "going on after row" in capsys.readouterr().err
    assert contents(tmp_path / "mix") == contents(tmp_path / "whole")
    assert open_dataset(tmp_path / "mix").manifest.counts == open_dataset(tmp_path / "whole").manifest.counts
    assert not (tmp_path / ".mix.partial").exists()


@pytest.mark.parametrize(("change", "because"), [
    ({"recipe": {"template": "plain"}}, "it had another template"),
    ({"recipe": {"max_length": 60, "on_long": "drop"}}, "it had another max_length, on_long"),
    ({"rows": 59}, "it had another"), ({"first": "other"}, "a.jsonl has changed since")])
def test_an_interrupted_build_of_something_else_is_thrown_away(folder, tmp_path, monkeypatch, capsys, change, because):
    monkeypatch.setattr(input_files, "CHUNK_BYTES", 500)
    monkeypatch.setattr(build_module, "SAVE_EVERY_S", 0.0)
    source = write_rows(tmp_path / "a.jsonl", [*rows(60), b"{"])
    with pytest.raises(DataError):
        build([source], tmp_path / "mix", Recipe(folder, "octocoder"))
    recipe = Recipe(folder, **{"template": "octocoder"} | change.get("recipe", {}))
    good = [{"inputs": change.get("first", "ask 0"), "outputs": "answer "}, *rows(60)[1:]]
    sources = [write_rows(source, good)] if "rows" not in change else [write_rows(tmp_path / "z.jsonl", good)]
    manifest = build(sources, tmp_path / "mix", recipe)
    assert f"is thrown away, because {because}" in capsys.readouterr().err.replace(str(tmp_path) + "/", "")
    assert manifest.counts["rows"] == 60
    build(sources, tmp_path / "anew", recipe)
    assert contents(tmp_path / "mix") == contents(tmp_path / "anew")


def test_two_processes_never_write_one_output(folder, tmp_path):
    source = write_rows(tmp_path / "a.jsonl", rows(5))
    with partial_output(tmp_path / "mix"), pytest.raises(ConfigError, match="another process is writing"):
        build([source], tmp_path / "mix", Recipe(folder, "octocoder"))
    build([source], tmp_path / "mix", Recipe(folder, "octocoder"))


SLOW_BUILD = """
import sys, time
from megatron_ft.data import build, input_files
input_files.CHUNK_BYTES, build.SAVE_EVERY_S = 2000, 0.01
write = build.Writer.add
def slow(*args, **kwargs):
    time.sleep(float(sys.argv[5]))
    write(*args, **kwargs)
build.Writer.add = slow
from megatron_ft.data.chunk import Recipe
build.build([sys.argv[1]], sys.argv[2], Recipe(sys.argv[3], "octocoder", on_bad_row="skip"), workers=int(sys.argv[4]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_at_random_moments_and_restarted_gives_the_same_bytes(folder, tmp_path, workers):
    source = write_rows(tmp_path / "a.jsonl", mixed_rows(2500))
    recipe = Recipe(folder, "octocoder", on_bad_row="skip")
    manifest = build([source], tmp_path / "whole", recipe)
    moments = random.Random(workers)
    kills = 0
    command = [sys.executable, "-c", SLOW_BUILD, str(source), str(tmp_path / "mix"), folder, str(workers)]
    while True:
        process = subprocess.Popen([*command, "0.05" if kills < 10 else "0"], stderr=subprocess.DEVNULL, start_new_session=True)
        try:
            code = process.wait(timeout=moments.uniform(0.3, 1.6) if kills < 10 else None)
            assert code == 0
            break
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
            assert not (tmp_path / "mix.json").exists()
    assert kills == 10
    assert contents(tmp_path / "mix") == contents(tmp_path / "whole")
    found = open_dataset(tmp_path / "mix").manifest
    assert (found.counts, found.dropped, found.inputs) == (manifest.counts, manifest.dropped, manifest.inputs)
    assert sorted(path.name for path in tmp_path.iterdir() if "mix" in path.name) == ["mix.bin", "mix.idx", "mix.json"]


def test_a_kill_while_the_files_are_moved_to_their_place_is_made_good(folder, tmp_path):
    source = write_rows(tmp_path / "a.jsonl", rows(5))
    with killed_before_the_index_is_moved():
        build([source], tmp_path / "mix", Recipe(folder, "octocoder"))
    with pytest.raises(DataError, match="mix.idx: there is no such file"):
        open_dataset(tmp_path / "mix")
    build([source], tmp_path / "mix", Recipe(folder, "octocoder"))
    assert open_dataset(tmp_path / "mix").documents == 5
