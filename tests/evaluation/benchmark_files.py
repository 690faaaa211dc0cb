"""Rows in the formats of HumanEval, MBPP and EvalPlus, about small problems of our own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

HUMANEVAL = [
    {"task_id": "HumanEval/0", "entry_point": "half",
     "prompt": 'from typing import List\n\n\ndef half(numbers: List[float]) -> List[float]:\n    """ Each of the numbers by '
               'two.\n\n    >>> half([1.0])\n    [0.5]\n    """\n',
     "canonical_solution": "    return [number / 2 for number in numbers]\n",
     "test": "\n\nMETADATA = {\n    'author': 'us'\n}\n\n\ndef check(candidate):\n"
             "    assert candidate([1.0, 3.0]) == [0.5, 1.5]\n    assert candidate([]) == []\n\n"},
    {"task_id": "HumanEval/1", "entry_point": "decode",
     "prompt": 'def encode(text):\n    """Backwards."""\n    return text[::-1]\n\n\ndef decode(text):\n'
               '    """What was encoded."""\n',
     "canonical_solution": "    return text[::-1]\n",
     "test": "def check(candidate):\n    assert candidate(encode('abc')) == 'abc'\n"},
    {"task_id": "HumanEval/2", "entry_point": "third", "prompt": 'def third(number):\n    """A third of it."""\n',
     "canonical_solution": "    return number / 3\n",
     "test": "def check(candidate):\n    assert abs(candidate(9) - 3) < 1e-6\n"},
]

MBPP = [
    {"task_id": 2, "text": "Write a function to find what two tuples share.", "test_setup_code": "", "challenge_test_list": [],
     "code": "def similar_elements(a, b):\r\n  return tuple(set(a) & set(b))",
     "test_list": ["assert set(similar_elements((3, 4), (4, 5))) == {4}", "assert similar_elements((1,), (2,)) == ()"]},
    {"task_id": 11, "text": "Write a function to add one to all.", "test_setup_code": "", "challenge_test_list": [],
     "code": "def helper(x):\n  return x + 1\n\ndef add_one(numbers):\n  return [helper(x) for x in numbers]",
     "test_list": ["assert add_one([1, 2]) == [2, 3]", "assert add_one([]) == []", "assert add_one([-1]) == [0]"]},
    {"task_id": 12, "text": "Write a function to find the depth of a chain.", "challenge_test_list": [],
     "test_setup_code": "made_before = Node(Node(None))",
     "code": "class Node:\n  def __init__(self, below):\n    self.below = below\n\ndef depth(node):\n"
             "  return 1 + depth(node.below) if node else 0",
     "test_list": ["assert depth(made_before) == 2", "assert depth(Node(made_before)) == 3"]},
    {"task_id": 510, "text": "Write a function to round up.", "test_setup_code": "import math", "challenge_test_list": [],
     "code": "def round_up(x):\n  return -int(-x // 1)", "test_list": ["assert round_up(1.5) == math.ceil(1.5)"]},
    {"task_id": 601, "text": "Write a function to say hello.", "test_setup_code": "", "challenge_test_list": [],
     "code": "def hello():\n  return 'hello'", "test_list": ["assert hello() == 'hello'"]},
]

SANITIZED = [
    {"source_file": "a", "task_id": 14, "prompt": "Write a function to find the volume of a cube.",
     "test_imports": ["import math"], "code": "def volume(a):\n  return a ** 3",
     "test_list": ["assert math.isclose(volume(1.5), 3.375)"]},
    {"source_file": "b", "task_id": 16, "prompt": "Write a function to count.", "test_imports": [],
     "code": "def count(items):\n  return len(items)", "test_list": ["assert count([1, 2]) == 2", "assert count('') == 0"]},
]

HUB_HUMANEVALPLUS = [{**HUMANEVAL[2], "test": (
    "import numpy as np\n\ndef assertion(out, exp, atol):\n    assert np.allclose(out, exp, rtol=1e-07, atol=atol)\n\n"
    "def check(candidate):\n    inputs = [[9], [1], [0.5]]\n    results = [3.0, 0.3333333333333333, 0.16666666666666666]\n"
    "    for i, (inp, exp) in enumerate(zip(inputs, results)):\n        assertion(candidate(*inp), exp, 1e-06)\n")}]

HUB_MBPPPLUS = [{**SANITIZED[0], "test": (
    "import numpy as np\n\ndef assertion(out, exp, atol):\n    assert np.allclose(out, exp, rtol=1e-07, atol=atol)\n\n"
    "inputs = [[1.5], [-2], [0]]\nresults = [3.375, -8, 0]\nfor i, (inp, exp) in enumerate(zip(inputs, results)):\n"
    "    assertion(volume(*inp), exp, 1e-06)\n")}]


def plus(task_id: str, entry_point: str, prompt: str, solution: str, base: Sequence, more: Sequence,
         *, atol: float = 0) -> dict:
    """A row as EvalPlus' files have it."""
    return {"task_id": task_id, "entry_point": entry_point, "prompt": prompt, "canonical_solution": solution, "contract": "",
            "base_input": base, "plus_input": more, "atol": atol}


HUMANEVALPLUS = [
    plus("HumanEval/0", "half", HUMANEVAL[0]["prompt"], HUMANEVAL[0]["canonical_solution"], [[[1.0, 3.0]], [[]]],
         [[[0.1]], [[1e300, -7.0]], [[2**70]]]),
    plus("HumanEval/32", "find_zero", 'def find_zero(xs):\n    """A zero of a polynomial."""\n',
         "    return -xs[0] / xs[1]\n", [[[1.0, 2.0]]], [[[-6.0, 1.0]], [[0.0, 4.0]]], atol=0.0001),
    plus("HumanEval/2", "first", 'def first(items):\n    """Takes the first away."""\n', "    return items.pop(0)\n",
         [[[1, 2]]], [[[[3], 4]], [[2**80 + 1, 1]]]),
]

MBPPPLUS = [
    plus("Mbpp/2", "similar_elements",
         '"""\nWrite a function to find what two tuples share.\nassert similar_elements((3,), (3,))\n"""\n',
         "\ndef similar_elements(a, b):\n    assert isinstance(a, tuple)\n    return tuple(set(a) & set(b))\n",
         [[[3, 4, 9], [4, 9]]], [[[], [1]], [[1, 2, 3], [3, 2, 1]]]),
    plus("Mbpp/7", "pair", '"""\nWrite a function to pair.\nassert pair(1) == (1, 1)\n"""\n',
         "def pair(x):\n    return (x, x)\n", [[1]], [[0], [True], [2**64]]),
    plus("Mbpp/16", "check_str", '"""\nWrite a function to look for a vowel.\nassert check_str("a")\n"""\n',
         "import re\ndef check_str(text):\n    return re.search('[aeiou]', text)\n", [["abc"]], [["xyz"], [""]]),
]


def write(path: Path, rows: Sequence[Mapping]) -> Path:
    """A file of JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
