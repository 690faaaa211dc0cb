"""The public harnesses' rules for HumanEval, MBPP and EvalPlus: every expected text is written out by hand."""

from __future__ import annotations

import ast
import itertools
import random
from pathlib import Path

import pytest

from megatron_ft.data import templates
from megatron_ft.evaluation import benchmark, prompts, public_extraction, public_python, scenarios, whole_answers
from megatron_ft.evaluation.languages.python import Python
from megatron_ft.evaluation.problem import Problem
from megatron_ft.evaluation.scenarios import Task
from tests.evaluation import benchmark_files as files

NAMES = ("HUMANEVAL", "MBPP", "HUMANEVALPLUS", "MBPPPLUS", "HUB_HUMANEVALPLUS", "HUB_MBPPPLUS")


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Problem]:
    """The first problem of each file."""
    folder: Path = tmp_path_factory.mktemp("files")
    return {name: benchmark.read(files.write(folder / name, getattr(files, name))).problems[0] for name in NAMES}


def asked(problem: Problem, mode: str = "compat") -> Task:
    return scenarios.task(problem, "synthesize", "python", mode=mode)


@pytest.mark.parametrize("name", NAMES)
def test_a_solution_is_an_answer_to_the_prompt_that_goes_before_it(problems: dict, name: str) -> None:
    """Prompt and solution together are the benchmark's program, without a line break too many that a stop would take."""
    task = asked(problems[name])
    whole = public_python.prompt(task.problem) + prompts.own_answer(task, "canonical")
    assert whole == (task.problem.prompt + task.problem.canonical_solution).lstrip()


HALF = 'from typing import List\n\n\ndef half(numbers: List[float]) -> List[float]:\n    """ Each of the numbers by two.\n\n' \
       "    >>> half([1.0])\n    [0.5]\n    \"\"\""
ADD_ONE = '"""\nWrite a function to add one to all.\nassert add_one([1, 2]) == [2, 3]\n"""\n'


@pytest.mark.parametrize(("name", "expected"), {
    "HUMANEVAL": HALF, "MBPP": ADD_ONE, "HUMANEVALPLUS": f"{HALF}\n",
    "MBPPPLUS": '"""\nWrite a function to find what two tuples share.\nassert similar_elements((3,), (3,))\n"""\n',
    "HUB_HUMANEVALPLUS": 'def third(number):\n    """A third of it."""',
    "HUB_MBPPPLUS": '"""\nWrite a function to find the volume of a cube.\nassert math.isclose(volume(1.5), 3.375)\n"""\n',
}.items())
def test_a_model_that_continues_text_is_prompted_as_in_public_runs(problems: dict, name: str, expected: str) -> None:
    assert prompts.prompt(asked(problems[name]), templates.get("continue")).text == expected


def test_in_fixed_mode_no_prompt_ends_with_whitespace(problems: dict) -> None:
    assert prompts.prompt(asked(problems["MBPP"], "fixed"), templates.get("continue")).text == ADD_ONE.rstrip()


@pytest.mark.parametrize("mode", ["fixed", "compat"])
def test_an_instruction_begins_the_function_or_asks_for_a_program(problems: dict, mode: str) -> None:
    words = templates.get("octocoder")
    assert prompts.prompt(asked(problems["MBPP"], mode), words).text == (
        "Question: Write a function to add one to all.\nassert add_one([1, 2]) == [2, 3]\n\nAnswer:")
    begun = prompts.prompt(asked(problems["HUB_HUMANEVALPLUS"], mode), words).text
    assert begun == ("Question: Write a Python function `third(number)` to solve the following problem:\nA third of it."
                     '\n\nAnswer:\ndef third(number):\n    """A third of it."""')


def test_a_chat_model_is_asked_in_evalplus_s_words(problems: dict) -> None:
    """By a template that says all that it is told, as a tokenizer's chat template would."""
    class Words:
        name = "chat"

        def prompt(self, instruction: str, **told: str) -> tuple:
            return instruction, told

    said, told = prompts.prompt(asked(problems["HUMANEVALPLUS"]), Words())
    assert said.startswith("Please provide a self-contained Python script that solves the following problem in a markdown code "
                           "block:\n```\nfrom typing import List\n") and said.endswith('[0.5]\n    """\n```\n')
    assert told["answer_start"].endswith("passes corresponding tests:\n```python\n")
    assert prompts.prompt(asked(problems["HUMANEVAL"]), Words())[0].startswith("Write a Python function `half(")


@pytest.mark.parametrize(("name", "answer", "rest"), [
    ("HUMANEVAL", "\n    return [1]\n\ndef more():\n", "\n    return [1]\n"),
    ("HUMANEVAL", "\n    return [1]\n# done", "\n    return [1]"),
    ("HUMANEVAL", "\n    if x:\n        return 1\n```\nthat", "\n    if x:\n        return 1"),
    ("HUMANEVAL", "\n    return 1\nx = 2\nif x", "\n    return 1\nx = 2"),
    ("HUMANEVAL", "\n    return 1\nassert x", "\n    return 1\nassert x"),
    ("MBPP", "def add_one(x):\n    return x\n\ndef more():\n    pass\nassert add_one",
     "def add_one(x):\n    return x\n\ndef more():\n    pass"),
    ("MBPP", "def add_one(x):\n    return x\n# done\n\"\"\"\nNext", "def add_one(x):\n    return x\n# done"),
    ("MBPP", "import math\nclass A:\n  pass", "import math"),
])
def test_an_answer_is_cut_where_the_harness_cuts_it(problems: dict, name: str, answer: str, rest: str) -> None:
    task = asked(problems[name])
    assert public_python.program(task, answer, "continue") == {"HUMANEVAL": HALF, "MBPP": ADD_ONE}[name] + rest
    assert public_python.is_complete(task, answer, "continue") is (answer != rest)


def test_evalplus_cuts_and_takes_what_the_function_needs(problems: dict) -> None:
    task = asked(problems["HUMANEVALPLUS"])
    answer = ("\treturn [by(x, TWO) for x in numbers]\n\nTWO = 2\n\nLEFT = 3\n\n"
              "def by(a, b):\n    return a / b\n\nprint(half([]))\n")
    assert public_python.program(task, answer, "continue") == (
        "from typing import List\ndef half(numbers: List[float]) -> List[float]:\n    \"\"\" Each of the numbers by two.\n\n"
        "    >>> half([1.0])\n    [0.5]\n    \"\"\"\n    return [by(x, TWO) for x in numbers]\nTWO = 2")
    assert public_python.is_complete(task, answer, "continue")  # at the second function: its stop words are a completion's
    chat = "import math\ndef half(xs):\n    return [by(x) for x in xs]\n\ndef by(x):\n    return x / 2\n\nhalf([])\n```\nSo\n"
    assert public_python.program(task, chat, "chat") == (
        "import math\ndef half(xs):\n    return [by(x) for x in xs]\ndef by(x):\n    return x / 2")


@pytest.mark.parametrize(("text", "expected"), [
    ("Sure:\n```python\nimport math\n\ndef f(x):\n    return math.sqrt(x)\n```\nIt is\na root.",
     "import math\ndef f(x):\n    return math.sqrt(x)"),
    ("@cache\ndef f(x):\n    return g(x)\n\ndef g(x):\n    return x",
     "@cache\ndef f(x):\n    return g(x)\n\ndef g(x):\n    return x"),
    ("def f(x):\n    return 1\ndef f(x):\n    return 2", "def f(x):\n    return 1"),
    ("def f(x):\n    print(x)\ny = 1", "def f(x):\n    print(x)\ny = 1"),
    ("from __future__ import annotations\nimport re\nclass A:\n    n = K\nK = 2\nU = 3\ndef f():\n    return f'{A.n}'\n"
     "if f():\n    pass",
     "import re\nclass A:\n    n = K\nK = 2\ndef f():\n    return f'{A.n}'"),
    ("words only\nand more words", "words only"), ("", ""),
])
def test_what_is_extracted(text: str, expected: str) -> None:
    assert public_extraction.extracted(text, "f") == expected


PIECES = ("def f(x):", "    return x", "    if x:", "        y = [1,", "2]", "Words of prose", "x = '''", "'''", "try:",
          "except E:", "    pass", "", "z = (", ")", "@d", "class A:", "w = 1 + \\", "    else:", "\tpass")


def _parses(text: str) -> bool:
    try:
        ast.parse(text)
    except SyntaxError:
        return False
    return True


def test_the_longest_python_is_found_as_by_trying_all_runs_of_lines() -> None:
    drawn = random.Random(7)
    for _ in range(400):
        lines = drawn.choices(PIECES, k=drawn.randrange(1, 9))
        best = (0, 0, 1)
        for begin, end in itertools.combinations(range(len(lines) + 1), 2):
            weight = sum(bool(line.strip()) for line in lines[begin:end])
            if end > begin + 1 and weight > best[0] and _parses("\n".join(lines[begin:end])):
                best = (weight, begin, end)
        expected = "\n".join(lines[best[1]:best[2]])
        assert public_extraction.longest_python("\n".join(lines)).rstrip() == expected.rstrip(), lines


def test_a_long_text_without_python_is_given_up_soon() -> None:
    """Trying every run of lines would be two million."""
    text = "\n".join(f"Line {at} says: (nothing" for at in range(2000))
    assert public_extraction.longest_python(text) == "Line 0 says: (nothing"


@pytest.mark.parametrize("answer", [
    "def f(x):\n    return x\n\nassert f(1) == 1\nprint(f(2))\n", "import re\n\ndef f(x):\n    return x\n```\nThat is it.",
    'def f(x):\n    """\nif it is so\nassert\n"""\n    return x\n\nprint(1)',
    "Here it is:\n\n```python\ndef g(x):\n    return x\n\ndef f(x):\n    return g(x)\n```\nprint(f)",
])
def test_generation_stops_behind_a_program_and_nowhere_before(answer: str) -> None:
    """Whatever follows, the program is the same."""
    problem = Problem("Mbpp/11", "", "", "", "", "", "", "f", "", "", "", "assert f(1)", "", kind="mbpp")
    first = next(end for end in range(len(answer)) if whole_answers.is_complete(answer[:end], "f"))
    assert answer[:first].rstrip().endswith(("assert", "```", "print("))
    program = Python.assemble(problem, "", answer[:first])
    for rest in ("", " x\n\ndef more():\n    return 1\n", answer[first:]):
        assert Python.assemble(problem, "", answer[:first] + rest) == program
    assert "def f(x)" in program and "return" in program


def test_an_unfinished_word_stops_nothing() -> None:
    assert not whole_answers.is_complete("def f(x):\n    return x\n\nprint", "f")
    assert not whole_answers.is_complete("def f(x):\n    return x\n\niffy = 1", "f")
    assert not whole_answers.is_complete("assert 1\nprint(2)\n", "f")
