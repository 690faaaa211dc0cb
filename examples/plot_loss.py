"""Draw the training and validation loss of a run into a PNG.

    python examples/plot_loss.py runs/demo/run --output runs/demo/loss.png
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_ft import cli, log
from megatron_ft.errors import DataError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

METRICS_FILE = "metrics.jsonl"
SERIES = (("loss", "training", "#1f5fa8", "-"), ("valid_loss", "validation (held out)", "#c2571a", "--"))
"""Key of metrics.jsonl, how it is called, colour and line; told apart without colours too."""


def read_losses(run: Path, key: str) -> tuple[list[int], list[float]]:
    """Steps and values of one kind of loss."""
    path = run / METRICS_FILE
    if not path.is_file():
        raise DataError(f"{path}: no such file; give the run.dir of a training run")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    found = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
    return [step for step, _ in found], [value for _, value in found]


def draw(axes: Axes, run: Path) -> None:
    """Both curves, each named at its right end with its last value."""
    curves = [(*read_losses(run, key), name, colour, line) for key, name, colour, line in SERIES]
    curves = sorted((curve for curve in curves if curve[0]), key=lambda curve: curve[1][-1])
    if not curves:
        raise DataError(f"{run / METRICS_FILE}: holds no loss yet; wait for the run's first log line")
    for height, (steps, values, name, colour, line) in enumerate(curves):
        axes.plot(steps, values, line, color=colour, linewidth=2, marker="o" if line == "--" else None, markersize=4,
                  clip_on=False)
        # The lower curve's label hangs and the upper one's stands, so that they never cover each other.
        axes.annotate(f"{name}: {values[-1]:.3g}", (steps[-1], values[-1]), xytext=(8, 6 * height),
                      textcoords="offset points", color=colour, va="bottom" if height else "center", fontsize=10)
    axes.set(xlabel="optimizer step", ylabel="loss (nats per supervised token)", ylim=(0, None),
             xlim=(0, max(steps[-1] for steps, *_ in curves)))
    axes.set_title(f"Loss of {run}", loc="left", fontsize=11)
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)


def plot(run: Path, output: Path) -> None:
    """Write the picture."""
    import matplotlib

    matplotlib.use("Agg")  # a compute node has no display
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5))
    draw(axes, run)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=150, bbox_inches="tight")
    pyplot.close(figure)


def main() -> None:
    """Parse the command line and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN_DIR", help="run.dir of a training run")
    parser.add_argument("--output", type=Path, help="PNG to write (default: RUN_DIR/loss.png)")
    given = parser.parse_args()
    output = given.output or given.run / "loss.png"
    plot(given.run, output)
    log.get().info("%s: the loss curves of %s", output, given.run)


if __name__ == "__main__":
    cli.main(main)
