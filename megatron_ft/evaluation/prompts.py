"""How a task is worded: by the templates that word the training data."""

from __future__ import annotations

from megatron_ft.data import templates
from megatron_ft.data.templates import Segment, Template
from megatron_ft.errors import ConfigError
from megatron_ft.evaluation.scenarios import DESCRIBED, Task, instruction

STYLES = templates.NAMES
WITHOUT_CONTEXT = ("continue", "plain")


def check(style: str, scenario: str) -> None:
    """Raise ConfigError for a style that cannot word the scenario."""
    if scenario != "synthesize" and style in WITHOUT_CONTEXT:
        raise ConfigError(f"--prompt-style: {style} has no place for the code that --scenario {scenario} is about; use "
                          "octocoder or instruct")


def prompt(asked: Task, template: Template) -> Segment:
    """The whole prompt of a task; its end has no whitespace that the model would have to write."""
    wanted, context = instruction(asked)
    return template.prompt(wanted, context=context, answer_start="" if asked.scenario == DESCRIBED else asked.base)
