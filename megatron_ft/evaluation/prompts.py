"""How a task is worded: by the templates that word the training data, or as a public harness words it."""

from __future__ import annotations

from megatron_ft.data import templates
from megatron_ft.data.templates import Segment, Template
from megatron_ft.errors import ConfigError
from megatron_ft.evaluation import public_python
from megatron_ft.evaluation.scenarios import DESCRIBED, Task, instruction

STYLES = templates.NAMES
WITHOUT_CONTEXT = ("continue", "plain")


def check(style: str, scenario: str) -> None:
    """Raise ConfigError for a style that cannot word the scenario."""
    if scenario != "synthesize" and style in WITHOUT_CONTEXT:
        raise ConfigError(f"--prompt-style: {style} has no place for the code that --scenario {scenario} is about; use "
                          "octocoder or instruct")


def prompt(asked: Task, template: Template) -> Segment:
    """The whole prompt of a task; its end has no whitespace that the model would have to write.

    A public harness' own prompts for HumanEval, MBPP and EvalPlus are what it feeds, whitespace included.
    """
    continues = template.name in WITHOUT_CONTEXT
    if asked.public and continues:
        return Segment((public_python.prompt(asked.problem),), supervised=False)
    if asked.public and template.name == public_python.CHAT and asked.problem.inputs:
        wanted, begun = public_python.chat(asked.problem)
        return template.prompt(wanted, answer_start=begun)
    wanted, context = instruction(asked)
    begun = "" if asked.scenario == DESCRIBED or (asked.problem.written_anew and not continues) else asked.base
    return template.prompt(wanted, context=context, answer_start=begun)


def own_answer(asked: Task, solutions: str) -> str:
    """The benchmark's canonical or buggy solution as a model would have written it: what follows the prompt."""
    solution = getattr(asked.problem, f"{solutions}_solution")
    if asked.public and public_python.prompt(asked.problem).endswith("\n"):
        return solution
    return (asked.base + solution)[len(asked.base.rstrip()):]
