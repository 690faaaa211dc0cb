"""EvalPlus' tests: a function must give for every input what the canonical solution gave.

The rules are those of evalplus/eval/__init__.py and _special_oracle.py, with their exceptions for single problems: outputs are
equal, or as near as `atol` and a relative 1e-7 allow. What `strict` changes is what lets a wrong program through there:
an oracle looks at the inputs after the program had them in its hands, and a float among the outputs makes all later
comparisons approximate.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterator

from .shapes import shaped
from .wire import NotCarriedError, decode

FLOAT_TOLERANCE, RELATIVE_TOLERANCE = 1e-6, 1e-7
SHOWN_CHARACTERS = 200
COMPARED_AS_SETS = {"similar_elements", "find_char_long", "common_in_nested_lists", "extract_singly", "larg_nnum",
                    "intersection_array", "find_dissimilar", "Diff"}
FOUND_OR_NOT = {"check_str", "text_match_three", "text_starta_endb"}
"""Functions of MBPP+ whose outputs are only asked whether they are None."""


def arguments(cases: dict) -> Iterator[list]:
    """The arguments of every call, each time new."""
    for given in cases["inputs"]:
        yield shaped(cases["number"], copy.deepcopy(given))


def check(function: Callable, text: str) -> None:
    """Call a function with every input; AssertionError, with input and both values, where it gives something else.

    Args:
        text: JSON with `inputs number outputs entry_point kind atol strict`; see `evaluation/evalplus.py`.
    """
    cases = json.loads(text)
    tolerance = cases["atol"]
    for at, (given, written) in enumerate(zip(arguments(cases), cases["outputs"], strict=True)):
        expected = decode(written)
        asked = copy.deepcopy(given) if cases["strict"] else given
        where = f"input {at} of {len(cases['outputs'])}, {cases['entry_point']}({shown(given)[1:-1]})"
        try:
            found = function(*given)
        except NotCarriedError:
            raise
        except Exception as problem:
            raise AssertionError(f"{where} raised {type(problem).__name__}: {shown(problem)}") from problem
        if tolerance == 0 and is_floats(expected):
            if not cases["strict"]:
                tolerance = FLOAT_TOLERANCE
            allowed = FLOAT_TOLERANCE
        else:
            allowed = tolerance
        try:
            same = agree(found, expected, cases, asked, allowed)
        except Exception:  # outputs that cannot be compared are not the same
            same = False
        if not same:
            raise AssertionError(f"{where} gave {shown(found)}, the canonical solution {shown(expected)}")


def agree(found: object, expected: object, cases: dict, given: list, atol: float) -> bool:
    """Whether an output is right."""
    if cases["kind"] == "humanevalplus" and cases["entry_point"] == "find_zero":
        return abs(polynomial(*given, found)) <= atol  # any zero will do
    if equal(found, expected, cases, given, atol):
        return True
    if atol == 0:
        return False
    import numpy

    if type(found) is not type(expected) or (isinstance(expected, list | tuple) and len(found) != len(expected)):
        return False
    return bool(numpy.allclose(found, expected, rtol=RELATIVE_TOLERANCE, atol=atol))


def equal(found: object, expected: object, cases: dict, given: list, atol: float) -> bool:
    """Whether two outputs are the same by the problem's own rule."""
    name = cases["entry_point"] if cases["kind"] == "mbppplus" else ""
    if name in COMPARED_AS_SETS:
        return set(found) == set(expected)
    if name in FOUND_OR_NOT:
        return (found if isinstance(found, bool) else found is not None) == expected
    if name == "are_equivalent":  # its canonical solution is no yardstick
        return True
    other = {"sum_div": lambda *given: 0, "digit_distance_nums": digit_distance}.get(name)
    return bool(found == expected or (other is not None and found == other(*given))
                or (name == "surface_Area" and abs(found - surface(*given)) <= atol))


def is_floats(value: object) -> bool:
    """Whether a value is a float, or a list or tuple of nothing else."""
    if isinstance(value, list | tuple) and value:
        return all(isinstance(each, float) for each in value)
    return isinstance(value, float)


def polynomial(coefficients: list, x: float) -> float:
    """A polynomial's value, the constant first."""
    return sum(coefficient * math.pow(x, power) for power, coefficient in enumerate(coefficients))


def surface(edge: float, height: float) -> int:
    """The surface of a square pyramid whose height is taken from its base to its tip."""
    return round(edge**2 + 2 * edge * math.sqrt((edge / 2) ** 2 + height**2))


def digit_distance(one: int, other: int) -> int:
    """The sum of the differences of two numbers' digits, from the last on."""
    width = max(len(str(one)), len(str(other)))
    return sum(abs(int(a) - int(b)) for a, b in zip(str(one).zfill(width), str(other).zfill(width), strict=True))


def shown(value: object) -> str:
    """A value for people, cut."""
    text = str(value) if isinstance(value, BaseException) else repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."
