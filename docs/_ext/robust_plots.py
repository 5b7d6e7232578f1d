"""The plot of results/robust_cpu.json, on the page of the views."""

import pathlib
from typing import Any

from matplotlib import pyplot

_COLUMNS = {
    "none": "none",
    "grayscale": "gray",
    "jpeg_50": "JPEG 50",
    "jpeg_10": "JPEG 10",
}
_NAMES = {"base": "drawn in each step", "redraw_visit": "drawn once a visit"}
_COLORS = {"base": "tab:blue", "redraw_visit": "tab:orange"}
_MARKERS = {0: "o", 1: "s"}


def draw(folder: pathlib.Path, results: dict[str, Any]) -> None:
    """Draws what drawing views once a visit costs, over the training and in victims.

    Args:
      folder: of the PNG file.
      results: of the study.
    """
    figure, (left, right) = pyplot.subplots(
        1, 2, figsize=(9, 3.6), layout="constrained"
    )
    for seed, rows in results["perturbation_losses"].items():
        for row, points in rows.items():
            if row in _NAMES:
                steps, losses = zip(*points, strict=True)
                left.plot(
                    *(steps, losses),
                    color=_COLORS[row],
                    linestyle="-" if seed == "0" else "--",
                    label=f"{_NAMES[row]}, seed {seed}",
                )
    left.set_yscale("log")
    left.set_xlabel("visits of a batch")
    left.set_ylabel("loss before the visit moves them")
    left.legend(fontsize=8)
    for cell in results["accuracies"]:
        if cell["victim"] != "resnet10" or cell["defense"] not in _COLUMNS:
            continue
        if cell["generator"] not in _NAMES:
            continue
        column = list(_COLUMNS).index(cell["defense"])
        shift = list(_NAMES).index(cell["generator"]) * 0.3 - 0.15
        for (seed, _), value in zip(cell["seeds"], cell["values"], strict=True):
            right.plot(
                *(column + shift + 0.1 * (seed - 0.5), 100 * value),
                marker=_MARKERS[seed],
                color=_COLORS[cell["generator"]],
                alpha=0.8,
            )
    right.set_xticks(range(len(_COLUMNS)), _COLUMNS.values())
    right.set_ylabel("accuracy of the victim on clean images, %")
    right.set_ylim(0, 60)
    right.set_title("circles: generator seed 0, squares: 1", fontsize=9)
    figure.savefig(folder / "robust.png", dpi=150)
    pyplot.close(figure)
