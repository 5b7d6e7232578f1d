"""Plots of the bounds: along the path, against cosine, accuracy and resolution."""

import pathlib

import jax

try:
    import matplotlib
except ImportError as error:
    message = "the plots need matplotlib: pip install 'miue_jax[plots]'"
    raise SystemExit(message) from error

matplotlib.use("Agg")

import numpy as np
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from theory import finite, path, samples

from miue_jax.data import atomic
from miue_jax.information import bounds

_EXACT = {"color": "black", "fmt": "o", "markersize": 5, "capsize": 3, "zorder": 5}
_UPPER = ("tab:red", "tab:brown", "tab:orange", "tab:purple")
_LOWER = "tab:blue"


def bound_stack(file: pathlib.Path, found: dict[str, path.Path]) -> None:
    """Lower bounds, exact information and upper bounds along the poisoning path.

    Args:
      file: the PNG to write.
      found: from `path.both`.
    """
    figure, axes = pyplot.subplots(1, len(found), figsize=(11, 4.6), sharey=True)
    for panel, (kind, (value, error, amgm)) in zip(axes, found.items(), strict=True):
        t, top = np.asarray(path.SCALES), np.log(path.CLASSES)
        label = value.label_clean
        uppers = {
            "H(Y) + W": (top + value.logdet, (0, (1, 1)), 3.0),
            "I(c;Y) + AM-GM of the trace": (label + amgm, "--", 1.5),
            "I(c;Y) + W": (label + value.logdet, "-", 1.2),
            "I(c;Y) + I(c;p|Y)": (label + value.within_class, "-", 1.2),
        }
        for (name, (line, style, width)), color in zip(
            uppers.items(), _UPPER, strict=True
        ):
            panel.plot(t, line, color=color, ls=style, lw=width, label=f"upper: {name}")
        # Marks without a line: where bounds are tight they would be hidden by it.
        panel.errorbar(t, value.total, 2 * error.total, label="exact I(c;p)", **_EXACT)
        panel.plot(
            t, label - value.residual, color=_LOWER, label="lower: I(c;Y) - H(Y|p)"
        )
        panel.set_title(f"{kind} clean features")
        panel.set_xlabel("within-class scale t of poisoned features")
        panel.set_ylim(bottom=0)
        panel.invert_xaxis()
    axes[0].set_ylabel("nats")
    axes[1].legend(fontsize=8)
    _save(figure, file)


def cosine(file: pathlib.Path, key: jax.Array, number: int) -> None:
    """Information and its bounds against the mean intra-class cosine.

    Args:
      file: the PNG to write.
      key: for points and noise.
      number: points of the cluster.
    """
    spreads = np.geomspace(0.01, 3, samples.SETTINGS)
    figure, axes = pyplot.subplots(1, len(samples.DIMS), figsize=(11, 4.6), sharey=True)
    for panel, dim in zip(axes, samples.DIMS, strict=True):
        noises = np.full_like(spreads, 0.05)
        c = jax.device_get(samples.clusters(key, number, dim, spreads, noises))
        _bounds(panel, 1 - c.cosine, c, np.log(number))
        panel.set_title(f"{number} points in {dim} dimensions, $\\sigma^2$ = 0.05")
        panel.set_xlabel("1 - mean intra-class cosine")
    axes[0].set_ylabel("nats")
    axes[0].legend(fontsize=8)
    _save(figure, file)


def resolution(file: pathlib.Path, key: jax.Array, number: int) -> None:
    """Information and its bounds against the standard deviation of the noise.

    Args:
      file: the PNG to write.
      key: for points and noise.
      number: points of the cluster.
    """
    noises = np.geomspace(1e-3, 3, samples.SETTINGS)
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.6), sharey=True)
    for panel, spread in zip(axes, (0.02, 0.4), strict=True):
        spreads = np.full_like(noises, spread)
        c = jax.device_get(samples.clusters(key, number, 64, spreads, noises))
        _bounds(panel, np.sqrt(noises), c, np.log(number))
        panel.set_title(f"{number} points, mean cosine {c.cosine[0]:.2f}")
        panel.set_xlabel("resolution $\\sigma$ (features of unit norm)")
    axes[0].set_ylabel("nats")
    axes[1].legend(fontsize=8)
    _save(figure, file)


def accuracy(
    file: pathlib.Path,
    key: jax.Array,
    count: int,
    found: dict[str, path.Path],
) -> None:
    """Accuracy of the best classifier against what inverted Fano allows.

    Args:
      file: the PNG to write.
      key: for random channels.
      count: of random channels.
      found: from `path.both`.
    """
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.6), sharey=True)
    label, best = finite.accuracies(key, count)
    panels = zip(axes, (3, path.CLASSES), strict=True)
    for panel, classes in panels:
        line = np.linspace(0, 1.9 * np.log(classes), 200)
        allowed = bounds.fano_accuracy(line, classes)
        panel.plot(line, allowed, color="tab:red", label="inverted Fano")
        panel.axhline(1 / classes, color="gray", linestyle=":", label="chance")
        panel.set_xlabel("nats")
        panel.set_ylim(0, 1.03)
    axes[0].plot(label, best, ".", markersize=3, label="random channels, I(c;Y)")
    axes[0].set_title("3 classes")
    axes[0].set_xlim(-0.05, 1.15)
    for marker, (kind, (value, _, _)) in zip("os", found.items(), strict=True):
        through = value.total + value.residual
        axes[1].plot(
            through,
            value.bayes_accuracy,
            marker,
            label=f"{kind} path, I(c;p) + H(Y|p)",
        )
    axes[1].set_title("10 classes: information falls, accuracy stays")
    axes[0].set_ylabel("Bayes accuracy")
    for panel in axes:
        panel.legend(fontsize=8, loc="lower right")
    _save(figure, file)


def _bounds(panel: Axes, x: np.ndarray, c: samples.Cluster, top: float) -> None:
    uppers = {
        "linear in the cosine": c.linear,
        "cosine bound": c.amgm,
        "W": c.logdet,
        "cosine log-sum-exp": c.lse,
    }
    for (name, line), color in zip(uppers.items(), _UPPER, strict=True):
        panel.plot(x, line, color=color, linestyle="--", label=f"upper: {name}")
    panel.errorbar(x, c.information, 2 * c.error, label="exact", **_EXACT)
    panel.plot(x, c.lower, color=_LOWER, label="lower: companion")
    panel.axhline(top, color="gray", linestyle=":", label="log n")
    panel.set_xscale("log")
    panel.set_ylim(0, 1.6 * top)


def _save(figure: Figure, file: pathlib.Path) -> None:
    for panel in figure.axes:
        panel.grid(alpha=0.3)
    figure.tight_layout()
    with atomic.write_file(file) as stream:
        figure.savefig(stream, format="png", dpi=110)
    pyplot.close(figure)
