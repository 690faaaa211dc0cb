"""Saving while training goes on: what is written, when it counts, what stays, and what a full disk does."""

from __future__ import annotations

import json
import re
import zlib

import pytest
import torch

from megatron_ft.config import read
from megatron_ft.runtime import checkpoint_layout
from tests.processes import TaskError
from tests.training.runs import config, run, tensors

TRAIN = "tests.training.checkpoint_programs:train"
CASES = {"one rank, plain optimizer": (1, {"distributed_optimizer": False}, "fp32"), "dp2": (2, {}, "fp32"),
         "tp2 x pp2 in pieces, bf16": (4, {"tp": 2, "pp": 2, "virtual_stages": 2}, "bf16")}


def steps(root) -> list[int]:
    """Steps of the checkpoints that are there, oldest first."""
    return sorted(checkpoint_layout.saved_steps(root))


@pytest.mark.parametrize("size, parallel, precision", CASES.values(), ids=CASES.keys())
def test_the_state_of_the_step_is_written_while_training_goes_on(pool, bases, dataset, tmp_path, size, parallel, precision):
    """The files of step 3 are written from step 5 on.

    While weights are gathered during the forward pass a rank's other weights are stale after a step: nothing else, such as
    a validation, has gathered them before this save.
    """
    def settings(name: str, **more):
        return {**config(bases("llama", "mqa_tied_llama3")[1], dataset, tmp_path / name, model__precision=precision,
                         validation__every_steps=0), **more}

    late = pool.run(size, TRAIN, config=settings("late", parallel=parallel), writes_wait_until=5)
    assert late[0]["latest"] == [None] * 6, "nothing is published before it is written"
    plain = settings("plain", parallel={**parallel, "overlap_param_gather": False})
    plain["checkpoint"]["asynchronous"] = False
    at_once = pool.run(size, TRAIN, config=plain)
    assert at_once[0]["latest"] == [None, None, None, "3", "3", "3"]
    expected, found = (tensors(tmp_path / name / "checkpoints" / "iter_0000003") for name in ("plain", "late"))
    assert set(found) == set(expected) and any("exp_avg" in name for name in found)
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []
    assert steps(tmp_path / "late" / "checkpoints") == [3, 6]


def test_a_write_that_fails_on_one_rank_ends_the_run_on_all_and_is_never_published(pool, bases, dataset, tmp_path):
    settings = {**config(bases("starcoder", "mqa")[1], dataset, tmp_path), "parallel": {"tp": 2}}
    settings["checkpoint"]["every_steps"] = 2
    ended = pool.run(2, TRAIN, config=settings, cannot_write=[1, 4])
    for rank in ended:
        assert "the checkpoint of step 4 could not be written: OSError: [Errno 27] File too large" in rank["error"]
        assert "(on rank 1)" in rank["error"] and "Make room or mend the disk" in rank["error"]
    assert ended[1]["cause"] == "OSError"
    root = tmp_path / "checkpoints"
    assert steps(root) == [2] and checkpoint_layout.latest(root).name == "iter_0000002"
    assert not list(root.glob(".*")), "nothing half-written is left"
    assert [line["step"] for line in run(pool, 2, settings) if "loss" in line] == [1, 2, 3, 4, 5, 6]


def test_machines_that_do_not_share_the_runs_folder_are_noticed(pool, bases, dataset, tmp_path):
    settings = {**config(bases("starcoder", "mqa")[1], dataset, tmp_path, run__steps=2), "parallel": {"tp": 2}}
    for rank in pool.run(2, TRAIN, config=settings, own_disks=True):
        assert re.search("step 2 could not be published: rank 0 does not see what others have written .__1_[01].distcp is "
                         "missing.: run.dir must be on a file system that their machines share", rank["error"])
    assert checkpoint_layout.saved_steps(tmp_path / "checkpoints") == []


def test_a_save_without_room_is_made_up_for_as_soon_as_there_is(pool, bases, dataset, tmp_path):
    settings = {**config(bases("llama", "gqa")[1], dataset, tmp_path, checkpoint__keep_last=9), "parallel": {}}
    settings["checkpoint"]["every_steps"] = 2
    pool.run(1, TRAIN, config=settings, free_bytes={0: 0, 2: 2**50})
    assert steps(tmp_path / "checkpoints") == [3, 4, 6]


@pytest.mark.parametrize("every, words", [(2, ["the checkpoint of step 4 takes", "since step 2 none could be saved"]),
                                          (0, ["the checkpoint of step 6 takes"])], ids=["two that are due", "the last one"])
def test_a_run_ends_rather_than_lose_its_progress_for_want_of_room(pool, bases, dataset, tmp_path, every, words):
    settings = {**config(bases("llama", "gqa")[1], dataset, tmp_path), "parallel": {}}
    settings["checkpoint"]["every_steps"] = every
    [ended] = pool.run(1, TRAIN, config=settings, free_bytes={0: 1_234_567})
    for text in (*words, "but 1.2 MB are free; nothing was written", "make room, or lower checkpoint.keep_last"):
        assert text in ended["error"]
    assert len(ended["latest"]) == (4 if every else 6)
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_old_checkpoints_go_once_newer_ones_are_complete_and_what_is_not_ours_stays(pool, bases, dataset, tmp_path):
    settings = {**config(bases("llama", "gqa")[1], dataset, tmp_path, run__steps=7), "parallel": {"tp": 2}}
    settings["checkpoint"].update(every_steps=1, keep_last=2, keep_every=3)
    root = tmp_path / "checkpoints"
    for name in ("iter_0000001_backup", ".iter_0000002.partial", ".iter_0000009.removed"):
        (root / name).mkdir(parents=True)
        (root / name / "metadata.json").write_text("{}")
    (root / "notes.txt").write_text("mine")
    run(pool, 2, settings)
    assert steps(root) == [3, 6, 7]
    others = {path.name for path in root.iterdir()} - {"iter_0000003", "iter_0000006", "iter_0000007"}
    assert others == {"iter_0000001_backup", "notes.txt", checkpoint_layout.LATEST_FILE}


def test_a_manifest_says_how_a_checkpoint_was_made_and_what_its_files_are(pool, bases, dataset, tmp_path):
    hf, base = bases("starcoder", "mqa")
    settings = {**config(base, dataset, tmp_path, run__steps=2, model__precision="bf16"), "parallel": {"pp": 2}}
    run(pool, 4, settings)
    folder = checkpoint_layout.find(tmp_path / "checkpoints")
    manifest = checkpoint_layout.Manifest.read(folder)
    assert manifest.layout == {"tp": 1, "pp": 2, "dp": 2, "virtual_stages": 1}
    assert manifest.progress["step"] == 2 and manifest.progress["rows"] == 16 and 0 < manifest.progress["epoch"] < 1
    assert set(manifest.optimizer_state) == {"exp_avg", "exp_avg_sq", "fp32_param"}
    (tmp_path / "said.toml").write_text(manifest.source["config"])
    assert read(tmp_path / "said.toml").optim.lr == 1e-3
    assert manifest.source["tokenizers"] == [json.loads(dataset.with_suffix(".json").read_text())["tokenizer"]["fingerprint"]]
    assert {"torch", "megatron-core", "megatron_ft"} <= set(manifest.versions)
    there = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    del there[checkpoint_layout.MANIFEST_FILE]
    assert {name: (len(data), f"{zlib.crc32(data):08x}") for name, data in there.items()} == {
        name: (record.bytes, record.crc32) for name, record in manifest.files.items()}
    assert sum(name.endswith(".distcp") for name in there) == 8, "each of the four ranks has written a part"


def test_what_was_saved_before_a_run_fails_counts(pool, bases, dataset, tmp_path):
    """All ranks fail together, with step 1 written but not yet published."""
    settings = {**config(bases("llama", "gqa")[1], dataset, tmp_path), "parallel": {}}
    settings["optim"].update(lr=1e30, min_lr=0.0, clip_norm=0.0)
    settings["run"]["max_skipped_steps"] = 1
    settings["checkpoint"]["every_steps"] = 1
    with pytest.raises(TaskError, match="not finite"):
        pool.run(1, TRAIN, config=settings, writes_wait_until=1)
    assert checkpoint_layout.latest(tmp_path / "checkpoints").name == "iter_0000001"
