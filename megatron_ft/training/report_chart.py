"""Curves over steps as inline SVG, readable without scripts; what a pointer reads off them is in data-points."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from html import escape

WIDTH, HEIGHT = 640, 260
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 10, 30
COLOURS = 8
MOST_POINTS = 1200
"""Of a series that are drawn: more are one pixel's width or less."""
LOG_FROM = 30.0
"""Largest / smallest value from which a chart's axis is logarithmic."""

Points = list[tuple[float, float]]


@dataclasses.dataclass(frozen=True)
class Series:
    """A curve: (step, value) in the order of the steps."""

    name: str
    points: Points
    colour: int = 0
    """Which of the page's colours; equal for what belongs to one run."""
    dashed: bool = False


@dataclasses.dataclass(frozen=True)
class Mark:
    """Something that happened after a step."""

    step: int
    kind: str
    """A word for the legend and for the colour: resume, spike, skipped."""


def chart(title: str, series: Sequence[Series], *, unit: str = "", marks: Sequence[Mark] = (), may_be_log: bool = False,
          from_zero: bool = False) -> str:
    """A figure with its curves, axes and legend; "" where no curve has a point.

    Args:
        unit: of the values.
        may_be_log: a logarithmic axis where the values span more than a factor of LOG_FROM.
        from_zero: the axis begins at 0: its curves are amounts, whose ratios should be seen.
    """
    drawn = [Series(each.name, thinned(each.points), each.colour, each.dashed) for each in series if each.points]
    if not drawn:
        return ""
    values = [value for each in drawn for _, value in each.points]
    last = max(1, *(step for each in drawn for step, _ in each.points))
    is_log = may_be_log and min(values) > 0 and max(values) > LOG_FROM * min(values)
    y_ticks = log_ticks(min(values), max(values)) if is_log else ticks(0 if from_zero else min(values), max(values))
    x_ticks = [tick for tick in ticks(0, last) if tick <= last and tick == int(tick)]
    y_of = _scale(min(*values, y_ticks[0]), max(*values, y_ticks[-1]), HEIGHT - BOTTOM, TOP, is_log=is_log)
    x_of = _scale(0, last, LEFT, WIDTH - RIGHT)
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    for tick in y_ticks:
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y_of(tick):.1f}" y2="{y_of(tick):.1f}"/>'
                     f'<text class="tick" x="{LEFT - 6}" y="{y_of(tick) + 4:.1f}" text-anchor="end">{short(tick)}</text>')
    parts += [f'<text class="tick" x="{x_of(tick):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{short(tick)}</text>'
              for tick in x_ticks]
    parts.append(f'<text class="tick" x="{WIDTH - RIGHT}" y="{HEIGHT - 2}" text-anchor="end">step</text>')
    parts += [f'<line class="mark {escape(mark.kind)}" x1="{x_of(mark.step):.1f}" x2="{x_of(mark.step):.1f}" y1="{TOP}" '
              f'y2="{HEIGHT - BOTTOM}"><title>{escape(mark.kind)}, step {mark.step}</title></line>'
              for mark in marks if mark.step <= last]
    parts += [_curve(each, x_of, y_of) for each in drawn]
    parts.append(f'<line class="cursor" y1="{TOP}" y2="{HEIGHT - BOTTOM}" visibility="hidden"/></svg>')
    points = [{"name": each.name, "colour": each.colour % COLOURS,
               "at": [[step, round(x_of(step), 1), short(value)] for step, value in each.points]} for each in drawn]
    scale = f" ({unit}{', ' if unit and is_log else ''}{'log scale' if is_log else ''})" if unit or is_log else ""
    return (f'<figure data-points="{escape(json.dumps(points))}"><figcaption>{escape(title)}<small>{escape(scale)}</small>'
            f'</figcaption>{"".join(parts)}{_legend(drawn, marks)}</figure>')


def _curve(series: Series, x_of: Callable[[float], float], y_of: Callable[[float], float]) -> str:
    colour = f"c{series.colour % COLOURS}{' dashed' if series.dashed else ''}"
    places = [f"{x_of(step):.1f},{y_of(value):.1f}" for step, value in series.points]
    line = f'<polyline class="{colour}" points="{" ".join(places)}"/>'
    if len(places) > 40:
        return line
    return line + "".join('<circle class="{}" cx="{}" cy="{}" r="2.4"/>'.format(colour, *place.split(",")) for place in places)


def _legend(series: Sequence[Series], marks: Sequence[Mark]) -> str:
    names = [f'<span class="c{each.colour % COLOURS}{" dashed" if each.dashed else ""}">{escape(each.name)} '
             f'<b>{short(each.points[-1][1])}</b></span>' for each in series]
    kinds = [f'<span class="{escape(kind)}">{escape(kind)}</span>' for kind in dict.fromkeys(mark.kind for mark in marks)]
    return f'<p class="legend">{"".join(names + kinds)}</p>'


def _scale(low: float, high: float, begin: float, end: float, *, is_log: bool = False) -> Callable[[float], float]:
    """The place of a value on an axis from `begin` (low) to `end` (high)."""
    change = math.log10 if is_log else float
    span = change(high) - change(low) or 1.0
    return lambda value: begin + (change(value) - change(low)) / span * (end - begin)


def ticks(low: float, high: float, *, count: int = 5) -> list[float]:
    """About `count` round numbers that hold `low` and `high` between them, or next to them.

    >>> ticks(0, 200), ticks(0.93, 1.07), ticks(5, 5)
    ([0.0, 50.0, 100.0, 150.0, 200.0], [0.9, 0.95, 1.0, 1.05, 1.1], [4.0, 5.0, 6.0])
    """
    if high <= low:
        pad = abs(low) * 0.2 or 1.0
        return ticks(low - pad, low + pad, count=2)
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    size = next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= raw * 0.999)
    first, last = math.floor(low / size + 1e-9), math.ceil(high / size - 1e-9)
    return [round(number * size, 12) for number in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten that hold both between them, with 2 and 5 times them where there are few.

    >>> log_ticks(0.02, 6400), log_ticks(2, 90)
    ([0.01, 0.1, 1.0, 10.0, 100.0, 1000.0, 10000.0], [2.0, 5.0, 10.0, 20.0, 50.0, 100.0])
    """
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if len(exponents) <= 4 else (1,)
    found = [float(f"{factor}e{exponent}") for exponent in exponents for factor in factors]
    first, last = max(tick for tick in found if tick <= low), min(tick for tick in found if tick >= high)
    return [tick for tick in found if first <= tick <= last]


def short(value: float) -> str:
    """A number for an axis.

    >>> short(0), short(12500), short(3e-05), short(1.25), short(41_300_000_000), short(0.1 + 0.2)
    ('0', '12,500', '3e-05', '1.25', '4.13e+10', '0.3')
    """
    if value == int(value) and abs(value) < 1e7:
        return f"{int(value):,}"
    return f"{value:.4g}"


def thinned(points: Points, most: int = MOST_POINTS) -> Points:
    """At most about `most` points: of each stretch the lowest and the highest, so that no spike is lost.

    >>> thinned([(step, float(step == 500)) for step in range(1000)], most=4)
    [(0, 0.0), (500, 1.0), (501, 0.0), (999, 0.0)]
    """
    if len(points) <= most:
        return points
    size = -(-2 * len(points) // most)
    kept = {0, len(points) - 1}
    for begin in range(0, len(points), size):
        stretch = range(begin, min(begin + size, len(points)))
        kept |= {min(stretch, key=lambda at: points[at][1]), max(stretch, key=lambda at: points[at][1])}
    return [points[at] for at in sorted(kept)]
