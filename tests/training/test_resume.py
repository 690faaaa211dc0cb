"""A run that dies goes on where its last checkpoint stands: bit for bit at the same layout, closely at another."""

from __future__ import annotations

import dataclasses
import shutil

import pytest
import torch

from megatron_ft.errors import CheckpointError
from megatron_ft.runtime import checkpoint_layout
from tests.processes import TaskError
from tests.training.runs import STEPS, config, curve, run, tensors

TP2_PP2 = {"tp": 2, "pp": 2, "sequence_parallel": True}
TP2_DP2 = {"tp": 2}
CASES = {"one rank": (1, {}, "fp32"), "tp2 x pp2": (4, TP2_PP2, "fp32"), "tp2 x dp2, bf16": (4, TP2_DP2, "bf16"),
         "dp2, plain optimizer, bf16": (2, {"distributed_optimizer": False}, "bf16")}


@pytest.mark.parametrize("size, parallel, precision", CASES.values(), ids=CASES.keys())
def test_resume_is_exact_with_dropout(pool, bases, dataset, tmp_path, size, parallel, precision):
    def settings(name: str):
        return {**config(bases("starcoder", "mqa")[1], dataset, tmp_path / name, model__hidden_dropout=0.1,
                         model__attention_dropout=0.1, model__precision=precision), "parallel": parallel}

    whole = run(pool, size, settings("whole"))
    run(pool, size, settings("cut"), stop_after=5)  # two steps after the checkpoint of step 3
    cut = run(pool, size, settings("cut"))
    assert curve(cut, "step") == curve(whole, "step"), "steps done twice are in the metrics once"
    assert curve(cut) == curve(whole)
    assert curve(cut, "valid_loss") == curve(whole, "valid_loss")
    expected = tensors(tmp_path / "whole" / "checkpoints" / f"iter_{STEPS:07d}")
    found = tensors(tmp_path / "cut" / "checkpoints" / f"iter_{STEPS:07d}")
    assert set(found) == set(expected) and any("exp_avg_sq" in name for name in found)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("size, parallel", [(1, {}), (4, TP2_DP2), (2, {"pp": 2}), (4, {})],
                         ids=["one rank", "tp2 x dp2", "pp2", "dp4"])
def test_resume_at_another_layout(pool, bases, dataset, tmp_path, size, parallel):
    settings = config(bases("llama", "mqa_tied_llama3")[1], dataset, tmp_path / "a")
    whole = run(pool, 4, {**settings, "parallel": TP2_PP2})
    moved = tmp_path / "b" / "checkpoints"
    shutil.copytree(tmp_path / "a" / "checkpoints" / "iter_0000003", moved / "iter_0000003")
    checkpoint_layout.set_latest(moved, 3)
    settings["run"]["dir"] = str(tmp_path / "b")
    resumed = run(pool, size, {**settings, "parallel": parallel})
    assert curve(resumed) == pytest.approx(curve(whole)[3:], rel=1e-5)
    assert curve(resumed, "grad_norm") == pytest.approx(curve(whole, "grad_norm")[3:], rel=1e-4)


def test_a_finished_run_started_again_changes_nothing(pool, bases, dataset, tmp_path):
    settings = config(bases("llama", "gqa")[1], dataset, tmp_path)
    first = run(pool, 1, settings)
    assert run(pool, 1, settings) == first


def test_another_runs_checkpoint_is_a_base_model(pool, bases, dataset, tmp_path):
    """Its weights alone: steps, optimizer and learning rate start anew, and the first run is left as it was."""
    settings = config(bases("llama", "gqa")[1], dataset, tmp_path / "first")
    first = run(pool, 2, {**settings, "parallel": {"tp": 2}})
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "first").rglob("*")}
    settings["load"]["from"], settings["run"]["dir"] = str(tmp_path / "first" / "checkpoints"), str(tmp_path / "second")
    second = run(pool, 1, settings)
    assert curve(second, "valid_loss")[0] == pytest.approx(curve(first, "valid_loss")[-1], rel=1e-6)
    assert curve(second, "lr") == curve(first, "lr")
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "first").rglob("*")}


def test_a_checkpoint_holds_what_the_way_back_needs(pool, bases, dataset, tmp_path):
    hf, base = bases("llama", "gqa")
    run(pool, 2, {**config(base, dataset, tmp_path), "parallel": {"tp": 2}})
    folder = checkpoint_layout.find(tmp_path / "checkpoints")
    manifest = checkpoint_layout.Manifest.read(folder)
    assert (manifest.iteration, manifest.dtype) == (STEPS, "float32")
    assert manifest.stored_vocabulary == 256 > manifest.architecture.vocabulary == 203
    assert (folder / "hf" / "config.json").read_bytes() == (hf / "config.json").read_bytes()
    assert not list((tmp_path / "checkpoints").glob(".*")), "nothing half-written is left"


def refused(pool, kind: type, settings: dict, *words: str) -> None:
    with pytest.raises(TaskError) as caught:
        run(pool, 1, settings)
    assert caught.value.kind == kind.__name__
    for word in words:
        assert word in str(caught.value)


def test_other_data_or_seed_is_refused(pool, bases, dataset, tmp_path):
    settings = config(bases("llama", "gqa")[1], dataset, tmp_path)
    run(pool, 1, settings)
    settings["run"]["seed"] = 8
    with pytest.raises(TaskError, match="run.seed differ"):
        run(pool, 1, settings)


def test_a_checkpoint_without_training_state_is_no_run(pool, bases, dataset, tmp_path):
    """Somebody copies converted weights into run.dir: that must not pass as a resumed run."""
    _, base = bases("llama", "gqa")
    settings = config(base, dataset, tmp_path)
    run(pool, 1, settings)
    newest = tmp_path / "checkpoints" / f"iter_{STEPS:07d}"
    manifest = checkpoint_layout.Manifest.read(newest)
    shutil.rmtree(newest)
    shutil.copytree(base / "release", newest)
    dataclasses.replace(manifest, files={}).write(newest)
    refused(pool, CheckpointError, settings, "holds weights but no training state", "set load.from to it")


def test_a_later_programs_training_state_is_refused(pool, bases, dataset, tmp_path):
    settings = config(bases("llama", "gqa")[1], dataset, tmp_path)
    run(pool, 1, settings)
    newest = tmp_path / "checkpoints" / f"iter_{STEPS:07d}"
    common = torch.load(newest / "common.pt", weights_only=False)
    common["progress"]["phase"] = 3
    torch.save(common, newest / "common.pt")
    dataclasses.replace(checkpoint_layout.Manifest.read(newest), files={}).write(newest)
    refused(pool, CheckpointError, settings, "its training state has phase, which this program does not know")


@pytest.mark.parametrize("precision, size, parallel", [("fp32", 4, TP2_PP2), ("bf16", 4, TP2_PP2), ("fp32", 4, {"pp": 2}),
                                                       ("fp32", 4, {"tp": 2}), ("fp32", 4, {"pp": 4})],
                         ids=["tp2 x pp2", "tp2 x pp2, bf16", "pp2 x dp2", "tp2 x dp2", "pp4"])
def test_a_checkpoints_tensors_do_not_depend_on_the_layout(pool, bases, dataset, tmp_path, precision, size, parallel):
    """Optimizer state too, to the last element: megatron-core 0.16.1 shifts it where buckets are padded (tied head, PP)."""

    def saved(name: str, ranks: int, layout: dict) -> dict[str, torch.Tensor]:
        settings = config(bases("starcoder", "mqa")[1], dataset, tmp_path / name, run__steps=2,
                          model__precision=precision, validation__every_steps=0)
        run(pool, ranks, {**settings, "parallel": layout})
        return tensors(tmp_path / name / "checkpoints" / "iter_0000002")

    one, other = saved("one", 1, {}), saved("other", size, parallel)
    assert set(one) == set(other)
    for name, tensor in one.items():
        rows = min(len(tensor), len(other[name]))  # vocabulary padding differs
        tolerance = 3e-2 if precision == "bf16" else 1e-3  # Adam blows up the noise of near-zero gradients
        apart = (tensor[:rows].float() - other[name][:rows].float()).norm() / tensor.float().norm()
        assert apart < tolerance, f"{name}: relative difference {apart:.1e}"
        assert other[name][rows:].count_nonzero() == 0
