"""Settings made to fit the benchmark that a file turned out to be."""

from __future__ import annotations

from dataclasses import replace

from megatron_ft.errors import ConfigError
from megatron_ft.evaluation.problem import PACK, Kind
from megatron_ft.evaluation.scenarios import ONLY, SCENARIOS
from megatron_ft.evaluation.settings import Settings

STYLE, PUBLIC_STYLE = "octocoder", "continue"


def fitted(settings: Settings, kind: Kind) -> Settings:
    """The settings with the scenario and the wording that were left out; ConfigError for what the benchmark does not have."""
    if kind.name == PACK:
        if not settings.scenario:
            raise ConfigError(f"--scenario: {kind.title} has several; name one or more of {', '.join(SCENARIOS)}, or all")
        return replace(settings, prompt_style=settings.prompt_style or STYLE)
    if settings.scenario not in ("", ONLY, "all"):
        raise ConfigError(f"--scenario: '{settings.scenario}' is not in {kind.title} ({settings.benchmark}), which has {ONLY} "
                          "only; leave the option out")
    if settings.solutions == "buggy":
        raise ConfigError(f"--solutions: {kind.title} ({settings.benchmark}) has no buggy solutions; use canonical")
    usual = PUBLIC_STYLE if settings.mode == "compat" else STYLE
    return replace(settings, scenario=ONLY, prompt_style=settings.prompt_style or usual)
