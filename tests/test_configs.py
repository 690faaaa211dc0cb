"""The example configs are complete, fit the machines that they name, and are good choices among what would fit there."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from megatron_ft import config, families, plan
from megatron_ft.training import layout_search
from megatron_ft.training.plan import make

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "examples" / "configs"
MODELS = ["starcoderbase-1b", "starcoderbase-3b", "starcoderbase-7b", "starcoderbase-15b", "llama-7b", "llama-13b",
          "llama2-70b", "llama3-8b", "deepseek-coder-6.7b"]
FOR_MODELS = sorted(path.stem for path in CONFIGS.glob("*.toml") if path.stem != "quickstart")
_spec = importlib.util.spec_from_file_location("plan_table", ROOT / "examples" / "plan_table.py")
plan_table = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(plan_table)


def planned(name):
    path = CONFIGS / f"{name}.toml"
    return [plan_table.planned(path, command) for command in plan_table.commands(path)]


def test_every_model_has_a_config_for_both_a100():
    assert {name.removesuffix("-a100-40g") for name in FOR_MODELS} == set(MODELS)
    for model in MODELS:
        found = {one.gpu.name for name in (model, f"{model}-a100-40g") if name in FOR_MODELS for one in planned(name)}
        assert found == {"a100-80g", "a100-40g"}, model


def test_the_quickstart_plans():
    read = config.read(CONFIGS / "quickstart.toml", ["run.dir=r", "load.from=b", "data.train=p"])
    quickstart = make(read, families.preset("starcoderbase-1b"), processes=4, rows_per_epoch=1000)
    assert (quickstart.tp, quickstart.pp, quickstart.dp, quickstart.micro_batches) == (2, 2, 1, 2)


@pytest.mark.parametrize("name", FOR_MODELS)
def test_it_fits_the_gpus_in_its_first_lines_with_room_to_spare(name):
    text = (CONFIGS / f"{name}.toml").read_text(encoding="utf-8")
    for one in planned(name):
        assert one.fits and not one.tight, (name, one.fullest.total / one.gpu.memory_bytes)
        assert f"on {one.split.processes} A100" in text.splitlines()[0]
        assert f"examples/configs/{name}.toml " in text
        assert one.config.run.epochs > 0 and one.config.data.row_tokens <= one.architecture.positions
        assert families.preset(re.search(r"--model (\S+)", text)[1]) == one.architecture


@pytest.mark.parametrize("name", FOR_MODELS)
def test_it_is_within_a_tenth_of_the_fastest_layout_with_room_to_spare(name):
    for one in planned(name):
        found = layout_search.search(one.config, one.architecture, one.gpu, processes=one.split.processes)
        fastest = next(other for other in found if not other.tight)
        assert one.time.total_s < 1.1 * fastest.time.total_s
        assert any(other.time.total_s == one.time.total_s for other in found), "the search finds the config's own layout"


@pytest.mark.parametrize("name", [name for name in FOR_MODELS if name.endswith("-a100-40g")])
def test_the_two_of_a_model_differ_in_the_layout_alone(name):
    stems = (name, name.removesuffix("-a100-40g"))
    small, large = (plan.read(str(CONFIGS / f"{stem}.toml"), []).model_dump() for stem in stems)
    for of_layout in (small, large):
        del of_layout["parallel"], of_layout["memory"], of_layout["data"]["rows_per_micro_batch"]
    assert small == large


def test_the_table_in_the_documentation_is_up_to_date():
    page = plan_table.PAGE.read_text(encoding="utf-8")
    shown = page.split(plan_table.BEGIN)[1].split(plan_table.END)[0]
    assert shown == plan_table.table(), "run examples/plan_table.py"
