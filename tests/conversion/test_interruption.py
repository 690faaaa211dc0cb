"""A conversion that ends before its end leaves nothing that looks whole, and goes on where it was."""

import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from megatron_ft.conversion import hf_to_megatron, megatron_to_hf, partial, streams
from megatron_ft.conversion.megatron_to_hf import Options
from megatron_ft.errors import ConfigError
from megatron_ft.runtime import checkpoint_files, torch_archive
from megatron_ft.runtime.stored_tensor import StoredTensor
from tests.conversion.test_round_trip import assert_same_bits, tensors_of
from tests.small_models import make_hf_model


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A Hugging Face folder and its checkpoint."""
    root = tmp_path_factory.mktemp("whole")
    hf = make_hf_model("llama", "gqa", root / "hf")
    return hf, hf_to_megatron.convert(hf, root / "megatron")


class Full:
    """A disk that is full after some writes."""

    def __init__(self, monkeypatch, writes):
        self.left = writes
        self._write = {StoredTensor: StoredTensor.write, torch_archive.TensorWriter: torch_archive.TensorWriter.write}
        for kind, write in self._write.items():
            monkeypatch.setattr(kind, "write", lambda place, *rows, write=write: self.take(write, place, *rows))

    def take(self, write, place, *rows):
        self.left -= 1
        if self.left < 0:
            raise OSError(errno.ENOSPC, "No space left on device", str(place))
        return write(place, *rows)


def convert(way, whole, output, **options):
    """One of the two conversions, one tensor at a time."""
    if way == "there":
        return hf_to_megatron.convert(whole[0], output, workers=1, **options)
    return megatron_to_hf.convert(whole[1], output, Options(workers=1, **options))


def result(way, folder, between):
    return tensors_of(megatron_to_hf.convert(folder, between) if way == "there" else folder)


@pytest.mark.parametrize("way", ["there", "back"])
def test_after_a_full_disk_the_same_command_goes_on(way, whole, tmp_path, monkeypatch):
    output, hidden = tmp_path / "out", tmp_path / ".out.partial"
    with monkeypatch.context() as patch:
        Full(patch, writes=12)
        with pytest.raises(OSError, match="No space left"):
            convert(way, whole, output)
    assert not output.exists() and hidden.is_dir()
    done = journal_of(hidden)
    assert 5 <= len(done) <= 12
    assert not list(hidden.rglob("metadata.json")) and not list(hidden.rglob("config.json")), "it must not look whole"
    moved = names_moved(monkeypatch)
    convert(way, whole, output)
    assert not set(moved) & set(done) and moved, "tensors that were written are not written again"
    assert not hidden.exists() and not list(output.rglob(".journal*"))
    assert_same_bits(result(way, output, tmp_path / "hf"), tensors_of(whole[0]))


def journal_of(hidden):
    return [json.loads(line)["name"] for line in (hidden / ".journal.jsonl").read_text().splitlines()[1:]]


def names_moved(monkeypatch):
    """Names of the weights that conversions write from now on."""
    names, cast = [], streams.cast
    monkeypatch.setattr(streams, "cast", lambda rows, dtype, name: names.append(name) or cast(rows, dtype, name))
    return names


def interrupted(way, whole, output, monkeypatch, **options):
    """The hidden folder of a conversion that met a full disk."""
    with monkeypatch.context() as patch:
        Full(patch, writes=12)
        with pytest.raises(OSError):
            convert(way, whole, output, **options)
    return output.with_name(f".{output.name}.partial")


@pytest.mark.parametrize("way", ["there", "back"])
def test_what_was_damaged_meanwhile_is_written_again(way, whole, tmp_path, monkeypatch):
    hidden = interrupted(way, whole, tmp_path / "out", monkeypatch)
    lines = (hidden / ".journal.jsonl").read_text().splitlines()
    entry = json.loads(lines[3])
    file, offset, *_ = entry["segments"][0]
    [path] = hidden.rglob(file)
    with path.open("r+b") as stream:
        stream.seek(offset + 3)
        stream.write(b"x")
    moved = names_moved(monkeypatch)
    convert(way, whole, tmp_path / "out")
    assert entry["name"] in moved and json.loads(lines[2])["name"] not in moved
    assert_same_bits(result(way, tmp_path / "out", tmp_path / "hf"), tensors_of(whole[0]))


def test_a_line_of_the_journal_that_was_cut_short_counts_for_nothing(whole, tmp_path, monkeypatch):
    hidden = interrupted("there", whole, tmp_path / "out", monkeypatch)
    journal = hidden / ".journal.jsonl"
    last = journal_of(hidden)[-1]
    journal.write_text(journal.read_text()[:-10])
    moved = names_moved(monkeypatch)
    convert("there", whole, tmp_path / "out")
    assert last in moved


def test_other_options_or_another_source_begin_anew(whole, tmp_path, monkeypatch):
    source = shutil.copytree(whole[0], tmp_path / "source")
    for change in ("dtype", "file"):
        interrupted("there", (source, None), tmp_path / "out", monkeypatch)
        if change == "file":
            os.utime(source / "model.safetensors", ns=(1, 1))
        moved = names_moved(monkeypatch)
        made = convert("there", (source, None), tmp_path / "out", dtype="bfloat16" if change == "dtype" else "keep")
        assert "embedding.word_embeddings.weight" in moved
        shutil.rmtree(made)


def test_two_processes_cannot_write_the_same_output(whole, tmp_path, monkeypatch):
    hidden = interrupted("there", whole, tmp_path / "out", monkeypatch)
    before = (hidden / ".journal.jsonl").read_text()
    with (hidden / ".journal.jsonl").open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="another process is writing .*out.partial; wait for it"):
            convert("there", whole, tmp_path / "out")
    assert (hidden / ".journal.jsonl").read_text() == before
    convert("there", whole, tmp_path / "out")


def test_too_little_room_is_said_before_anything_is_written(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint_files, "free_bytes", lambda folder: 10_000)
    with pytest.raises(ConfigError, match=r"--output: .*out takes 414.5 kB, but .* has only 10.0 kB free"):
        convert("there", whole, tmp_path / "out")
    assert not list(tmp_path.iterdir())


KILLED = """
import os, signal, sys
from megatron_ft.conversion import hf_to_megatron, partial
add = partial.Journal.add
def add_then_die(journal, name, entry):
    add(journal, name, entry)
    if len(journal.done) == 7:
        os.kill(os.getpid(), signal.SIGKILL)
partial.Journal.add = add_then_die
hf_to_megatron.convert(sys.argv[1], sys.argv[2], workers=2)
"""


def test_after_kill_9_the_same_command_goes_on(whole, tmp_path, monkeypatch):
    done = subprocess.run([sys.executable, "-c", KILLED, str(whole[0]), str(tmp_path / "out")], capture_output=True, text=True,
                          check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (tmp_path / "out").exists() and len(journal_of(tmp_path / ".out.partial")) == 7
    moved = names_moved(monkeypatch)
    made = hf_to_megatron.convert(whole[0], tmp_path / "out")
    assert len(set(moved)) == 27 - 7
    assert_same_bits(tensors_of(megatron_to_hf.convert(made, tmp_path / "hf")), tensors_of(whole[0]))


def test_a_purpose_knows_a_changed_file(tmp_path):
    (tmp_path / "a").write_text("1")
    before = partial.stamps(tmp_path)
    (tmp_path / "a").write_text("12")
    assert partial.stamps(tmp_path) != before


def test_a_number_of_workers_that_is_none_costs_nothing(whole, tmp_path, monkeypatch):
    hidden = interrupted("there", whole, tmp_path / "out", monkeypatch)
    with pytest.raises(ConfigError, match="--workers: 0, expected at least 1"):
        hf_to_megatron.convert(whole[0], tmp_path / "out", workers=0)
    assert journal_of(hidden)


def test_until_it_is_renamed_an_output_can_be_gone_on_with(whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(partial, "_make_last", lambda folder: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left")))
        with pytest.raises(OSError, match="No space left"):
            convert("there", whole, tmp_path / "out")
    moved = names_moved(monkeypatch)
    convert("there", whole, tmp_path / "out")
    assert not moved and not (tmp_path / "out/.journal.jsonl").exists()


def test_a_link_to_nowhere_is_an_output_that_exists(whole, tmp_path):
    (tmp_path / "out").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="out exists already"):
        convert("there", whole, tmp_path / "out")


def test_another_config_begins_anew(tmp_path, monkeypatch):
    """Two heads of eight or four of four: the same shapes, another order of rows."""
    from safetensors.torch import load_file
    from transformers import LlamaConfig

    from megatron_ft.conversion.opening import Hints
    from tests.conversion.legacy_writer import write
    from tests.small_models import make_random_model

    sizes = {"vocab_size": 128, "hidden_size": 16, "intermediate_size": 12, "num_hidden_layers": 2,
             "max_position_embeddings": 32}
    configs = {heads: LlamaConfig(**sizes, num_attention_heads=heads, num_key_value_heads=heads, head_dim=16 // heads)
               for heads in (2, 4)}
    folders = {heads: make_random_model(config, tmp_path / f"hf{heads}") for heads, config in configs.items()}
    root = write(tmp_path / "legacy", load_file(folders[4] / "model.safetensors"), configs[4], dialect="nvidia", tp=1, pp=1)
    with monkeypatch.context() as patch:
        Full(patch, writes=8)
        with pytest.raises(OSError):
            megatron_to_hf.convert(root, tmp_path / "out", Options(workers=1), hints=Hints(config=folders[2]))
    made = megatron_to_hf.convert(root, tmp_path / "out", hints=Hints(config=folders[4]))
    assert_same_bits(tensors_of(made), tensors_of(folders[4]))
