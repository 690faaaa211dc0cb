"""What a run refuses before it touches a device; what its command prints and how it ends."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tokenizers
import tomli_w

from megatron_ft import log
from megatron_ft.config import parse
from megatron_ft.data.indexed import open_dataset
from megatron_ft.errors import CheckpointError, ConfigError, DataError
from megatron_ft.runtime import checkpoint_files
from megatron_ft.runtime.device import Process
from megatron_ft.training import setup
from tests.data.small_datasets import write_dataset
from tests.data.small_pairs import pairs_of, write_pair
from tests.training.runs import config


def prepared(tree: dict, *, ranks: int = 1) -> setup.Setup:
    return setup.prepare(parse(tree), Process(0, ranks, 0, ranks, "127.0.0.1", 0))


@pytest.fixture
def settings(bases, dataset, tmp_path):
    return config(bases("starcoder", "mqa")[1], dataset, tmp_path / "run")


def test_more_ranks_than_the_layout(settings):
    settings["parallel"] = {"tp": 2}
    with pytest.raises(ConfigError, match="3 processes cannot be split into tp=2 x pp=1: 2 ranks .* start 2 or 4 processes"):
        prepared(settings, ranks=3)


def test_tp_that_does_not_divide_the_heads(settings):
    settings["parallel"] = {"tp": 4}
    with pytest.raises(ConfigError, match=r"parallel.tp: 4 does not divide the 6 attention heads of starcoder; use one of \[1"):
        prepared(settings, ranks=4)


def test_a_base_model_that_is_not_there(settings, tmp_path):
    settings["load"]["from"] = str(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="nowhere: no such folder"):
        prepared(settings)


def test_an_unfinished_base_model(settings, tmp_path):
    shutil.copytree(settings["load"]["from"], tmp_path / "base")
    (tmp_path / "base" / "release" / "metadata.json").unlink()
    settings["load"]["from"] = str(tmp_path / "base")
    with pytest.raises(CheckpointError, match="unfinished checkpoint, metadata.json missing"):
        prepared(settings)


def test_a_dataset_that_is_not_there(settings):
    settings["data"]["train"] = ["0:1 nothing/here"]
    with pytest.raises(DataError, match="nothing/here"):
        prepared(settings)


def test_a_truncated_dataset(settings, dataset, tmp_path):
    for suffix in (".bin", ".idx", ".json"):
        shutil.copy(f"{dataset}{suffix}", tmp_path / f"cut{suffix}")
    os.truncate(tmp_path / "cut.bin", 100)
    settings["data"]["train"], settings["data"]["valid"] = [str(tmp_path / "cut")], []
    with pytest.raises(DataError, match=r"cut\.bin.*100"):
        prepared(settings)


def test_a_tokenizer_larger_than_the_model(settings, tmp_path):
    prefix = write_dataset(tmp_path / "other", [[([5], False), ([6], True)]] * 9, vocabulary=300)
    settings["data"]["train"], settings["data"]["valid"] = [str(prefix)], []
    with pytest.raises(DataError, match="made with a tokenizer of 300 tokens, but the base model .* has 211"):
        prepared(settings)


def test_validation_documents_are_not_trained_on(settings, dataset):
    settings["data"]["valid"] = [f"0.85:1 {dataset}"]
    with pytest.raises(DataError, match="share 10 documents"):
        prepared(settings)


def test_weights_of_the_config_and_of_octopacks_file_give_the_same_run(settings, dataset, tmp_path):
    settings["data"].update(train=[f"3 0:0.5 {dataset}", f"1 0.5:0.9 {dataset}"], valid=[f"0.9:1 {dataset}"])
    given = prepared(settings)
    (tmp_path / "train.txt").write_text(f'"train: 3 0:0.5 {dataset}, 1 0.5:0.9 {dataset}"\n')
    (tmp_path / "valid.txt").write_text(f'"validation: 1.0 0.9:1 {dataset}"')
    settings["data"].update(train=[], valid=[], weights_files=[str(tmp_path / "train.txt"), str(tmp_path / "valid.txt")])
    read = prepared(settings)
    assert given.loader.fingerprint == read.loader.fingerprint
    assert given.loader.epochs.counts == [135, 45]
    assert read.valid["validation"].selection.documents == 20
    assert given.plan.epochs_differ and "about" in given.plan.lines()[3]


def test_epochs_of_a_weighted_run_are_whole(settings, dataset):
    settings["run"].update(steps=0, epochs=3)
    settings["data"].update(train=[f"3 0:0.5 {dataset}", f"1 0.5:0.9 {dataset}"])
    made = prepared(settings)
    rows = sum(made.loader.epochs.rows(epoch) for epoch in range(3))
    assert made.plan.steps == -(-rows // 8)


def pair_of(dataset, prefix, *, more: list[int] | None = None) -> str:
    pairs = pairs_of(open_dataset(dataset), with_end=False)
    return str(write_pair(prefix, pairs + ([([5], more)] if more else [])))


def test_a_pair_gets_the_end_of_text_that_the_config_names_and_gives_the_datasets_rows(settings, dataset, tmp_path):
    native = prepared(settings).loader
    pair = pair_of(dataset, tmp_path / "pair")
    settings["data"].update(train=[f"0:0.9 {pair}"], valid=[f"0.9:1 {pair}"], end_of_text=0)
    paired = prepared(settings).loader
    for batch, other in zip(next(native), next(paired), strict=True):
        assert batch.tokens.equal(other.tokens) and batch.loss_mask.equal(other.loss_mask)


def test_a_pair_gets_the_end_of_text_of_the_base_models_tokenizer(settings, dataset, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(settings["load"]["from"], base)
    model = tokenizers.ByteLevelBPETokenizer()
    model.train_from_iterator(["a"], vocab_size=300, special_tokens=["<|pad|>", "<|end|>"])
    model.save(str(base / "release" / "hf" / "tokenizer.json"))
    (base / "release" / "hf" / "tokenizer_config.json").write_text('{"eos_token": "<|end|>"}')
    settings["load"]["from"] = str(base)
    settings["data"].update(train=[pair_of(dataset, tmp_path / "pair")], valid=[])
    assert prepared(settings).loader.selection.end_of_text == 1


def test_a_pair_without_a_known_end_of_text(settings, dataset, tmp_path):
    settings["data"].update(train=[pair_of(dataset, tmp_path / "pair")], valid=[])
    with pytest.raises(ConfigError, match="data.end_of_text: is not set, .* neither does the base model .*hf: is no tokenizer"):
        prepared(settings)


def test_an_end_of_text_that_contradicts_the_dataset(settings, dataset):
    settings["data"]["end_of_text"] = 5
    with pytest.raises(ConfigError, match=f"data.end_of_text: 5, but {dataset} was made with 0; leave it unset"):
        prepared(settings)


@pytest.mark.parametrize("field", ["train", "valid"])
def test_a_pair_with_an_id_that_the_model_does_not_have(settings, dataset, tmp_path, field):
    pair = pair_of(dataset, tmp_path / "pair", more=[211])
    settings["data"].update(valid=[], end_of_text=0)
    settings["data"][field] = [pair]
    with pytest.raises(DataError, match=f"data: {pair} has the id 211, but the base model .* has 211; tokenize with"):
        prepared(settings)


def test_documents_longer_than_the_model_was_made_for(settings, tmp_path):
    prefix = write_dataset(tmp_path / "long", [[([5] * 100, False), ([6] * 20, True)]] * 9, vocabulary=200)
    settings["data"].update(train=[str(prefix)], valid=[], row_tokens=192)
    with pytest.raises(ConfigError, match="row_tokens: 192 lets in a document of 119 positions, but the model was made for 97"):
        prepared(settings)


def command(settings: dict, folder: Path, *more: str) -> list[str]:
    path = folder / "config.toml"
    path.write_text(tomli_w.dumps(settings))
    return [sys.executable, "-m", "megatron_ft.train", str(path), *more]


def test_the_command_prints_its_plan_and_ends_with_zero(settings, tmp_path):
    settings["log"]["tensorboard"] = True
    ended = subprocess.run(command(settings, tmp_path, "run.steps=2", "log.every_steps=2"), capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    for words in ("kernels: layers local spec", "1 processes = 1 tp x 1 pp x 1 dp", "8 rows/step = 1 row/micro-batch",
                  "step 2/2  loss ", "tokens/s", "supervised ", "ETA 0:00:00", "validation loss", "done: 2 steps"):
        assert words in ended.stderr
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [2]
    assert list((tmp_path / "run" / "tensorboard").glob("events.*"))


def test_loss_on_decides_what_is_supervised_in_training_and_in_validation(settings, dataset):
    lengths, supervised = (getattr(open_dataset(dataset), column)[:180].sum() for column in ("lengths", "supervised"))
    for wanted, expected in (("answers", supervised), ("all", lengths - 180)):
        run = prepared({**settings, "loss": {"on": wanted}})
        steps = -(-run.loader.rows_per_epoch // run.plan.rows_per_step)
        found = [batch for _ in range(steps) for batch in next(run.loader)][:run.loader.rows_per_epoch]
        assert sum(batch.supervised for batch in found) == expected
        assert [rows.selection.loss_on for rows in run.valid.values()] == [wanted]


def test_the_commands_errors_are_one_line_and_exit_code_two(settings, tmp_path):
    ended = subprocess.run(command(settings, tmp_path, "optim.lr=fast"), capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: ConfigError: ") and "optim.lr" in ended.stderr and "Traceback" not in ended.stderr


def test_a_loss_that_is_no_number_stops_the_run_before_a_checkpoint(settings, tmp_path):
    """A learning rate beyond reason: the weights overflow, the next loss is NaN."""
    ended = subprocess.run(command(settings, tmp_path, "optim.lr=1e30", "optim.min_lr=0", "optim.clip_norm=0",
                                   "checkpoint.every_steps=1000", "validation.every_steps=0"), capture_output=True, text=True)
    assert ended.returncode == 2, ended.stderr
    assert "TrainingError: step " in ended.stderr and "not finite" in ended.stderr
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_run_whose_checkpoint_has_no_room_is_refused_with_both_numbers(settings, monkeypatch):
    """90,744 weights, four bytes each and twice four for Adam: 1.1 MB."""
    monkeypatch.setattr(checkpoint_files, "free_bytes", lambda _: 1_000_000)
    with pytest.raises(ConfigError, match="takes about 1.1 MB, but .*checkpoints has 1.0 MB free; make room or choose another"):
        prepared(settings)


def test_a_run_that_will_keep_more_checkpoints_than_fit_is_warned_of(settings, monkeypatch, caplog):
    monkeypatch.setattr(checkpoint_files, "free_bytes", lambda _: 3_000_000)
    monkeypatch.setattr(log.get(), "propagate", True)
    settings["checkpoint"]["keep_last"] = 1
    prepared(settings)
    assert "are to be there" not in caplog.text, "two fit"
    settings["checkpoint"]["keep_last"] = 2
    prepared(settings)
    assert "has 3.0 MB free, but 3 more checkpoints of about 1.1 MB each are to be there (2 that stay and the" in caplog.text
