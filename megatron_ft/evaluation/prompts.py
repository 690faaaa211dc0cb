"""What a model is asked: HumanEvalPack's instructions, worded by the templates that word the training data."""

from __future__ import annotations

from megatron_ft.data import templates
from megatron_ft.data.templates import Segment, Template
from megatron_ft.errors import ConfigError
from megatron_ft.evaluation.benchmark import SCENARIOS, Problem

STYLES = templates.NAMES
WITHOUT_CONTEXT = ("continue", "plain")


def base(problem: Problem, scenario: str) -> str:
    """The beginning of the answer, which the model goes on with."""
    if scenario not in SCENARIOS:
        raise ConfigError(f"--scenario: '{scenario}' is unknown; use one of {', '.join(SCENARIOS)}")
    return problem.prompt if scenario == "synthesize" else problem.declaration


def instruction(problem: Problem, scenario: str) -> tuple[str, str]:
    """The instruction, and the code with its tests that it is about; as in the public runs of HumanEvalPack."""
    if scenario == "synthesize":
        return problem.instruction, ""
    return (f"Fix bugs in {problem.entry_point}.",
            f"{problem.declaration}{problem.buggy_solution}\n{problem.test}")


def check(style: str, scenario: str) -> None:
    """Raise ConfigError for a style that cannot word the scenario."""
    if scenario != "synthesize" and style in WITHOUT_CONTEXT:
        raise ConfigError(f"--prompt-style: {style} has no place for the code to repair; use octocoder or instruct "
                          f"with --scenario {scenario}")


def prompt(problem: Problem, scenario: str, template: Template) -> Segment:
    """The whole prompt of a problem; its end has no whitespace that the model would have to write."""
    asked, context = instruction(problem, scenario)
    return template.prompt(asked, context=context, answer_start=base(problem, scenario))
