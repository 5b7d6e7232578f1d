"""Plots of measurements: against accuracy, over layers, over noise."""

import math
import pathlib
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from miue_jax.data import atomic
from miue_jax.workflows.measure import summary

Entries = list[dict[str, Any]]

_TITLES = {
    "class_conditional_gaussian": "class-conditional Gaussian",
    "ksg_conditional_pca": "KSG within classes, PCA",
    "ksg_conditional_cca": "KSG within classes, CCA",
    "infonce": "InfoNCE (lower bound)",
    "smile": "SMILE",
    "ksg": "KSG, pooled",
    "sliced": "sliced (moves the wrong way)",
    "within_classes": "W (middle of the noise grid)",
    "label_information_clean": "I(Y; Zc), lower bound",
    "label_information_protected": "I(Y; Zp), lower bound",
}
_MARKERS = "os^DvPX*"


def accuracy(
    file: pathlib.Path, entries: Entries, correlations: Entries, layer: str
) -> None:
    """Plots every measure at one layer against the accuracy of the victim.

    Args:
      file: the PNG to write.
      entries: of the results.
      correlations: from `summary.correlations`.
      layer: which layer.
    """
    shown = [entry for entry in entries if entry["layer"] == layer]
    rho = {c["measure"]: c for c in correlations if c["layer"] == layer}
    figure, panels = _panels(list(_TITLES))
    color, marker = _colors(entries), _markers(entries)
    for name, panel in panels.items():
        for entry in shown:
            value = summary.measures(entry).get(name)
            if value is None:
                continue
            shade = color[entry["generator"]]
            panel.plot(
                value,
                100 * entry["accuracy"],
                marker[entry["depth"]],
                color=shade,
                markerfacecolor=shade if entry["held_out"] else "none",
            )
        found = rho.get(name)
        text = "" if found is None else f"{found['victims']} victims"
        if found is not None and found["spearman"] is not None:
            text = rf"Spearman {found['spearman']:+.2f}, {text}"
        panel.set_title(f"{_TITLES[name]}\n{text}", fontsize=9)
        panel.set_xlabel("nats", fontsize=8)
        panel.locator_params(axis="x", nbins=5)
    figure.supylabel("accuracy of the victim on clean images, %", fontsize=9)
    _legend(figure, [_handle(n, c, "o") for n, c in color.items()], marker)
    figure.suptitle(f"layer {layer!r}{_caution(shown)}", fontsize=10)
    _save(figure, file)


def layers(file: pathlib.Path, entries: Entries, checks: Entries) -> None:
    """Plots every measure over the layers, in order of depth.

    Args:
      file: the PNG to write.
      entries: of the results.
      checks: from `summary.data_processing`; rises that contradict it are ringed.
    """
    order = list(dict.fromkeys(entry["layer"] for entry in entries))
    order.sort(key=lambda name: max(e["index"] for e in entries if e["layer"] == name))
    figure, panels = _panels(list(_TITLES))
    color, marker = _colors(entries), _markers(entries)
    contradicted = {
        (c["victim"], c["seed"], c["estimator"], c["deeper"])
        for c in checks
        if c["contradicts"]
    }
    for name, panel in panels.items():
        points: dict[tuple, list[tuple[int, float, dict[str, Any]]]] = {}
        for entry in entries:
            value = summary.measures(entry).get(name)
            if value is not None:
                victim = entry["victim"], entry["seed"]
                place = order.index(entry["layer"])
                points.setdefault(victim, []).append((place, value, entry))
        for victim, line in points.items():
            x, y, of = zip(*line, strict=True)
            panel.plot(
                *(x, y),
                color=color[of[0]["generator"]],
                marker=marker[of[0]["depth"]],
                markersize=4,
                linestyle="-" if of[0]["held_out"] else "--",
                linewidth=1,
            )
            for place, value, entry in line:
                if (*victim, name, entry["layer"]) in contradicted:
                    panel.plot(place, value, "o", ms=11, mfc="none", mec="red")
        panel.set_title(_TITLES[name], fontsize=9)
        panel.set_xticks(range(len(order)), order, fontsize=7, rotation=30)
    figure.supylabel("nats", fontsize=9)
    ring = _handle("rise that no information has (T11)", "red", "o", mfc="none", ms=9)
    _legend(
        figure,
        [Line2D([], [], color=c, label=n) for n, c in color.items()],
        marker,
        [ring] if contradicted else [],
    )
    figure.suptitle(
        f"maps averaged over space: T11 binds only from vectors on{_caution(entries)}",
        fontsize=10,
    )
    _save(figure, file)


def noise(file: pathlib.Path, entries: Entries, layer: str) -> None:
    """Plots the bracket at one layer over the noise variance, one panel per victim.

    Args:
      file: the PNG to write; none where no victim has a bracket.
      entries: of the results.
      layer: which layer.
    """
    shown = [
        e for e in entries if e["layer"] == layer and "problem" not in e["bracket"]
    ]
    if not shown:
        return
    figure, panels = _panels([f"{e['victim']}, seed {e['seed']}" for e in shown])
    for entry, (title, panel) in zip(shown, panels.items(), strict=True):
        bracket = entry["bracket"]
        grid = {k: [g[k] for g in bracket["grid"]] for k in bracket["grid"][0]}
        for side, style, color, label in (
            ("upper", "-", "tab:red", "upper: H(Y) + W"),
            ("upper_limit", "--", "tab:red", "upper limit, from cosines"),
            ("all_classes", "-", "tab:orange", "upper: all classes as one"),
            ("lower", "-", "tab:blue", "lower: H(Y) - CE - CE"),
            ("lower_limit", "--", "tab:blue", "lower limit"),
        ):
            panel.plot(
                grid["noise_variance"], grid[side], style, color=color, label=label
            )
        panel.axhline(bracket["entropy"], color="gray", linestyle=":", label="H(Y)")
        panel.set_xscale("log")
        bottom = min(0, *grid["lower_limit"]) - 0.5
        panel.set_ylim(bottom, 5 * bracket["entropy"])
        if not entry["held_out"]:
            title += "\ntraining images"
        panel.set_title(title, fontsize=9)
        panel.set_xlabel("$\\sigma^2$ (features of unit norm)", fontsize=8)
    figure.supylabel("nats", fontsize=9)
    handles, labels = next(iter(panels.values())).get_legend_handles_labels()
    # One panel is narrow.
    figure.legend(
        *(handles, labels),
        loc="outside lower center",
        ncols=2 if len(panels) == 1 else 3 if len(panels) == 2 else 6,
        fontsize=8,
    )
    figure.suptitle(
        rf"bracket of I(Zc; Zp + $\sigma$N), layer {layer!r}{_caution(shown)}",
        fontsize=10,
    )
    _save(figure, file)


def _panels(names: list[str]) -> tuple[Figure, dict[str, Axes]]:
    columns = min(5, len(names))
    rows = math.ceil(len(names) / columns)
    figure, axes = pyplot.subplots(
        rows,
        columns,
        figsize=(max(5, 2.9 * columns), 2.7 * rows + 0.9),
        squeeze=False,
        layout="constrained",
    )
    for spare in axes.flat[len(names) :]:
        spare.set_visible(False)
    return figure, dict(zip(names, axes.flat, strict=False))


def _colors(entries: Entries) -> dict[str, str]:
    names = dict.fromkeys(e["generator"] for e in entries)
    shades = pyplot.get_cmap("tab10")
    return {n: matplotlib.colors.to_hex(shades(i % 10)) for i, n in enumerate(names)}


def _markers(entries: Entries) -> dict[Any, str]:
    depths = dict.fromkeys(e["depth"] for e in entries)
    return {d: _MARKERS[i % len(_MARKERS)] for i, d in enumerate(depths)}


def _handle(label: str, color: str, marker: str, **options: Any) -> Line2D:
    return Line2D(
        [], [], marker=marker, linestyle="", color=color, label=label, **options
    )


def _legend(
    figure: Figure,
    handles: list[Line2D],
    marker: dict[Any, str],
    more: list[Line2D] | None = None,
) -> None:
    depths = {d: m for d, m in marker.items() if d is not None}
    handles += [_handle(f"depth {d}", "gray", m) for d, m in depths.items()]
    handles += more or []
    figure.legend(handles=handles, loc="outside lower center", ncols=8, fontsize=8)


def _caution(entries: Entries) -> str:
    if all(entry["held_out"] for entry in entries):
        return ""
    return "; hollow or dashed: measured on TRAINING images (T12)"


def _save(figure: Figure, file: pathlib.Path) -> None:
    for panel in figure.axes:
        panel.grid(alpha=0.3)
        panel.tick_params(labelsize=7)
    with atomic.write_file(file) as stream:
        figure.savefig(stream, format="png", dpi=110)
    pyplot.close(figure)
