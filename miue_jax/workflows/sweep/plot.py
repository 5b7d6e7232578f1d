"""A heat map of a sweep: generators down, defenses across, one panel per victim."""

import textwrap
from collections.abc import Mapping
from typing import Any

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib import pyplot
from matplotlib.axes import Axes

from miue_jax.data import atomic
from miue_jax.data.bucket import Place
from miue_jax.workflows.sweep import table


def heat_map(path: Place, results: Mapping[str, Any]) -> None:
    """Draws the clean test accuracy of every cell that is done; the rest stays white.

    In a cell stand the mean and, of several seeds, the standard deviation and their
    number; below all of them where the numbers come from.

    Args:
      path: the PNG file to write.
      results: what `sweep` returned.
    """
    victims = list(results["victims"])
    columns = {victim: table.axes(results, victim)[1] for victim in victims}
    generators, _ = table.axes(results, victims[0])
    counts = [len(columns[victim]) for victim in victims]
    width = 4 + 0.95 * sum(counts)
    caption = textwrap.wrap(table.origin(results), int(16 * width))
    size = (width, 1.8 + 0.42 * len(generators) + 0.14 * len(caption))
    figure, axes = pyplot.subplots(
        *(1, len(victims)),
        figsize=size,
        squeeze=False,
        sharey=True,
        layout="constrained",
        width_ratios=counts,
    )
    shown = None
    for panel, victim in zip(axes[0], victims, strict=True):
        defenses = columns[victim]
        values = np.full((len(generators), len(defenses)), np.nan)
        for cell in results["cells"]:
            if cell["victim"] == victim:
                place = (
                    generators.index(cell["generator"]),
                    defenses.index(cell["defense"]),
                )
                values[place] = 100 * cell["final"]["mean"]
                _annotate(panel, place, cell["final"])
        shown = panel.imshow(values, vmin=0, vmax=100, cmap="viridis", aspect="auto")
        panel.set_title(victim)
        panel.set_xticks(range(len(defenses)), defenses, rotation=45, ha="right")
        names = [table.label(results, generator) for generator in generators]
        panel.set_yticks(range(len(generators)), names)
    assert shown is not None
    figure.supxlabel("\n".join(caption), fontsize=6, x=0.01, ha="left")
    figure.colorbar(shown, ax=axes, label="clean test accuracy, %")
    with atomic.write_file(path) as file:
        figure.savefig(file, format="png", dpi=120)
    pyplot.close(figure)


def _annotate(panel: Axes, place: tuple[int, int], final: Mapping[str, Any]) -> None:
    row, column = place
    mean, deviation = 100 * final["mean"], final["std"]
    text = f"{mean:.0f}"
    if deviation is not None:
        text += f"\n±{100 * deviation:.1f} ({len(final['values'])})"
    color = "white" if mean < 60 else "black"
    options = {"ha": "center", "va": "center", "fontsize": 7, "color": color}
    panel.text(column, row, text, **options)
