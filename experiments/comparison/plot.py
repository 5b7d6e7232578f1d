"""A heat map of a matrix: methods down, defences across, a panel a victim."""

import pathlib
from collections.abc import Mapping
from typing import Any

import matplotlib

matplotlib.use("Agg")

import numpy as np
from comparison import table
from matplotlib import pyplot
from matplotlib.axes import Axes

from miue_jax import atomic


def heat_map(path: pathlib.Path, results: Mapping[str, Any]) -> None:
    """Draws the clean test accuracy of every cell that is done; the rest stays white.

    Args:
      path: the PNG file to write.
      results: what experiments/matrix.py wrote, with at least one cell.
    """
    victims = list(results["victims"])
    methods, defenses = (
        list(dict.fromkeys(cell[axis] for cell in results["cells"]))
        for axis in ("method", "defense")
    )
    size = (1.5 + 2.2 + 0.8 * len(defenses) * len(victims), 1.8 + 0.34 * len(methods))
    figure, axes = pyplot.subplots(
        1, len(victims), figsize=size, squeeze=False, sharey=True, layout="constrained"
    )
    shown = None
    for panel, victim in zip(axes[0], victims, strict=True):
        values = np.full((len(methods), len(defenses)), np.nan)
        for cell in results["cells"]:
            if cell["victim"] == victim:
                place = methods.index(cell["method"]), defenses.index(cell["defense"])
                values[place] = 100 * cell["final"]["mean"]
        shown = panel.imshow(values, vmin=0, vmax=100, cmap="viridis", aspect="auto")
        _annotate(panel, values)
        panel.set_title(victim)
        panel.set_xticks(range(len(defenses)), defenses, rotation=45, ha="right")
        names = [table.label(results, method) for method in methods]
        panel.set_yticks(range(len(methods)), names)
    assert shown is not None
    figure.colorbar(shown, ax=axes, label="clean test accuracy, %")
    with atomic.write_file(path) as file:
        figure.savefig(file, format="png", dpi=120)
    pyplot.close(figure)


def _annotate(panel: Axes, values: np.ndarray) -> None:
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            panel.text(
                column,
                row,
                f"{value:.0f}",
                ha="center",
                va="center",
                fontsize=8,
                color="white" if value < 60 else "black",
            )
