"""Prompts, byte for byte: HumanEvalPack's public formulas written out with the fields in place."""

from __future__ import annotations

import pytest

from megatron_ft.data import templates
from megatron_ft.data.example import Example
from megatron_ft.errors import ConfigError
from megatron_ft.evaluation import benchmark, prompts, scenarios
from tests.evaluation.problems import TEST, make_problem

INSTRUCTION = "Write a Python function `double(x)` that gives twice x."
PROMPT = 'def double(x):\n    """Twice x."""\n'
FIX = "def double(x):\n    return x * 3\n\n" + TEST

EXPECTED = {
    ("synthesize", "octocoder"): f'Question: {INSTRUCTION}\n\nAnswer:\ndef double(x):\n    """Twice x."""',
    ("synthesize", "instruct"): f'{INSTRUCTION}\n\ndef double(x):\n    """Twice x."""',
    ("synthesize", "continue"): 'def double(x):\n    """Twice x."""',
    ("synthesize", "starcodercommit"): f"<commit_before><commit_msg>{INSTRUCTION}<commit_after>{PROMPT}".strip(),
    ("synthesize", "alpaca"): "Below is an instruction that describes a task. Write a response that appropriately completes "
                              f"the request.\n\n### Instruction:\n{INSTRUCTION}\n\n### Response:\n{PROMPT}".strip(),
    ("synthesize", "chatml"): f"<|im_start|>user\n{INSTRUCTION}<|im_end|>\n<|im_start|>assistant\n{PROMPT}".strip(),
    ("fixtests", "octocoder"): f"Question: Fix bugs in double.\n{FIX}\n\nAnswer:\ndef double(x):",
    ("fixtests", "instruct"): f"{FIX}\nFix bugs in double.\n\ndef double(x):",
    ("fixtests", "commit"): f"<commit_before>{FIX}<commit_msg>Fix bugs in double.<commit_after>def double(x):",
    ("fixtests", "llama2"): f"[INST] Fix bugs in double.\n{FIX} [/INST] def double(x):",
}


def prompt(problem: benchmark.Problem, scenario: str, style: str, language: str = "python", **changed: str) -> str:
    return prompts.prompt(scenarios.task(problem, scenario, language, **changed), templates.get(style)).text


@pytest.mark.parametrize(("scenario", "style"), EXPECTED)
def test_a_prompt_is_exactly_the_public_one(scenario: str, style: str) -> None:
    assert prompt(make_problem(), scenario, style) == EXPECTED[scenario, style]


def test_every_prompt_of_humanevalpack_is_exactly_the_public_one(humanevalpack) -> None:
    for problem in benchmark.read(humanevalpack).problems:
        assert prompt(problem, "synthesize", "octocoder") == (
            f"Question: {problem.instruction}\n\nAnswer:\n{problem.prompt}".strip())
        code = problem.declaration + problem.buggy_solution + "\n" + problem.test
        assert prompt(problem, "fixtests", "octocoder") == (
            f"Question: Fix bugs in {problem.entry_point}.\n{code}\n\nAnswer:\n{problem.declaration}".strip())


def test_an_evaluation_prompt_is_how_the_training_text_of_its_solution_begins() -> None:
    problem = make_problem()
    example = Example.pair(problem.instruction, "\n" + problem.prompt + problem.canonical_solution)
    trained = "".join(segment.text for segment in templates.get("octocoder").segments(example))
    assert trained.startswith(prompt(problem, "synthesize", "octocoder"))


def test_continue_refuses_to_repair() -> None:
    with pytest.raises(ConfigError, match="--prompt-style: continue has no place for the code that --scenario fixtests"):
        prompts.check("continue", "fixtests")
    prompts.check("continue", "synthesize"), prompts.check("commit", "fixtests")


def test_an_unknown_scenario_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="--scenario: 'guess' is unknown; use one of synthesize, fixtests"):
        scenarios.task(make_problem(), "guess", "python")
