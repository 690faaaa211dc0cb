"""The examples' problems are sound, and what is trained on is what is asked."""

from __future__ import annotations

import doctest
import json
import textwrap

import pytest

from examples import make_data
from megatron_ft.data import templates
from megatron_ft.data.example import Example
from megatron_ft.evaluation import benchmark, prompts, scenarios
from megatron_ft.evaluation.run import evaluate
from megatron_ft.evaluation.settings import Settings
from tests.examples.conftest import DATA

FILES = ("problems.jsonl", "problems_heldout.jsonl")
HUMANEVALPACK = {"task_id", "prompt", "canonical_solution", "test", "text", "declaration", "example_test",
                 "buggy_solution", "bug_type", "failure_symptoms", "entry_point", "signature", "docstring",
                 "instruction"}
PROBLEMS = [problem for name in FILES for problem in make_data.read_rows(DATA / name)]
MEMORISED = benchmark.read(DATA / FILES[0]).problems


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(("solutions", "score"), [("canonical", 1.0), ("buggy", 0.0)])
def test_every_canonical_solution_passes_and_every_buggy_one_fails(name, solutions, score, tmp_path):
    (found,) = evaluate(Settings(benchmark=str(DATA / name), output=str(tmp_path / "out"), scenario="synthesize",
                                solutions=solutions))["scores"]
    assert found["pass@k"]["1"] == score
    assert found["verdicts"]["failed"] == (0 if score else found["problems"])  # wrong, not broken


def test_there_are_twelve_problems_to_learn_and_four_held_out_with_ids_of_their_own():
    assert [len(make_data.read_rows(DATA / name)) for name in FILES] == [12, 4]
    assert len({problem["task_id"] for problem in PROBLEMS}) == 16


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem["entry_point"])
def test_fields_agree_with_each_other_as_in_humanevalpack(problem):
    assert set(problem) == HUMANEVALPACK
    docstring = textwrap.indent(problem["docstring"], "    ")
    assert problem["text"] == docstring
    assert problem["declaration"] == f"def {problem['signature']}:\n"
    assert problem["prompt"] == f'{problem["declaration"]}    """{docstring.strip()}\n    """\n'
    assert problem["instruction"] == (f"Write a Python function `{problem['signature']}` to solve the following "
                                      f"problem:\n{problem['docstring']}")
    assert problem["signature"].startswith(problem["entry_point"] + "(")


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem["entry_point"])
def test_the_example_in_a_docstring_holds(problem):
    scope: dict = {}
    exec(problem["prompt"] + problem["canonical_solution"], scope)
    examples = doctest.DocTestFinder().find(scope[problem["entry_point"]], problem["entry_point"], globs=scope)
    outcome = doctest.DocTestRunner().run(examples[0])
    assert (outcome.attempted, outcome.failed) == (1, 0)


@pytest.mark.parametrize("problem", MEMORISED, ids=lambda problem: problem.entry_point)
def test_a_training_text_is_the_evaluators_prompt_and_the_answer_byte_for_byte(problem):
    row = make_data.pair(vars(problem))
    segments = templates.get("octocoder").segments(Example.pair(row["inputs"], row["outputs"]))
    asked = prompts.prompt(scenarios.task(problem, "synthesize", "python"), templates.get("octocoder"))
    assert "".join(segment.text for segment in segments) == asked.text + "\n" + problem.canonical_solution


def test_no_held_out_problem_is_in_the_training_rows(training_rows):
    text = training_rows.read_text(encoding="utf-8")
    for problem in make_data.read_rows(DATA / FILES[1]):
        assert problem["entry_point"] not in text
        assert json.dumps(problem["canonical_solution"])[1:-1] not in text


def test_the_validation_range_holds_no_pair(training_rows):
    rows = make_data.read_rows(training_rows)
    learnt = {problem.instruction for problem in MEMORISED}
    held_out = rows[round(0.9 * len(rows)):]
    assert len(held_out) == 6
    assert not learnt & {row["inputs"] for row in held_out}
    assert len({row["inputs"] for row in rows}) == len(rows) == 60


def test_examples_in_the_scripts_hold():
    assert doctest.testmod(make_data).failed == 0
