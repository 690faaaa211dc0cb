"""The config: strict, frozen, the same after a round trip, with errors that name field and value."""

from __future__ import annotations

import re
from pathlib import Path

import pydantic
import pytest

from megatron_ft import config
from megatron_ft.errors import ConfigError

MINIMAL = {"run": {"dir": "r", "steps": 3}, "load": {"from": "b"}, "data": {"train": ["p"]}}


def with_field(name: str, value: object) -> dict:
    section, field = name.split(".")
    return {**MINIMAL, section: {**MINIMAL.get(section, {}), field: value}}


def test_every_field_has_a_help_line():
    assert all(len(text) > 15 for _, text in config.fields().values())


def test_round_trip_through_toml(tmp_path):
    first = config.parse(with_field("optim.warmup_steps", 5))
    (tmp_path / "c.toml").write_text(first.to_toml())
    assert config.read(tmp_path / "c.toml") == first


def test_overrides_win_and_keep_types(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text('[run]\ndir = "a"\nsteps = 3\n[load]\nfrom = "b"\n[data]\ntrain = ["p"]\n')
    read = config.read(path, ["run.dir=007", "optim.lr=2e-5", "data.valid=0.9:1 p", "parallel.distributed_optimizer=false",
                              "load.from=/x=y"])
    assert (read.run.dir, read.optim.lr, read.data.valid, read.load.base) == ("007", 2e-5, ("0.9:1 p",), "/x=y")
    assert read.parallel.distributed_optimizer is False and read.run.steps == 3


def test_nothing_assigns_to_a_config():
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        config.parse(MINIMAL).run.steps = 4


@pytest.mark.parametrize("tree, words", [
    (with_field("run.stps", 3), "run.stps: no such field"),
    (with_field("optim.lr", "fast"), "optim.lr: .*number.*'fast'"),
    (with_field("parallel.tp", 0), "parallel.tp: .*greater than or equal to 1, got 0"),
    (with_field("runtime.device", "tpu"), "runtime.device: .*'auto', 'cpu' or 'cuda'.*'tpu'"),
    (with_field("optim.lr", float("nan")), "optim.lr: .*finite"),
    (with_field("optim.min_lr", 1.0), "optim.min_lr: 1.0 is above optim.lr=5e-05"),
    (with_field("run.epochs", 2), "run.steps=3 and run.epochs=2.0 contradict"),
    (with_field("run.steps", 0), "say how long to train"),
    (with_field("parallel.sequence_parallel", True), "needs parallel.tp > 1"),
    ({**MINIMAL, "load": {}}, "load.from: no base model named"),
    ({**MINIMAL, "data": {}}, "data.train: no dataset named"),
    (with_field("data.weights_files", ["a.txt", "b.txt"]), "data.weights_files: a.txt, b.txt and data.train are both set"),
    ({**MINIMAL, "data": {"valid": ["p"], "weights_files": ["a.txt"]}}, "a.txt and data.valid are both set"),
    (with_field("data.end_of_text", -1), "data.end_of_text: .*greater than or equal to 0, got -1"),
    ({**MINIMAL, "run": {"steps": 1}}, "run.dir: no folder named"),
    ({**MINIMAL, "trian": {}}, "trian: no such field"),
])
def test_bad_values_are_named(tree, words):
    with pytest.raises(ConfigError) as caught:
        config.parse(tree, where="c.toml")
    assert re.search(words, str(caught.value)) and str(caught.value).startswith("c.toml: ")


@pytest.mark.parametrize("override, words", [
    ("optim.lrr=1", "not of the form section.field=value with a known field; known: .*optim.lr"),
    ("lr=1", "known: optim.lr$"), ("optim.lr", "not of the form"), ("steps 5", "not of the form")])
def test_bad_overrides_are_named(tmp_path, override, words):
    (tmp_path / "c.toml").write_text("")
    with pytest.raises(ConfigError, match=words):
        config.read(tmp_path / "c.toml", [override])


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(ConfigError, match="no such config file"):
        config.read(tmp_path / "none.toml")
    (tmp_path / "c.toml").write_text("[run\n")
    with pytest.raises(ConfigError, match="c.toml: not valid TOML: .*line 1"):
        config.read(tmp_path / "c.toml")


def test_the_docs_table_is_the_generated_one():
    page = (Path(__file__).parents[1] / "docs" / "config.md").read_text(encoding="utf-8")
    assert config.markdown() in page, "run: python -m megatron_ft.config > docs/config.md"
