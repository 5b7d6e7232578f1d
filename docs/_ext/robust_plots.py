"""Plots of robust_cpu.json and robust_information.json, on the page of the views."""

import pathlib
from typing import Any

from matplotlib import pyplot

from miue_jax.workflows.measure import summary

_COLUMNS = {
    "none": "none",
    "grayscale": "gray",
    "jpeg_50": "JPEG 50",
    "jpeg_10": "JPEG 10",
}
_NAMES = {"base": "drawn in each step", "redraw_visit": "drawn once a visit"}
_COLORS = {"base": "tab:blue", "redraw_visit": "tab:orange"}
_MARKERS = {0: "o", 1: "s"}
_CHANGES = {
    "gradient_surviving": "mi_ue/robust",
    "surviving_to_0_6": "steps down to 0.6",
    "surviving_plain_30": "30 % plain",
    "surviving_noise_4": "noise for the surrogate",
    "surviving_mixed": "30 % similarity",
    "surviving_class_means": "... to class means",
    "surviving_epochs_8": "8 epochs",
    "surviving_steps_4": "four steps a visit",
    "surviving_smooth_4": "4 levels where it is smooth",
    "base": "identity's gradient",
    "base_again": "the same, rounded otherwise",
    "steps_to_0_6": "... and steps down to 0.6",
    "epochs_30": "... and 30 epochs",
    "epochs_8": "... and 8 epochs",
    "pgd_steps_4": "... and four steps",
    "quality_5_20": "... and quality 5 to 20",
    "gradient_soft": "soft rounding's gradient",
    "batch_mixed": "identity, 30 % similarity",
    "views_robust_visit": "identity, all views, once a visit",
}
_GENERATORS = {
    "clean": ("clean", "tab:gray"),
    "error_minimizing_interleaved": ("EM", "tab:orange"),
    "mi_ue_interleaved": ("MI-UE", "tab:green"),
    "mi_ue_robust": ("mi_ue/robust", "tab:blue"),
}
_DEFENSES = {
    "none": ("none", "o"),
    "jpeg-10": ("JPEG 10", "s"),
    "jpeg-50": ("JPEG 50", "^"),
    "grayscale": ("gray", "D"),
}
_MEASURES = {
    "ksg_conditional_pca": "KSG within classes",
    "within_classes": "bound within classes, W",
}
_CHANGE_COLORS = {"none": "tab:green", "jpeg_50": "tab:purple", "jpeg_10": "tab:red"}


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


def draw_changes(folder: pathlib.Path, results: dict[str, Any]) -> None:
    """Draws what single changes to `mi_ue/robust` do, of the generator's first seed.

    Args:
      folder: of the PNG file.
      results: of the study.
    """
    found = {
        (cell["generator"], cell["defense"]): [
            100 * value
            for (seed, _), value in zip(cell["seeds"], cell["values"], strict=True)
            if seed == 0
        ]
        for cell in results["accuracies"]
        if cell["victim"] == "resnet10"
    }
    rows = [row for row in _CHANGES if (row, "none") in found]
    figure, axes = pyplot.subplots(figsize=(7, 0.6 + 0.5 * len(rows)), layout="tight")
    for column, color in _CHANGE_COLORS.items():
        for place, row in enumerate(rows):
            values = found.get((row, column), [])
            first = place == 0
            axes.plot(
                *(values, [place] * len(values)),
                marker="o",
                linestyle="none",
                color=color,
                alpha=0.8,
                label=_COLUMNS[column] if first else None,
            )
    axes.set_yticks(range(len(rows)), [_CHANGES[row] for row in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, 60)
    axes.set_xlabel("accuracy of the victim on clean images, %")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize=8, loc="upper right")
    figure.savefig(folder / "robust_changes.png", dpi=150)
    pyplot.close(figure)


def draw_information(folder: pathlib.Path, results: dict[str, Any]) -> None:
    """Draws the information between compressed images against accuracy behind that.

    Args:
      folder: of the PNG file.
      results: of the measurement.
    """
    rho = {entry["measure"]: entry["spearman"] for entry in results["correlations"]}
    figure, panels = pyplot.subplots(
        1, len(_MEASURES), figsize=(9, 3.8), sharey=True, layout="constrained"
    )
    for panel, (measure, title) in zip(panels, _MEASURES.items(), strict=True):
        for entry in results["entries"]:
            generator = entry["generator"]
            defense = entry["victim"].removeprefix(f"{generator}-")
            panel.plot(
                summary.measures(entry)[measure],
                100 * entry["accuracy"],
                marker=_DEFENSES[defense][1],
                color=_GENERATORS[generator][1],
                linestyle="none",
                alpha=0.8,
            )
        panel.set_title(f"{title}\nSpearman {rho[measure]:.2f}", fontsize=10)
        panel.set_xlabel("nats")
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("accuracy of the victim on clean images, %")
    for name, color in _GENERATORS.values():
        panels[0].plot([], [], "o", color=color, label=name)
    for name, marker in _DEFENSES.values():
        panels[1].plot([], [], marker, color="black", label=name)
    for panel in panels:
        panel.legend(fontsize=8, loc="upper left")
    figure.savefig(folder / "robust_information.png", dpi=150)
    pyplot.close(figure)
