"""The lengths of a dataset's documents as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from megatron_ft import cli
from megatron_ft.data.indexed import Dataset
from megatron_ft.data.pairs import Pair
from megatron_ft.data.report import edges_of, percent
from megatron_ft.errors import ConfigError, DataError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = (".png", ".svg", ".pdf")
USUAL_ROWS = (2048, 4096, 8192, 1024, 16384, 512, 32768, 256, 128)
"""Row lengths to mark, the most usual first: it is what stays where labels would cover one another."""
SUPERVISED, PROMPT, COUNT, LINE = "#2e8b57", "#c9ced6", "#4a6fa5", "#8a8f98"


def require_writable(path: str | Path) -> Path:
    """The picture's path, if it can be written; ConfigError says why not."""
    path = Path(path)
    if path.suffix not in FORMATS:
        raise ConfigError(f"--plot: {path} ends in '{path.suffix}'; end it in one of {', '.join(FORMATS)}")
    return cli.require_absent(path, option="--plot")


def plot(dataset: Dataset | Pair, path: Path, *, row_tokens: int | None = None) -> None:
    """Draw documents by length, and below them the tokens that these hold; whole or absent.

    Args:
        row_tokens: length of a row to mark beside the usual ones.
    """
    import matplotlib

    matplotlib.use("Agg")  # a compute node has no display
    from matplotlib import pyplot

    if not dataset.documents:
        raise DataError(f"{dataset.prefix}: holds no document, so there is nothing to draw")
    figure, (top, bottom) = pyplot.subplots(2, 1, figsize=(9, 6), sharex=True, height_ratios=(1, 1), layout="constrained")
    _draw(top, bottom, dataset)
    _mark_rows(top, bottom, dataset.lengths, row_tokens)
    tokens, supervised = (int(column.sum(dtype=np.int64)) for column in (dataset.lengths, dataset.supervised))
    top.set_title(f"{Path(dataset.prefix).name}: {dataset.documents:,} documents, {tokens:,} tokens, "
                  f"{supervised / tokens:.1%} supervised", loc="left", fontsize=12, pad=30)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    figure.savefig(partial, format=path.suffix[1:], dpi=150)
    pyplot.close(figure)
    partial.rename(path)


def _draw(top: Axes, bottom: Axes, dataset: Dataset | Pair) -> None:
    lengths, answers = dataset.lengths, dataset.supervised
    edges = edges_of(lengths, per_doubling=6 if lengths.max() > 8 * lengths.min() else 24)
    bounds = [*edges[:-1], edges[-1] - 0.5]
    counts = np.histogram(lengths, bounds)[0]
    tokens = np.histogram(lengths, bounds, weights=lengths)[0]
    supervised = np.histogram(lengths, bounds, weights=answers)[0]
    places = {"x": edges[:-1], "width": np.diff(edges), "align": "edge", "edgecolor": "white", "linewidth": 0.6}
    top.bar(height=counts, color=COUNT, **places)
    bottom.bar(height=supervised, color=SUPERVISED, label="supervised", **places)
    bottom.bar(height=tokens - supervised, bottom=supervised, color=PROMPT, label="prompt (no loss)", **places)
    bottom.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0, fontsize=9)
    top.set_ylabel("documents")
    bottom.set(ylabel="tokens in them", xlabel="tokens of a document")
    bottom.set_xscale("log", base=2)
    bottom.set_xlim(edges[0] / 1.05, edges[-1] * 1.05)
    for axes in (top, bottom):
        axes.yaxis.get_major_locator().set_params(integer=True)
        axes.yaxis.set_major_formatter(lambda value, _: _short(value))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.grid(axis="y", color="#e3e5e8", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)


def _mark_rows(top: Axes, bottom: Axes, lengths: np.ndarray, row_tokens: int | None) -> None:
    """A line at `row_tokens` and at the usual row lengths from half of the documents' fit to that of all."""
    enough = min((rows for rows in USUAL_ROWS if rows + 1 >= lengths.max()), default=max(USUAL_ROWS))
    candidates = [row_tokens] if row_tokens else []
    candidates += [rows for rows in USUAL_ROWS if rows <= enough and np.median(lengths) <= rows + 1]
    low, high = bottom.get_xlim()
    high = max(high, 1.2 * max(candidates, default=0))
    chosen: list[int] = []
    for rows in candidates:
        if all(abs(np.log(rows / other)) > 0.11 * np.log(high / low) for other in chosen):
            chosen.append(rows)
    for rows in chosen:
        for axes in (top, bottom):
            axes.axvline(rows + 1, color=LINE, linewidth=1.8 if rows == row_tokens else 1.0, linestyle=(0, (4, 3)))
        share = float((lengths <= rows + 1).mean())
        top.annotate(f"rows of {rows:,}\n{percent(share)} fit", (rows + 1, 1), xycoords=("data", "axes fraction"),
                     xytext=(0, 3), textcoords="offset points", ha="center", va="bottom", fontsize=8, color="#555b64")
    bottom.set_xlim(min([low, *[rows / 1.2 for rows in chosen]]), high)


def _short(value: float) -> str:
    """A number for an axis.

    >>> _short(0), _short(2500), _short(3e6)
    ('0', '2.5k', '3M')
    """
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"
