"""What a model is asked: HumanEvalPack's instructions, worded by the templates that word the training data."""

from __future__ import annotations

from megatron_ft.data import templates
from megatron_ft.errors import ConfigError
from megatron_ft.evaluation.benchmark import SCENARIOS, Problem

STYLES = ("octocoder", "instruct", "continue")


def base(problem: Problem, scenario: str) -> str:
    """The beginning of the answer, which the model goes on with."""
    if scenario not in SCENARIOS:
        raise ConfigError(f"--scenario: '{scenario}' is unknown; use one of {', '.join(SCENARIOS)}")
    return problem.prompt if scenario == "synthesize" else problem.declaration


def inputs(problem: Problem, scenario: str, style: str) -> str:
    """The instruction, with the code and the tests that it is about.

    `octocoder` has the instruction first, `instruct` the code first; as in the public runs of HumanEvalPack.
    """
    if scenario == "synthesize":
        return problem.instruction
    if style == "continue":
        raise ConfigError("--prompt-style: continue has no place for the code to repair; use octocoder or instruct "
                          "with --scenario fixtests")
    instruction = f"Fix bugs in {problem.entry_point}."
    code = f"{problem.declaration}{problem.buggy_solution}\n{problem.test}"
    return f"{code}\n{instruction}" if style == "instruct" else f"{instruction}\n{code}"


def prompt(problem: Problem, scenario: str, style: str) -> str:
    """The whole prompt of a problem, without whitespace at its ends."""
    return templates.get(style).prompt(inputs(problem, scenario, style), answer_start=base(problem, scenario))
