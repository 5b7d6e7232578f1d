"""A plot of estimates against true mutual information, one panel per estimator."""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

try:
    import matplotlib
except ImportError as error:
    message = "the plots need matplotlib: pip install 'miue_jax[plots]'"
    raise SystemExit(message) from error

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes

from miue_jax.data import atomic

_COLUMNS = 3
_GROUPS = (("at most 5 dimensions", "o", "tab:blue"), ("more", "s", "tab:orange"))


def estimates(
    path: pathlib.Path, rows: Sequence[Mapping[str, Any]], titles: Mapping[str, str]
) -> None:
    """Draws every estimate, the identity line, and the limits of an estimator.

    The limits are log N, about the largest value that N samples can certify, and for
    InfoNCE log K; the corner of a panel names those beyond it, and the number of
    estimates beyond it: more than the largest truth below 0 or above that truth.

    Args:
      path: the PNG file to write.
      rows: of one size, of `measuring.measure` with the fields of `cell_log.Cell`.
      titles: what to call the estimators, by label; one without rows has no panel.
    """
    shown = [t for t in titles if any(row["estimator"] == t for row in rows)]
    height = -(-len(shown) // _COLUMNS)
    figure, axes = pyplot.subplots(
        height,
        _COLUMNS,
        figsize=(4 * _COLUMNS, 3.6 * height + 0.6),
        squeeze=False,
        sharex=True,
        sharey=True,
        layout="constrained",
    )
    values = [row["estimate"] for row in rows if row["failure"] is None]
    top = max([0.1, *(row["truth"] for row in rows)])
    # One estimate that is far off must not hide all the others.
    lowest, highest = max(min([0, *values]), -top), min(max([top, *values]), 2 * top)
    margin = 0.05 * (highest - lowest)
    for panel, label in zip(axes.flat, shown, strict=False):
        panel.set_xlim(-0.05 * top, 1.05 * top)
        panel.set_ylim(lowest - margin, highest + margin)
        _panel(panel, [row for row in rows if row["estimator"] == label])
        panel.set_title(titles[label], fontsize=10)
    for panel in axes.flat[len(shown) :]:
        panel.set_axis_off()
    for panel in axes[:, 0]:
        panel.set_ylabel("estimate, nats")
    for j in range(_COLUMNS):
        above = [panel for panel in axes[:, j] if panel.axison]
        if above:
            above[-1].set_xlabel("truth, nats")
            above[-1].tick_params(labelbottom=True)
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=4, fontsize=9)
    with atomic.write_file(path) as file:
        figure.savefig(file, format="png", dpi=100)
    pyplot.close(figure)


def _panel(panel: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    panel.axline((0, 0), slope=1, color="gray", lw=1, label="truth")
    low, high = panel.get_ylim()
    outside = 0
    for number, (name, marker, color) in enumerate(_GROUPS):
        good = [
            row
            for row in rows
            if row["failure"] is None
            and (max(row["dim_x"], row["dim_y"]) > 5) == bool(number)
        ]
        panel.plot(
            [row["truth"] for row in good],
            [row["estimate"] for row in good],
            marker,
            color=color,
            alpha=0.6,
            markersize=4,
            label=name,
        )
        outside += sum(not low <= row["estimate"] <= high for row in good)
    notes = []
    for name, value in _ceilings(rows).items():
        notes.append(f"{name} = {value:.2f}")
        panel.axhline(value, color="tab:red", lw=1, ls="--")
    failed = sum(row["failure"] is not None for row in rows)
    if failed:
        notes.append(f"{failed} without a value")
    if outside:
        notes.append(f"{outside} beyond the plot")
    panel.text(
        0.03, 0.97, "\n".join(notes), transform=panel.transAxes, va="top", fontsize=8
    )


def _ceilings(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Log N, of the evaluation samples where there are some, and log K."""
    found = {"log N": math.log(rows[0]["size"])}
    for row in rows:
        notes = row.get("diagnostics", {})
        for name, diagnostic in (("log N", "log_samples"), ("log K", "ceiling")):
            if notes.get(diagnostic) is not None:
                found[name] = notes[diagnostic]
    return found
