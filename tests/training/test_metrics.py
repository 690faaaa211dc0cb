"""Figures are those of an independent count, each validation set has its own loss, and every step is written once."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from megatron_ft.config import parse
from megatron_ft.data.indexed import open_dataset
from megatron_ft.errors import ConfigError, TrainingError
from megatron_ft.families.architecture import Architecture
from megatron_ft.runtime import checkpoint_layout
from megatron_ft.runtime.device import Process
from megatron_ft.training import flops, report_page, run_folder, run_record, setup, trackers
from megatron_ft.training.step import StepResult, Totals
from megatron_ft.training.throughput import Interval
from tests.training.runs import STEPS, config, curve, run

GIVEN = {"mfu", "loss_scale", "reserved_bytes"}
"""Fields that a line has only with log.peak_tflops or on CUDA, in fp16, on CUDA."""


@pytest.fixture(scope="module")
def watched(pool, bases, dataset, tmp_path_factory):
    """(run.dir, lines, settings) of a run at tp2 x dp2 with two validation sets."""
    folder = tmp_path_factory.mktemp("watched")
    settings = config(bases("llama", "gqa")[1], dataset, folder, log__peak_tflops=0.25, log__tensorboard=True,
                      data__valid=[f"easy= 0.9:0.93 {dataset}", f"0.93:1 {dataset}"])
    return folder, run(pool, 4, {**settings, "parallel": {"tp": 2}}), settings


def architecture_of(settings: dict) -> Architecture:
    return checkpoint_layout.Manifest.read(checkpoint_layout.find(settings["load"]["from"])).architecture


def test_figures_are_those_of_a_count_of_the_documents(watched, dataset):
    """Which documents a step had is read from the loader; their lengths from the dataset."""
    _, lines, settings = watched
    lengths, supervised = open_dataset(dataset).lengths - 1, open_dataset(dataset).supervised
    loader = setup.prepare(parse(settings), Process(0, 1, 0, 1, "127.0.0.1", 0)).loader
    for line in [line for line in lines if "loss" in line]:
        documents = [number for batch in next(loader) for row in batch.rows for _, number in row]
        tokens, pairs = sum(lengths[documents]), sum(length * (length + 1) // 2 for length in lengths[documents].tolist())
        step_flops = flops.step(architecture_of(settings), tokens=int(tokens), pairs=pairs)
        seconds = line["seconds_per_step"]
        assert line["tokens_per_s"] * seconds == pytest.approx(tokens)
        assert line["tokens_per_s_per_gpu"] == pytest.approx(line["tokens_per_s"] / 4)
        assert line["tflops_per_gpu"] * 4e12 * seconds == pytest.approx(step_flops)
        assert line["mfu"] == pytest.approx(line["tflops_per_gpu"] / 0.25)
        assert line["padding_share"] == pytest.approx(1 - tokens / (8 * 96))
        assert line["supervised_share"] == pytest.approx(supervised[documents].sum() / tokens)
        assert 0 < line["data_seconds_per_step"] < seconds


def test_a_lines_figures_are_of_all_its_steps(bases, dataset, tmp_path):
    settings = config(bases("llama", "gqa")[1], dataset, tmp_path, model__precision="fp16")
    plan = dataclasses.replace(setup.prepare(parse(settings), Process(0, 1, 0, 1, "127.0.0.1", 0)).plan, processes=2)
    interval = Interval()
    for loss_sum, weight, tokens, seconds in ((300.0, 100, 600, 0.5), (float("nan"), 70, 400, 1.0), (50.0, 40, 200, 0.5)):
        totals = Totals(loss_sum, weight, weight, tokens, pairs=tokens * 10)
        interval.add(StepResult(totals, grad_norm=1.5, updated=True, loss_scale=8.0), seconds=seconds, data_seconds=0.1)
    found = interval.figures(plan, parse(settings), architecture_of(settings), peak=None)
    assert found["loss"] == 350 / 140, "a step that is no number does not hide the others"
    assert (found["tokens_per_s"], found["tokens_per_s_per_gpu"], found["loss_scale"]) == (600, 300, 8)
    assert found["supervised_share"] == 210 / 1200 and found["padding_share"] == 1 - 1200 / (3 * 8 * 96)
    assert found["seconds_per_step"] == pytest.approx(2 / 3) and found["data_seconds_per_step"] == pytest.approx(0.1)
    done = flops.step(architecture_of(settings), tokens=1200, pairs=12000)
    assert found["tflops_per_gpu"] == pytest.approx(done / 2.0 / 2 / 1e12)
    assert "mfu" not in found


def test_a_run_that_ends_between_two_lines_writes_what_it_has(pool, bases, dataset, tmp_path):
    settings = config(bases("llama", "gqa")[1], dataset, tmp_path, log__every_steps=10)
    pool.run(2, "tests.training.watch_programs:ended", config=settings)
    [line] = run_folder.read(tmp_path / run_folder.METRICS)
    assert (line["step"], line["loss"], line["skipped_steps"], line["tokens_per_s"]) == (3, 12 / 6, 1, 4)
    assert [(event["event"], event.get("exit_code")) for event in run_folder.read(tmp_path / run_folder.EVENTS)] == [
        ("start", None), ("end", 75)]


def test_fields_are_the_documented_ones(watched):
    _, lines, _ = watched
    training, validation = ({name for line in lines if key in line for name in line} for key in ("loss", "valid_loss"))
    assert training | validation == set(run_folder.METRICS_FIELDS) - (GIVEN - {"mfu"})
    assert training & validation == {"step", "time"}
    page = (Path(__file__).parents[2] / "docs" / "watch.md").read_text(encoding="utf-8")
    assert run_folder.metrics_markdown() in page, "paste what run_folder.metrics_markdown() gives"


def test_memory_is_the_largest_of_all_ranks_and_never_falls(pool, watched):
    memory = curve(watched[1], "memory_bytes")
    assert memory == sorted(memory) and memory[0] > 50e6
    assert pool.run(4, "tests.training.watch_programs:largest", memory=[(5, 9), (7, 3), (2, 4), (6, 1)]) == [(7, 9)] * 4


def test_the_report_of_a_real_run(watched):
    folder, _, settings = watched
    record = run_record.read(folder)
    assert [(each.step, each.missing, each.is_latest) for each in record.checkpoints] == [(3, [], False), (6, [], True)]
    assert record.settings["run.steps"] == str(STEPS) and set(record.settings) == set(run_record.defaults())
    text = report_page.page([record])
    for words in ("done: 6 steps (exit code 0)", "4 x CPU", "4 processes = 2 tp x 1 pp x 2 dp", "loss by tag", ">MFU<"):
        assert words in text


def test_each_tag_has_the_loss_that_its_documents_have_alone(pool, watched, bases, dataset, tmp_path):
    """Alone, at another layout and in other rows."""
    _, lines, settings = watched
    together = [line for line in lines if "valid" in line]
    assert [set(line["valid"]) for line in together] == [{"easy", "documents"}] * 3
    for line in together:
        parts = line["valid"].values()
        assert line["valid_supervised_tokens"] == sum(part["supervised_tokens"] for part in parts)
        weighted = sum(part["loss"] * part["supervised_tokens"] for part in parts)
        assert line["valid_loss"] == pytest.approx(weighted / line["valid_supervised_tokens"])
    assert together[0]["valid"]["easy"]["loss"] != pytest.approx(together[0]["valid"]["documents"]["loss"], rel=1e-3)
    alone = config(bases("llama", "gqa")[1], dataset, tmp_path, data__valid=[f"0.93:1 {dataset}"], data__rows_per_micro_batch=2)
    for expected, line in zip(together, [line for line in run(pool, 1, alone) if "valid" in line], strict=True):
        assert line["valid"] == {"documents": {"loss": pytest.approx(expected["valid"]["documents"]["loss"], rel=1e-5),
                                               "supervised_tokens": expected["valid"]["documents"]["supervised_tokens"]}}


def test_every_sink_has_each_step_once_after_a_resume(pool, bases, dataset, tmp_path):
    """The run dies two steps after its checkpoint; what was written of these steps is written again."""
    settings = config(bases("llama", "gqa")[1], dataset, tmp_path, log__tensorboard=True, log__wandb_project="tests")
    run(pool, 2, settings, stop_after=5)
    first = (tmp_path / "wandb" / "id").read_text()
    lines = run(pool, 2, settings)
    expected = {line["step"]: line["loss"] for line in lines if "loss" in line}
    validated = {line["step"]: line["valid"]["documents"]["loss"] for line in lines if "valid" in line}
    assert list(expected) == [*range(1, STEPS + 1)] and list(validated) == [0, 3, 6]
    board = scalars(tmp_path / "tensorboard")
    assert board["train/loss"] == pytest.approx(expected)
    assert board["validation_by_tag/documents"] == board["validation/loss"] == pytest.approx(validated)
    [(run_id, history)] = wandb_histories(tmp_path / "wandb")
    assert run_id == first == (tmp_path / "wandb" / "id").read_text()
    assert {step: row["train/loss"] for step, row in history if "train/loss" in row} == pytest.approx(expected)
    assert {step: row["validation_by_tag/documents"] for step, row in history if "validation/loss" in row} == validated
    assert [step for step, _ in history] == [*range(STEPS + 1)]
    kinds = [(line["event"], line["step"]) for line in run_folder.read(tmp_path / run_folder.EVENTS)]
    assert kinds == [("start", 0), ("checkpoint", 3), ("failed", 5), ("resume", 3), ("checkpoint", 6), ("end", 6)]


def test_what_wandb_has_uploaded_is_not_given_again(pool, bases, dataset, tmp_path):
    """As `wandb sync` marks it; here between the death and the resume, so that steps 4 and 5 are uploaded already."""
    settings = config(bases("llama", "gqa")[1], dataset, tmp_path, log__wandb_project="tests")
    run(pool, 1, settings, stop_after=5)
    [earlier] = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    earlier.with_suffix(".wandb.synced").touch()
    run(pool, 1, settings)
    assert [[step for step, _ in history] for _, history in wandb_histories(tmp_path / "wandb")][1:] == [[6]]


def test_wandb_that_is_not_installed_is_an_error_before_the_run(bases, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    settings = parse(config(bases("llama", "gqa")[1], dataset, tmp_path, log__wandb_project="mine"))
    with pytest.raises(ConfigError, match="log.wandb_project: 'mine' asks for .* not installed; pip install wandb"):
        setup.prepare(settings, Process(0, 1, 0, 1, "127.0.0.1", 0))


def test_wandb_that_does_not_start_says_what_to_do(bases, dataset, tmp_path, monkeypatch):
    """Online without a key, as on a machine where nobody has logged in."""
    import wandb

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    settings = config(bases("llama", "gqa")[1], dataset, tmp_path, log__wandb_project="mine", log__wandb_mode="online")
    with pytest.raises(TrainingError, match="log.wandb_project: Weights & Biases did not start .* use log.wandb_mode=offline"):
        trackers.WandB(parse(settings), before=[], kept=[])
    wandb.teardown()


def test_files_that_a_kill_cut_off_are_read_and_go_on(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert run_folder.read(path) == run_folder.keep(path, up_to_step=3) == []
    for step in (1, 2, 3):
        run_folder.append(path, {"step": step, "loss": float("nan"), "valid": {"a": {"loss": float("inf")}}})
    assert "NaN" not in path.read_text() and "Infinity" not in path.read_text()
    assert run_folder.read(path)[0]["valid"] == {"a": {"loss": None}}
    path.write_text(path.read_text()[:-7])
    assert [line["step"] for line in run_folder.read(path)] == [1, 2]
    assert [line["step"] for line in run_folder.keep(path, up_to_step=1)] == [1]
    run_folder.append(path, {"step": 2})
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]


def test_a_validation_that_is_done_again_replaces_the_one_before_it(tmp_path):
    """As after a run that was told to end before the validation of its last step, and was then killed after it."""
    path = tmp_path / "metrics.jsonl"
    rows = [{"step": 2, "loss": 5.0}, {"step": 4, "loss": 4.0}, {"step": 4, "valid_loss": 4.5}, {"step": 5, "loss": 3.0}]
    first = trackers.TensorBoard(tmp_path, first_step=0, kept=[])
    for row in rows:
        run_folder.append(path, row)
        first.write(row)
    first.close()
    kept = run_folder.keep(path, up_to_step=4, validates=True)
    assert [(line["step"], "valid_loss" in line) for line in kept] == [(2, False), (4, False)]
    second = trackers.TensorBoard(tmp_path, first_step=4, kept=kept)
    second.write({"step": 4, "valid_loss": 4.25})
    second.close()
    assert scalars(tmp_path / "tensorboard") == {"train/loss": {2: 5.0, 4: 4.0}, "validation/loss": {4: 4.25}}
    assert len(run_folder.keep(path, up_to_step=4)) == 2


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """Name -> step -> value, as TensorBoard shows it; a step that is there twice fails."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    found = {name: [(event.step, event.value) for event in events.Scalars(name)] for name in events.Tags()["scalars"]}
    assert all(len(dict(values)) == len(values) for values in found.values())
    return {name: dict(values) for name, values in found.items()}


def wandb_histories(folder: Path) -> list[tuple[str, list[tuple[int, dict[str, float]]]]]:
    """Of each offline folder the run's id and its rows (step, values): a log in LevelDB's format after 7 bytes of header."""
    from wandb.proto.wandb_internal_pb2 import Record

    histories = []
    for path in sorted(folder.glob("offline-run-*/*.wandb")):
        data, at, whole, records = path.read_bytes(), 7, b"", []
        while at + 7 <= len(data):
            room = 32768 - at % 32768
            if room < 7:
                at += room
                continue
            size, kind = int.from_bytes(data[at + 4:at + 6], "little"), data[at + 6]
            whole += data[at + 7:at + 7 + size]
            at += 7 + size
            if kind in (1, 4):  # whole, or a last part
                records.append(Record.FromString(whole))
                whole = b""
        rows = [(record.history.step.num, {item.key or "/".join(item.nested_key): json.loads(item.value_json)
                                           for item in record.history.item})
                for record in records if record.WhichOneof("record_type") == "history"]
        histories.append((path.stem.removeprefix("run-"), rows))
    return histories
