"""The example configs are complete and plan on the machines that they name."""

from __future__ import annotations

from pathlib import Path

import pytest

from megatron_ft import config, families
from megatron_ft.training.plan import make

CONFIGS = Path(__file__).parents[1] / "examples" / "configs"
PLANS = {"starcoderbase.toml": ("starcoderbase", 64, (4, 4, 4, 32)), "quickstart.toml": (None, 4, (2, 2, 1, 2))}


def test_every_config_is_listed_here():
    assert {path.name for path in CONFIGS.glob("*.toml")} == set(PLANS)


@pytest.mark.parametrize("name", PLANS)
def test_it_plans(name):
    preset, processes, expected = PLANS[name]
    read = config.read(CONFIGS / name, ["run.dir=r", "load.from=b", "data.train=p"])
    plan = make(read, families.preset(preset or "starcoderbase-1b"), processes=processes, rows_per_epoch=1000)
    assert (plan.tp, plan.pp, plan.dp, plan.micro_batches) == expected
