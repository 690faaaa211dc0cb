"""Arguments as MBPP+ means them: its file is JSON, which has neither tuples nor sets nor complex numbers.

Which problem needs what is a fact of the data set; EvalPlus keeps it in evalplus/data/mbpp.py.
"""

from __future__ import annotations

from collections.abc import Callable

Arguments = list


def _deep(value: object) -> object:
    return tuple(map(_deep, value)) if isinstance(value, list) else value


def _first(kind: Callable, rest: int) -> Callable[[Arguments], Arguments]:
    """The first argument as that kind, and so many after it."""
    return lambda given: [kind(given[0]), *given[1:1 + rest]]


def _tuples(values: list) -> list:
    return list(map(tuple, values))


SHAPES: list[tuple[Callable[[Arguments], object], tuple[int, ...]]] = [
    (_tuples, (2, 116, 132, 143, 222, 261, 273, 394, 399, 421, 424, 429, 470, 560, 579, 596, 616, 630, 726, 740, 744, 809)),
    (lambda given: list(map(_tuples, given)), (63, 64, 70, 94, 120, 237, 272, 299, 400, 409, 417, 438, 473, 614, 780)),
    (lambda given: [tuple(_tuples(each)) for each in given], (259, 401, 445)),
    (_first(_tuples, 1), (75, 413, 444, 753)),
    (_first(tuple, 1), (250, 405, 446, 617, 720, 763, 808)),
    (_first(tuple, 2), (307,)),
    (lambda given: [given[0], tuple(given[1])], (106, 750)),
    (lambda given: [[set(each) if isinstance(each, list) and each else {} for each in given[0]]], (115,)),
    (lambda given: [float(given[0]), complex(given[1])], (124,)),
    (lambda given: [complex(given[0])], (252,)),
    (lambda given: [tuple(tuple(each) if isinstance(each, list) else each for each in given[0])], (278,)),
    (lambda given: [{name: tuple(each) for name, each in given[0].items()}, *given[1:]], (722,)),
    (_deep, (580, 615, 791)),
]
"""What makes the arguments of a call from a row of JSON, and the numbers of the problems that need it."""
OF_PROBLEM = {number: shape for shape, numbers in SHAPES for number in numbers}


def shaped(number: int | None, given: Arguments) -> Arguments:
    """The arguments of one call.

    >>> shaped(2, [[3, 4], [5, 4]]), shaped(3, [[3, 4]]), shaped(791, [[1, [2]]])
    ([(3, 4), (5, 4)], [[3, 4]], ((1, (2,)),))
    """
    return OF_PROBLEM.get(number, lambda same: same)(given)
