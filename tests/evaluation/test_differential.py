"""EvalPlus' comparison: every case beside what numpy and plain equality say of it, without a box."""

from __future__ import annotations

import json
import math

import pytest

from megatron_ft.evaluation.languages.python_inside import canonical, differential
from megatron_ft.evaluation.languages.python_inside.shapes import OF_PROBLEM, shaped
from megatron_ft.evaluation.languages.python_inside.wire import encode


def cases(outputs: list, *, inputs: list | None = None, kind: str = "humanevalplus", entry_point: str = "f", atol: float = 0,
          strict: bool = True, number: int | None = None) -> str:
    inputs = inputs or [[at] for at in range(len(outputs))]
    return json.dumps({"inputs": inputs, "number": number, "outputs": [encode(value) for value in outputs], "kind": kind,
                       "entry_point": entry_point, "atol": atol, "strict": strict})


def passes(found: list, expected: list, **how: object) -> bool:
    """Whether a function that gives these values one after the other passes."""
    values = iter(found)
    try:
        differential.check(lambda *given: next(values), cases(expected, **how))
    except AssertionError:
        return False
    return True


@pytest.mark.parametrize(("found", "expected", "atol", "same"), [
    (1, 1, 0, True), (1, 2, 0, False), ((1, 2), [1, 2], 0, False), ([1, 2], [1, 2], 0, True), (True, 1, 0, True),
    ({1, 2}, {2, 1}, 0, True), ({1: 2.0}, {1: 2.0}, 0, True), (2**200, 2**200, 0, True), (2**200 + 1, 2**200, 0, False),
    (1.0 + 5e-7, 1.0, 0, True), (1.0 + 5e-6, 1.0, 0, False), (1e9 + 50, 1e9, 0, True), (1e9 + 500, 1e9, 0, False),
    ([1.0, 2.0 + 5e-7], [1.0, 2.0], 0, True), ((1.0, 2.0 + 5e-7), [1.0, 2.0], 0, False), ([1.0], [1.0, 2.0], 0, False),
    (1, 1.0, 0, True), (1, 1.0 + 1e-9, 0, False), ([1, 2.0 + 5e-7], [1, 2.0], 0, False), ([], [], 0, True),
    ([1.0], [], 0, False),
    (5.05, 5.0, 0.1, True), (5.2, 5.0, 0.1, False), ([1, 2], [1, 3], 0.1, False), ("a", "b", 0.1, False),
    (None, 1.0, 0, False), ("1.0", 1.0, 0, False), (math.inf, math.inf, 0, True), (math.inf, -math.inf, 0, False),
    (math.nan, math.nan, 0, False), ([[1.0], [2.0 + 5e-7]], [[1.0], [2.0]], 0, False), ([[1.0 + 5e-7]], [[1.0]], 1e-6, True),
])
def test_outputs_agree_as_evalplus_has_it(found: object, expected: object, atol: float, same: bool) -> None:
    for strict in (True, False):
        assert passes([found], [expected], atol=atol, strict=strict) is same


def test_a_float_makes_later_comparisons_approximate_in_evalplus_only() -> None:
    found, expected = [1.0, [[3.0 + 5e-7]]], [1.0, [[3.0]]]
    assert passes(found, expected, strict=False)
    assert not passes(found, expected, strict=True)
    assert not passes(found[::-1], expected[::-1], strict=False)


@pytest.mark.parametrize(("entry_point", "found", "expected", "given", "same"), [
    ("similar_elements", [2, 1, 1], (1, 2), [], True), ("similar_elements", [1], (1, 2), [], False),
    ("similar_elements", [[1]], (1, 2), [], False), ("Diff", (), [], [], True),
    ("check_str", "x", True, [], True), ("check_str", None, True, [], False), ("check_str", None, False, [], True),
    ("check_str", False, True, [], False), ("check_str", 0, True, [], True),
    ("are_equivalent", "anything", False, [], True), ("sum_div", 0, 12, [], True), ("sum_div", 1, 12, [], False),
    ("sum_div", 12, 12, [], True), ("digit_distance_nums", 10, 7, [1, 900], True),
    ("digit_distance_nums", 9, 7, [1, 900], False), ("digit_distance_nums", 7, 7, [1, 900], True),
    ("surface_Area", 33, 1, [3, 4], False), ("surface_Area", 35, 1, [3, 4], True),
])
def test_single_problems_of_mbpp_have_rules_of_their_own(entry_point: str, found: object, expected: object, given: list,
                                                         same: bool) -> None:
    """By hand: 001 and 900 differ by 9 + 0 + 1; a pyramid of edge 3 and height 4 has 9 + 6 sqrt(1.5^2 + 4^2) = 34.6."""
    assert passes([found], [expected], kind="mbppplus", entry_point=entry_point, inputs=[given]) is same
    if entry_point not in ("are_equivalent",) and found != expected:
        assert not passes([found], [expected], kind="humanevalplus", entry_point=entry_point, inputs=[given])


def test_any_zero_of_a_polynomial_will_do() -> None:
    """x^2 - 3x + 2 has the zeros 1 and 2."""
    how = {"entry_point": "find_zero", "inputs": [[[2.0, -3.0, 1.0]]], "atol": 1e-4}
    assert passes([1.0], [2.0], **how) and passes([2.0], [2.0], **how)
    assert not passes([1.01], [2.0], **how) and not passes([0.0], [2.0], **how)
    assert not passes([None], [2.0], **how)
    assert not passes([1.0], [2.0], **{**how, "kind": "mbppplus"})


def test_a_program_that_empties_the_polynomial_passes_in_evalplus_only() -> None:
    def empties(coefficients: list) -> float:
        coefficients.clear()
        return 7.0

    how = {"entry_point": "find_zero", "inputs": [[[2.0, -3.0, 1.0]]], "atol": 1e-4}
    differential.check(empties, cases([2.0], strict=False, **how))
    with pytest.raises(AssertionError, match=r"input 0 of 1, find_zero\(\[2.0, -3.0, 1.0\]\) gave 7.0, the canonical"):
        differential.check(empties, cases([2.0], strict=True, **how))


def test_every_call_has_arguments_of_its_own() -> None:
    seen = []
    differential.check(lambda items: seen.append(list(items)) or items.pop(), cases([2, 2], inputs=[[[1, 2]], [[1, 2]]]))
    assert seen == [[1, 2], [1, 2]]


def test_an_exception_is_named_with_its_input() -> None:
    with pytest.raises(AssertionError, match=r"input 1 of 2, f\(0\) raised ZeroDivisionError: float division by zero"):
        differential.check(lambda x: 6.0 / x, cases([3, 1], inputs=[[2], [0]]))


def test_long_values_are_cut_in_what_is_told() -> None:
    with pytest.raises(AssertionError) as told:
        differential.check(lambda x: x, cases(["y"], inputs=[["x" * 5000]]))
    assert len(str(told.value)) < 600


def job(code: str, inputs: list, **changed: object) -> dict:
    return {"code": code, "entry_point": "f", "inputs": inputs, "kind": "humanevalplus", "number": None, **changed}


def test_the_canonical_solution_says_what_is_expected() -> None:
    found = canonical.outputs(job("def f(x):\n    x.append(1)\n    return tuple(x)", [[[]], [[2**70]]]))
    assert found == [encode((1,)), encode((2**70, 1))]
    texts = "import re\ndef f(text):\n    return re.search('a', text)"
    asked = job(texts.replace("def f", "def check_str"), [["a"], ["b"]], entry_point="check_str", kind="mbppplus")
    assert canonical.outputs(asked) == [True, False]


@pytest.mark.parametrize(("code", "message"), [
    ("def f(x):\n    return 1 // x", r"input 1, f\(0\), raises ZeroDivisionError"),
    ("def f(x):\n    return object()", r"input 0, f\(3\), gives a object, which cannot be compared"),
    ("def f(x):\n    return map(abs, [x])", r"input 0, f\(3\), gives a map, which cannot be compared"),
])
def test_a_canonical_solution_that_is_no_yardstick_is_named(code: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        canonical.outputs(job(code, [[3], [0]]))


@pytest.mark.parametrize(("number", "given", "meant"), [
    (2, [[3, 4], [5]], [(3, 4), (5,)]), (63, [[[1, 2], [3]]], [[(1, 2), (3,)]]),
    (401, [[[1], [2]], [[3]]], [((1,), (2,)), ((3,),)]),
    (75, [[[1, 2]], 6], [[(1, 2)], 6]), (250, [[1, 2], 8], [(1, 2), 8]), (307, [[1, []], 1, 50], [(1, []), 1, 50]),
    (106, [[1], [2]], [[1], (2,)]), (115, [[[1, 1], [], 3]], [[{1}, {}, {}]]), (124, ["0", "1j"], [0.0, 1j]),
    (252, ["1+2j"], [1 + 2j]), (278, [[1, [2], 3]], [(1, (2,), 3)]), (722, [{"a": [1, 2]}, 6.0], [{"a": (1, 2)}, 6.0]),
    (791, [[1, [2, [3]]]], ((1, (2, (3,))),)), (7, [[1, [2]]], [[1, [2]]]),
])
def test_mbpp_s_arguments_are_what_its_file_cannot_say(number: int, given: list, meant: object) -> None:
    assert shaped(number, given) == meant
    assert [type(each) for each in shaped(number, given)] == [type(each) for each in meant]


def test_no_problem_has_two_shapes() -> None:
    from megatron_ft.evaluation.languages.python_inside.shapes import SHAPES

    assert len(OF_PROBLEM) == sum(len(numbers) for _, numbers in SHAPES) == 62
