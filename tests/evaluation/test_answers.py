"""Right answers, as chat models write them, become programs that compile and pass, whatever stands around the code."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from megatron_ft.evaluation import languages
from megatron_ft.evaluation.languages.base import Language
from tests.evaluation.answers import ANSWERS, read

CUT = ["print(longest_run", "test_longest_run", "console.log", "describe(", "module.exports", "main(", "assert", "```", "~~~",
       "<think", "<|im_end|>", "SolutionTest", "RunFinderTest", "package com"]


@pytest.mark.parametrize(("language", "name"), ANSWERS)
def test_a_right_answer_passes(judges: Callable[[str], Language], language: str, name: str) -> None:
    judge, (problem, answers) = judges(language), read(language)
    program = judge.assemble(problem, problem.prompt, answers[name])
    verdict = judge.judge(problem, problem.prompt, program)
    assert verdict.passed, f"{verdict}\n{program}"


@pytest.mark.parametrize("language", languages.LANGUAGES)
def test_the_problem_is_one(judges: Callable[[str], Language], language: str) -> None:
    """Its solution passes and its bug does not, also from the bare declaration."""
    judge, (problem, _) = judges(language), read(language)
    for base in (problem.prompt, problem.declaration):
        right = judge.assemble(problem, base, "\n" + problem.canonical_solution)
        wrong = judge.assemble(problem, base, "\n" + problem.buggy_solution)
        assert judge.judge(problem, base, right).passed
        assert judge.judge(problem, base, wrong).status == "failed"


# What surrounds an answer changes nothing in the program.
AROUND = {
    "carriage returns": lambda text: text.replace("\n", "\r\n"),
    "a byte order mark": lambda text: "\ufeff" + text,
    "thoughts": lambda text: f"<think>\nIt {{should}} be\n```\ndef longest_run(text):\n    return 1\n```\n</think>\n{text}",
    "the end of thoughts": lambda text: f"So it isn't hard {{.\n</think>\n{text}",
    "the end of a turn": lambda text: f"{text.rstrip()}<|im_end|>",
    "another turn": lambda text: f"{text.rstrip()}<|im_end|>\n<|im_start|>user\nfunc def class {{",
    "the end of a text": lambda text: f"{text.rstrip()}</s>",
    "white space": lambda text: f"\n{text}\n \n\n",
}


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("language", languages.LANGUAGES)
def test_what_stands_around_an_answer_changes_nothing(language: str, around: str) -> None:
    kind, (problem, answers) = languages.get(language), read(language)
    for name, text in answers.items():
        expected = kind.assemble(problem, problem.prompt, text)
        changed = kind.assemble(problem, problem.prompt, AROUND[around](text))
        if "token limit" in name and around in ("the end of a turn", "another turn", "the end of a text"):
            continue  # it ends within a string, which then has another end
        assert "".join(changed.split()) == "".join(expected.split()), name


@pytest.mark.parametrize(("language", "name"), ANSWERS)
def test_nothing_but_the_program_is_kept(language: str, name: str) -> None:
    problem, answers = read(language)
    program = languages.get(language).assemble(problem, problem.declaration, answers[name])
    known = problem.declaration + "fn main(){}"
    allowed = "assert" if "text begins at the margin" in name else ""  # a body of its own with an assert
    assert not [text for text in CUT if text in program and text not in known and text != allowed]


@pytest.mark.parametrize(("language", "name"), ANSWERS)
def test_generation_never_stops_before_the_program_is_whole(language: str, name: str) -> None:
    """Wherever it may stop, the program is the one of the whole answer."""
    kind, (problem, answers) = languages.get(language), read(language)
    text = answers[name]
    whole = kind.assemble(problem, problem.prompt, text)
    stops = [end for end in range(len(text) + 1) if kind.is_complete(text[:end], problem.entry_point)]
    for end in stops[:3] + stops[-1:]:
        assert kind.assemble(problem, problem.prompt, text[:end]) == whole, text[:end][-60:]


@pytest.mark.parametrize("language", languages.LANGUAGES)
def test_generation_stops_behind_a_whole_answer_and_before_its_explanation(language: str) -> None:
    kind, (problem, answers) = languages.get(language), read(language)
    text = answers["the body, a fence, and an explanation"]
    stops = [end for end in range(len(text)) if kind.is_complete(text[:end], problem.entry_point)]
    assert stops
    assert stops[0] <= text.index("```") + 3
