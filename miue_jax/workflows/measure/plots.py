"""Pictures of measurements: against accuracy, over layers, over noise."""

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
    file: pathlib.Path,
    entries: list[dict[str, Any]],
    correlations: list[dict[str, Any]],
    layer: str,
) -> None:
    """Every measure at one layer against the accuracy of the victim.

    Args:
      file: the PNG to write.
      entries: of the results.
      correlations: from `summary.correlations`.
      layer: which layer.
    """
    own = [entry for entry in entries if entry["layer"] == layer]
    rho = {c["measure"]: c for c in correlations if c["layer"] == layer}
    figure, panels = _panels(list(_TITLES))
    color, marker = _colors(entries), _markers(entries)
    for name, panel in panels.items():
        for entry in own:
            value = summary.measures(entry).get(name)
            if value is None:
                continue
            shade = color[entry["method"]]
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
    handles = [
        Line2D([], [], marker="o", linestyle="", color=c, label=m)
        for m, c in color.items()
    ]
    handles += [
        Line2D([], [], marker=m, linestyle="", color="gray", label=f"depth {d}")
        for d, m in marker.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=8, fontsize=8)
    figure.suptitle(f"layer {layer!r}{_caution(own)}", fontsize=10)
    _save(figure, file)


def layers(
    file: pathlib.Path,
    entries: list[dict[str, Any]],
    checks: list[dict[str, Any]],
) -> None:
    """Every measure over the layers, in order of depth.

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
        for victim in dict.fromkeys((e["victim"], e["seed"]) for e in entries):
            own = [e for e in entries if (e["victim"], e["seed"]) == victim]
            values = [summary.measures(e).get(name) for e in own]
            points = [
                (order.index(e["layer"]), v, e)
                for e, v in zip(own, values, strict=True)
                if v is not None
            ]
            if not points:
                continue
            shade = color[own[0]["method"]]
            x, y = [p[0] for p in points], [p[1] for p in points]
            panel.plot(
                x,
                y,
                color=shade,
                marker=marker[own[0]["depth"]],
                markersize=4,
                linestyle="-" if own[0]["held_out"] else "--",
                linewidth=1,
            )
            for place, value, entry in points:
                if (*victim, name, entry["layer"]) in contradicted:
                    panel.plot(place, value, "o", ms=11, mfc="none", mec="red")
        panel.set_title(_TITLES[name], fontsize=9)
        panel.set_xticks(range(len(order)), order, fontsize=7, rotation=30)
    figure.supylabel("nats", fontsize=9)
    handles = [Line2D([], [], color=c, label=m) for m, c in color.items()]
    handles += [
        Line2D([], [], marker=m, linestyle="", color="gray", label=f"depth {d}")
        for d, m in marker.items()
    ]
    if contradicted:
        handles.append(
            Line2D(
                [],
                [],
                marker="o",
                linestyle="",
                markersize=9,
                markerfacecolor="none",
                color="red",
                label="rise that no information has (T11)",
            )
        )
    figure.legend(handles=handles, loc="outside lower center", ncols=8, fontsize=8)
    figure.suptitle(
        f"maps averaged over space: T11 binds only from vectors on{_caution(entries)}",
        fontsize=10,
    )
    _save(figure, file)


def noise(file: pathlib.Path, entries: list[dict[str, Any]], layer: str) -> None:
    """The bracket at one layer over the noise variance, a panel for each victim.

    Args:
      file: the PNG to write.
      entries: of the results.
      layer: which layer.
    """
    own = [e for e in entries if e["layer"] == layer and "problem" not in e["bracket"]]
    if not own:
        return
    names = [f"{e['victim']}, seed {e['seed']}" for e in own]
    figure, panels = _panels(names)
    for entry, panel in zip(own, panels.values(), strict=True):
        bracket = entry["bracket"]
        grid = {k: [g[k] for g in bracket["grid"]] for k in bracket["grid"][0]}
        x = grid["noise_variance"]
        panel.plot(x, grid["upper"], color="tab:red", label="upper: H(Y) + W")
        panel.plot(
            x,
            grid["upper_limit"],
            "--",
            color="tab:red",
            label="upper limit, from cosines",
        )
        panel.plot(
            x,
            grid["all_classes"],
            color="tab:orange",
            label="upper: all classes as one",
        )
        panel.plot(x, grid["lower"], color="tab:blue", label="lower: H(Y) - CE - CE")
        panel.plot(x, grid["lower_limit"], "--", color="tab:blue", label="lower limit")
        panel.axhline(bracket["entropy"], color="gray", linestyle=":", label="H(Y)")
        panel.set_xscale("log")
        bottom = min(0, *grid["lower_limit"]) - 0.5
        panel.set_ylim(bottom, 5 * bracket["entropy"])
        title = f"{entry['victim']}, seed {entry['seed']}"
        if not entry["held_out"]:
            title += "\ntraining images"
        panel.set_title(title, fontsize=9)
        panel.set_xlabel("$\\sigma^2$ (features of unit norm)", fontsize=8)
    figure.supylabel("nats", fontsize=9)
    handles, labels = next(iter(panels.values())).get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, fontsize=8)
    figure.suptitle(
        rf"bracket of I(Zc; Zp + $\sigma$N), layer {layer!r}{_caution(own)}",
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


def _colors(entries: list[dict[str, Any]]) -> dict[str, str]:
    methods = dict.fromkeys(e["method"] for e in entries)
    shades = pyplot.get_cmap("tab10")
    return {m: matplotlib.colors.to_hex(shades(i % 10)) for i, m in enumerate(methods)}


def _markers(entries: list[dict[str, Any]]) -> dict[Any, str]:
    depths = dict.fromkeys(e["depth"] for e in entries)
    return {d: _MARKERS[i % len(_MARKERS)] for i, d in enumerate(depths)}


def _caution(entries: list[dict[str, Any]]) -> str:
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
