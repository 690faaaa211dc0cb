"""What crosses the wall between a program and its tests."""

from __future__ import annotations

import json
import math
from collections import Counter, namedtuple
from decimal import Decimal
from fractions import Fraction

import numpy
import pytest

from megatron_ft.evaluation.languages.python import Python
from megatron_ft.evaluation.languages.python_inside import wire
from tests.evaluation.problems import make_problem

VALUES = [None, True, 0, -1, 2**53, -(2**80), 10**5000, 1.5, -0.0, math.inf, "", "é\ud800\n", [], [1, [2.0]], (),
          (1, (2,)), {}, {(1, 2): {"a": [None]}}, set(), {1, "a"}, frozenset({2}), b"\x00\xff", bytearray(b"x"),
          1 + 2j, Decimal("1.10"), Fraction(10**30, 7), range(3, 2**70, 2)]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_a_value_arrives_equal_and_of_its_type(value: object) -> None:
    arrived = wire.decode(json.loads(json.dumps(wire.encode(value))))
    assert arrived == value
    assert type(arrived) is type(value)


def test_nan_arrives_as_nan() -> None:
    assert math.isnan(wire.decode(json.loads(json.dumps(wire.encode(math.nan)))))


@pytest.mark.parametrize(("value", "arrives"), [
    (Counter("aab"), {"a": 2, "b": 1}), (namedtuple("P", "x y")(1, 2), (1, 2)), (numpy.int64(3), 3),
    (numpy.float64(0.5), 0.5), (numpy.bool_(True), True), ({1: 2}.keys(), {1}),
])
def test_a_value_of_a_subclass_arrives_as_the_standard_type_it_equals(value: object, arrives: object) -> None:
    assert wire.decode(wire.encode(value)) == arrives == value


def test_a_lazy_value_arrives_as_an_iterator() -> None:
    arrived = wire.decode(wire.encode(x * 2 for x in range(3)))
    assert arrived != [0, 2, 4]
    assert list(arrived) == [0, 2, 4]


def test_a_value_with_a_cycle_is_opaque() -> None:
    cycle: list = []
    cycle.append(cycle)
    assert isinstance(wire.decode(wire.encode(cycle)), wire.Opaque)


@pytest.mark.parametrize("line", [
    {"t": "unknown", "v": 1}, {"t": "set", "v": [[1]]}, {"v": 1}, {"t": "fraction", "v": [1, 0]},
    {"t": "dict", "v": [1]}, {"t": "int", "v": "zz"}, {"t": ["x"], "v": 1}, {"t": "range", "v": []},
])
def test_what_is_no_value_is_a_breach(line: dict) -> None:
    with pytest.raises(wire.Breach):
        wire.decode(line)


def judge(python: Python, body: str, test: str, prompt: str = "def double(x):\n") -> str:
    problem = make_problem(prompt=prompt, test=f"def check(double):\n{test}\ncheck(double)")
    verdict = python.judge(problem, prompt, prompt + body)
    return verdict.status if verdict.passed else f"{verdict.status}: {verdict.reason}"


def test_what_a_call_leaves_in_its_arguments_comes_back(python: Python) -> None:
    test = "    x = [3, 1, 2]\n    assert double(x) is None\n    assert x == [1, 2, 3]"
    assert judge(python, "    x.sort()\n", test) == "passed"


def test_an_exception_arrives_as_the_built_in_one(python: Python) -> None:
    body = "    class Mine(ValueError): pass\n    raise Mine('no')\n"
    test = "    try:\n        double(1)\n    except ValueError as e:\n        assert str(e) == 'no'"
    assert judge(python, body, test) == "passed"
    assert judge(python, "    return {}[x]\n", "    assert double(1) == 2").startswith("failed: KeyError: '1'")


def test_keyword_arguments_and_imports_of_the_prompt_reach_the_tests(python: Python) -> None:
    test = "    assert double(x=math.floor(2.5)) == 4"
    assert judge(python, "    return x * 2\n", test, prompt="import math\n\n\ndef double(x):\n") == "passed"


def test_numpy_can_be_used(python: Python) -> None:
    body = "    import numpy as np\n    return int(np.sum(np.array([x, x])))\n"
    assert judge(python, body, "    assert double(2) == 4") == "passed"


def test_sets_have_the_same_order_every_time(python: Python) -> None:
    body = "    return list({'a', 'b', 'c', 'd', 'e', 'f'})\n"
    seen = set()
    for _ in range(3):
        seen.add(judge(python, body, "    assert double(1) == 0, double(1)"))
    assert len(seen) == 1
