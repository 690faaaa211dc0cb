"""A run that dies goes on where its last checkpoint stands: bit for bit at the same layout, closely at another."""

from __future__ import annotations

import copy
import dataclasses
import functools
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from megatron_ft.config import parse
from megatron_ft.conversion import megatron_to_hf
from megatron_ft.errors import CheckpointError, ConfigError
from megatron_ft.runtime import checkpoint_layout
from megatron_ft.runtime.device import Process
from megatron_ft.training import setup
from tests.processes import TaskError
from tests.training.runs import STEPS, config, curve, run, tensors

TP2_PP2 = {"tp": 2, "pp": 2, "sequence_parallel": True}
TP2_DP2 = {"tp": 2}
CASES = {"one rank, SGD": (1, {"distributed_optimizer": False}, "fp32", {"optimizer": "sgd", "lr": 0.1}),
         "tp2 x pp2": (4, TP2_PP2, "fp32", {}), "tp2 x dp2, bf16": (4, TP2_DP2, "bf16", {}),
         "dp2, plain optimizer, fp16": (2, {"distributed_optimizer": False}, "fp16", {"loss_scale_window": 2})}


@pytest.mark.parametrize("size, parallel, precision, optim", CASES.values(), ids=CASES.keys())
def test_resume_is_exact_with_dropout(pool, bases, dataset, tmp_path, size, parallel, precision, optim):
    def settings(name: str):
        tree = {**config(bases("starcoder", "mqa")[1], dataset, tmp_path / name, model__hidden_dropout=0.1,
                         model__attention_dropout=0.1, model__precision=precision), "parallel": parallel}
        tree["optim"].update(optim)
        return tree

    whole = run(pool, size, settings("whole"))
    run(pool, size, settings("cut"), stop_after=5)  # two steps after the checkpoint of step 3
    cut = run(pool, size, settings("cut"))
    assert curve(cut, "step") == curve(whole, "step"), "steps done twice are in the metrics once"
    assert curve(cut) == curve(whole)
    assert curve(cut, "valid_loss") == curve(whole, "valid_loss")
    ends = [tmp_path / name / "checkpoints" / f"iter_{STEPS:07d}" for name in ("whole", "cut")]
    expected, found = map(tensors, ends)
    state = "momentum_buffer" if optim.get("optimizer") == "sgd" else "exp_avg_sq"
    assert set(found) == set(expected) and any(state in name for name in found)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    counted, again = (torch.load(folder / "common.pt", weights_only=False) for folder in ends)
    assert counted == again
    if precision == "fp16":  # overflows, skips steps, lowers and raises its loss scale
        assert 0 < again["optimizer"]["updates"] < STEPS and again["optimizer"]["loss_scalers"][0]["scale"] != 4096


@pytest.fixture(scope="module")
def long_run(pool, bases, dataset, tmp_path_factory):
    """(config, metrics) of 23 steps at tp2 x pp2, with a checkpoint after the third."""
    settings = config(bases("llama", "mqa_tied_llama3")[1], dataset, tmp_path_factory.mktemp("long"), run__steps=23,
                      checkpoint__keep_every=3)
    settings["checkpoint"]["every_steps"], settings["validation"]["every_steps"] = 3, 0
    return settings, run(pool, 4, {**settings, "parallel": TP2_PP2})


@pytest.mark.parametrize("size, parallel", [(1, {}), (4, TP2_DP2), (2, {"pp": 2, "virtual_stages": 2}), (4, {}),
                                            (2, {"distributed_optimizer": False})],
                         ids=["one rank", "tp2 x dp2", "pp2 in pieces", "dp4", "dp2, plain optimizer"])
def test_resume_at_another_layout(pool, long_run, tmp_path, size, parallel):
    """Twenty steps on: a weight whose optimizer state was misplaced would show at once."""
    settings, whole = copy.deepcopy(long_run[0]), long_run[1]
    moved = tmp_path / "checkpoints"
    shutil.copytree(Path(settings["run"]["dir"]) / "checkpoints" / "iter_0000003", moved / "iter_0000003")
    checkpoint_layout.set_latest(moved, 3)
    settings["run"]["dir"] = str(tmp_path)
    settings["checkpoint"]["every_steps"] = 0
    resumed = run(pool, size, {**settings, "parallel": parallel})
    assert len(curve(resumed)) == 20
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
    megatron_to_hf.convert(tmp_path / "checkpoints", tmp_path / "hf")
    back, saved = load_file(tmp_path / "hf" / "model.safetensors"), tensors(folder)
    assert torch.equal(back["model.embed_tokens.weight"], saved["embedding.word_embeddings.weight"][:203])
    assert torch.equal(back["model.layers.2.mlp.down_proj.weight"], saved["decoder.layers.mlp.linear_fc2.weight"][2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


NEWEST = "iter_0000006"
DAMAGES = {
    "a flipped bit": (lambda root: flip(root / NEWEST / "__1_0.distcp"), "__1_0.distcp has the checksum .*, expected"),
    "a flipped bit in hf": (lambda root: flip(root / NEWEST / "hf" / "config.json"), "hf/config.json has the checksum"),
    "a file cut short": (lambda root: cut(root / NEWEST / "__0_1.distcp"), r"__0_1.distcp has (\d+) bytes, expected (\d+)"),
    "a file missing": (lambda root: (root / NEWEST / "__0_0.distcp").unlink(), "__0_0.distcp is missing"),
    "a mark missing": (lambda root: (root / NEWEST / "metadata.json").unlink(), "metadata.json is missing"),
    "a manifest cut short": (lambda root: cut(root / NEWEST / "megatron_ft.json"), "is not a manifest of this project"),
    "latest pointing to nothing": (lambda root: shutil.rmtree(root / NEWEST), "says '6' but there is no iter_0000006"),
    "latest missing": (lambda root: (shutil.rmtree(root / NEWEST), (root / checkpoint_layout.LATEST_FILE).unlink()),
                       "latest_checkpointed_iteration.txt is missing"),
    "latest unreadable": (lambda root: (shutil.rmtree(root / NEWEST), checkpoint_layout.set_latest(root, "soon")),
                          "says 'soon', which is no step"),
}


def test_a_damaged_newest_checkpoint_is_passed_over_for_the_one_before(pool, bases, dataset, tmp_path):
    settings = config(bases("llama", "gqa")[1], dataset, tmp_path / "run")
    lines = run(pool, 2, {**settings, "parallel": {"tp": 2}})
    roots = []
    for damage, _ in DAMAGES.values():
        roots.append(tmp_path / str(len(roots)))
        shutil.copytree(tmp_path / "run" / "checkpoints", roots[-1])
        damage(roots[-1])
    first, second = pool.run(2, "tests.training.checkpoint_programs:choose", roots=list(map(str, roots)))
    for (name, (_, words)), root, (chosen, said), (agreed, silent) in zip(DAMAGES.items(), roots, first, second, strict=True):
        assert chosen == agreed == "iter_0000003" and not silent, name
        assert re.search(words, said), (name, said)
        assert said.count(" passed over for the one before") == (root / NEWEST).exists(), (name, said)
        assert checkpoint_layout.latest(root).name == "iter_0000003", "latest names the one that is whole"
    whole = tensors(tmp_path / "run" / "checkpoints" / NEWEST)
    flip(tmp_path / "run" / "checkpoints" / NEWEST / "__0_0.distcp")
    assert curve(run(pool, 2, {**settings, "parallel": {"tp": 2}})) == curve(lines)
    found = tensors(tmp_path / "run" / "checkpoints" / NEWEST)
    assert all(torch.equal(found[name], whole[name]) for name in whole), "the damaged one was made anew"


def test_without_a_whole_checkpoint_a_run_does_not_start_anew(pool, bases, dataset, tmp_path):
    settings = config(bases("llama", "gqa")[1], dataset, tmp_path)
    run(pool, 1, settings)
    for step in (3, 6):
        flip(tmp_path / "checkpoints" / f"iter_{step:07d}" / "__0_0.distcp")
    refused(pool, CheckpointError, settings, "none of its checkpoints is whole (iter_0000006: __0_0.distcp has the checksum",
            "; iter_0000003: ", "a run is never started anew over its own checkpoints: bring one back, or set run.dir")
    for step in (3, 6):
        (tmp_path / "checkpoints" / f"iter_{step:07d}" / "common.pt").unlink()
    refused(pool, CheckpointError, settings, "none of its checkpoints is whole (iter_0000006: common.pt missing; iter_0000003")


def test_a_run_that_was_set_back_goes_on_from_there_and_drops_the_future_it_left(pool, bases, dataset, tmp_path):
    settings = config(bases("llama", "gqa")[1], dataset, tmp_path, checkpoint__keep_last=5)
    settings["checkpoint"]["every_steps"] = 2
    whole = run(pool, 1, settings)
    root = tmp_path / "checkpoints"
    checkpoint_layout.set_latest(root, 2)
    settings["checkpoint"]["every_steps"] = 3
    assert curve(run(pool, 1, settings)) == curve(whole)
    assert sorted(checkpoint_layout.saved_steps(root)) == [2, 3, 6], "4 was of the future that was left"


def refused(pool, kind: type, settings: dict, *words: str) -> None:
    with pytest.raises(TaskError) as caught:
        run(pool, 1, settings)
    assert caught.value.kind == kind.__name__
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("precision, changed, words", [
    ("fp32", {"run": {"seed": 8}}, "run.seed differ"),
    ("fp32", {"optim": {"optimizer": "sgd"}}, "state exp_avg, exp_avg_sq, this config's has momentum_buffer: optim.opt"),
    ("fp32", {"model": {"precision": "bf16"}}, "fp32_param: optim.optimizer, .* or model.precision differ; restore them, or"),
    ("bf16", {"model": {"precision": "fp16"}}, "holds bfloat16 weights, but model.precision=fp16 means float16; restore it"),
], ids=["another data order", "another optimizer", "another precision", "another half precision"])
def test_what_cannot_be_resumed_is_refused_before_a_device_is_touched(short_runs, precision, changed, words):
    settings = copy.deepcopy(short_runs(precision))
    for section, fields in changed.items():
        settings[section].update(fields)
    with pytest.raises(ConfigError, match=words):
        setup.prepare(parse(settings), Process(0, 1, 0, 1, "127.0.0.1", 0))


@pytest.fixture(scope="module")
def short_runs(pool, bases, dataset, tmp_path_factory):
    """precision -> config of a run of two steps, which has been done."""
    @functools.cache
    def done(precision: str) -> dict:
        settings = config(bases("llama", "gqa")[1], dataset, tmp_path_factory.mktemp(precision), run__steps=2,
                          model__precision=precision)
        settings["parallel"] = {"distributed_optimizer": False}
        run(pool, 1, settings)
        return settings

    return done


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
