"""The plots of a run's page, as inline SVG that needs neither scripts nor fonts of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

from megatron_ft.evaluation.statistics import Interval

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 560, 52, 16, 10, 30
CURVES_HEIGHT, ROW_HEIGHT, LABEL_WIDTH, DOT_HEIGHT = 260, 24, 190, 9
COLOURS = 6
FIFTHS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
LOG_FROM = 20  # samples from which the axis of k is logarithmic
K_TICKS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


@dataclass(frozen=True)
class Series:
    """Values of one language (or whatever has one colour) by k, or by the name of a row."""

    name: str
    colour: int
    values: Mapping[object, float]
    intervals: Mapping[object, Interval | None] = field(default_factory=dict)


def curves(title: str, series: Sequence[Series]) -> str:
    """pass@k over k, with the interval as a band; the axis of k is logarithmic where there are many."""
    last = max(k for each in series for k in each.values)
    change = math.log if last >= LOG_FROM else float
    floor = CURVES_HEIGHT - BOTTOM

    def x_of(k: int) -> float:
        return LEFT + (change(k) - change(1)) / ((change(last) - change(1)) or 1) * (WIDTH - LEFT - RIGHT)

    def y_of(value: float) -> float:
        return floor - value * (floor - TOP)

    parts = []
    for value in FIFTHS:
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y_of(value):.1f}" y2="{y_of(value):.1f}"/>'
                     f'<text class="tick" x="{LEFT - 6}" y="{y_of(value) + 4:.1f}" text-anchor="end">{100 * value:.0f}%</text>')
    parts += [f'<text class="tick" x="{x_of(k):.1f}" y="{floor + 16}" text-anchor="middle">{k}</text>'
              for k in dict.fromkeys((*(k for k in K_TICKS if k < 0.8 * last or k == 1), last))]
    parts.append(f'<text class="tick" x="{WIDTH - RIGHT}" y="{CURVES_HEIGHT - 2}" text-anchor="end">k samples</text>')
    for each in series:
        ends = [(k, each.intervals.get(k)) for k in each.values]
        band = [(x_of(k), y_of(end[1])) for k, end in ends if end] + [(x_of(k), y_of(end[0])) for k, end in ends[::-1] if end]
        line = [(x_of(k), y_of(value)) for k, value in each.values.items()]
        parts.append(f'<polygon class="f{each.colour % COLOURS} band" points="{_points(band)}"/>'
                     f'<polyline class="s{each.colour % COLOURS}" points="{_points(line)}"/>')
    return _figure(title, CURVES_HEIGHT, parts, [(each.name, f"f{each.colour % COLOURS}") for each in series])


def dots(title: str, rows: Sequence[str], series: Sequence[Series]) -> str:
    """A value between 0 and 1 with its interval, for each row and series."""
    of_row = {row: [each for each in series if row in each.values] for row in rows}
    row_height = max(ROW_HEIGHT, DOT_HEIGHT * max(map(len, of_row.values())) + 10)
    floor = TOP + row_height * len(rows)
    parts = []
    for value in FIFTHS:
        x = f"{_across(value):.1f}"
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{TOP}" y2="{floor}"/>'
                     f'<text class="tick" x="{x}" y="{floor + 16}" text-anchor="middle">{100 * value:.0f}%</text>')
    for at, row in enumerate(rows):
        top = TOP + at * row_height
        parts.append(f'<line class="grid" x1="0" x2="{WIDTH - RIGHT}" y1="{top}" y2="{top}"/>'
                     f'<text class="label" x="{LABEL_WIDTH - 10}" y="{top + row_height / 2 + 4:.1f}" text-anchor="end">'
                     f"{escape(row)}</text>")
        for number, each in enumerate(of_row[row], start=1):
            y = top + row_height * number / (len(of_row[row]) + 1)
            ends, colour = each.intervals.get(row), each.colour % COLOURS
            parts.append((f'<line class="s{colour}" x1="{_across(ends[0]):.1f}" x2="{_across(ends[1]):.1f}" y1="{y:.1f}" '
                          f'y2="{y:.1f}"/>' if ends else "")
                         + f'<circle class="f{colour}" cx="{_across(each.values[row]):.1f}" cy="{y:.1f}" r="3.4">'
                         f"<title>{escape(each.name)}: {100 * each.values[row]:.1f}%</title></circle>")
    return _figure(title, floor + BOTTOM - 8, parts, [(each.name, f"f{each.colour % COLOURS}") for each in series])


def bars(title: str, rows: Mapping[str, Mapping[str, int]]) -> str:
    """Counts of each kind as shares of a row's sum, side by side."""
    floor = TOP + ROW_HEIGHT * len(rows)
    parts = [f'<text class="tick" x="{_across(value):.1f}" y="{floor + 16}" text-anchor="middle">{100 * value:.0f}%</text>'
             for value in FIFTHS]
    kinds = list(dict.fromkeys(kind for row in rows.values() for kind in row))
    for at, (name, row) in enumerate(rows.items()):
        top, begun, total = TOP + at * ROW_HEIGHT, 0, sum(row.values()) or 1
        parts.append(f'<text class="label" x="{LABEL_WIDTH - 10}" y="{top + ROW_HEIGHT / 2 + 4:.1f}" text-anchor="end">'
                     f"{escape(name)}</text>")
        for kind, number in row.items():
            left, right = _across(begun / total), _across((begun + number) / total)
            begun += number
            parts.append(f'<rect class="{_kind(kind)}" x="{left:.1f}" y="{top + 3}" width="{right - left:.1f}" '
                         f'height="{ROW_HEIGHT - 6}"><title>{escape(kind)}: {number} of {total}</title></rect>')
    return _figure(title, floor + BOTTOM - 8, parts, [(kind, _kind(kind)) for kind in kinds])


def _across(value: float) -> float:
    return LABEL_WIDTH + value * (WIDTH - LABEL_WIDTH - RIGHT - 10)


def _kind(kind: str) -> str:
    return "v-" + escape(kind.replace(" ", "-"))


def _points(places: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)


def _figure(title: str, height: float, parts: Sequence[str], legend: Sequence[tuple[str, str]]) -> str:
    names = "".join(f'<span><svg class="key" viewBox="0 0 10 10"><rect class="{kind}" width="10" height="10"/></svg>'
                    f"{escape(name)}</span>" for name, kind in legend)
    return (f'<figure><figcaption>{escape(title)}</figcaption><svg viewBox="0 0 {WIDTH} {height:g}" role="img" '
            f'aria-label="{escape(title)}">{"".join(parts)}</svg><p class="legend">{names}</p></figure>')
