"""What measurements of several victims say together, and their Markdown table."""

import itertools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

# What the table shows of each victim's features, and what it is called.
_COLUMNS = {
    "within_classes": "bound within classes",
    "class_conditional_gaussian": "class-conditional Gaussian",
    "ksg_conditional_pca": "KSG within classes, PCA",
    "ksg_conditional_cca": "KSG within classes, CCA",
    "infonce": "InfoNCE",
    "smile": "SMILE",
    "ksg": "KSG, pooled",
    "sliced": "sliced",
    "label_information_clean": "label, clean",
    "label_information_protected": "label, protected",
}

# In standard errors: a larger rise is not a sampling error.
_LARGE = 2.0


def measures(entry: Mapping[str, Any]) -> dict[str, float | None]:
    """The numbers of one victim and layer that are compared with its accuracy.

    Args:
      entry: one of `entries` of the results.

    Returns:
      Nats by name; None where a number is not defined.
    """
    found = {name: e["value"] for name, e in entry["estimates"].items()}
    bracket = entry["bracket"]
    if "problem" in bracket:
        return found
    middle = bracket["grid"][len(bracket["grid"]) // 2]
    return {
        **found,
        "within_classes": middle["within_classes"],
        "label_information_clean": bracket["label_information"]["clean"]["lower"],
        "label_information_protected": bracket["label_information"]["protected"][
            "lower"
        ],
    }


def spearman(x: Iterable[float], y: Iterable[float]) -> float | None:
    """Spearman's rank correlation, with mean ranks where values are equal.

    Args:
      x: numbers.
      y: as many.

    Returns:
      The correlation in [-1, 1]; None below three pairs or where all are equal.

    Example:
      >>> from miue_jax.workflows.measure import summary
      >>> round(summary.spearman([1, 2, 3], [10, 30, 20]), 3)
      0.5
    """
    first, second = _ranks(x), _ranks(y)
    if len(first) < 3 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(np.corrcoef(first, second)[0, 1])


def _ranks(values: Iterable[float]) -> np.ndarray:
    _, which, counts = np.unique(
        np.array(list(values)), return_inverse=True, return_counts=True
    )
    return (np.cumsum(counts) - (counts - 1) / 2)[which]


def correlations(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rank correlation of every measure with victim accuracy, layer by layer.

    Args:
      entries: of the results.

    Returns:
      `layer`, `measure`, `spearman` and the number of `victims` behind it.
    """
    found = []
    for layer in dict.fromkeys(entry["layer"] for entry in entries):
        of_layer = [entry for entry in entries if entry["layer"] == layer]
        values = [measures(entry) for entry in of_layer]
        for name in dict.fromkeys(itertools.chain.from_iterable(values)):
            pairs = [
                (value[name], entry["accuracy"])
                for value, entry in zip(values, of_layer, strict=True)
                if value.get(name) is not None
            ]
            rho = spearman(*zip(*pairs, strict=True)) if pairs else None
            found.append(
                {
                    "layer": layer,
                    "measure": name,
                    "spearman": rho,
                    "victims": len(pairs),
                }
            )
    return found


def data_processing(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Compares every estimate with the one at the next deeper layer (T11).

    Information cannot rise from a layer to a function of it. A layer that is a vector
    is measured whole, and what follows is a function of it: there a rise is an error of
    the estimator, which misses information at the shallower layer (a lower bound may)
    or finds too much at the deeper one. A map is measured by its average over space,
    which does not determine what follows: there a rise contradicts nothing.

    Args:
      entries: of the results, the layers of a victim in order of depth.

    Returns:
      `victim`, `seed`, `estimator`, `shallower`, `deeper`, the `rise` in nats, its
      `standard_error` as of independent estimates (None if unknown), whether T11
      `applies`, and whether the rise `contradicts` it by more than two of them.
    """
    found = []
    by_victim = itertools.groupby(entries, lambda e: (e["victim"], e["seed"]))
    for (victim, seed), layers in by_victim:
        for above, below in itertools.pairwise(layers):
            for name, first in above["estimates"].items():
                second = below["estimates"][name]
                if None in (first["value"], second["value"]):
                    continue
                rise = second["value"] - first["value"]
                errors = [e.get("standard_error") for e in (first, second)]
                error = None if None in errors else math.hypot(*errors)
                applies = not above["averaged"]
                large = error is not None and rise > _LARGE * error
                found.append(
                    {
                        "victim": victim,
                        "seed": seed,
                        "estimator": name,
                        "shallower": above["layer"],
                        "deeper": below["layer"],
                        "rise": rise,
                        "standard_error": error,
                        "applies": applies,
                        "contradicts": applies and large,
                    }
                )
    return found


def render(results: Mapping[str, Any]) -> str:
    """Renders the measures of the features, and how they rank with accuracy and depth.

    Args:
      results: what `measure` returned.

    Returns:
      The table, and below it where its numbers come from.

    Raises:
      ValueError: if they have no layer `features`.
    """
    entries = [entry for entry in results["entries"] if entry["layer"] == "features"]
    if not entries:
        raise ValueError("the results have no layer 'features' to show")
    lines = [
        f"| trained on | depth | accuracy | {' | '.join(_COLUMNS.values())} |",
        f"|---|---:|---:|{'---:|' * len(_COLUMNS)}",
    ]
    for entry in entries:
        values = measures(entry)
        shown = [_number(values.get(name), 2) for name in _COLUMNS]
        depth = "" if entry["depth"] is None else str(entry["depth"])
        head = [entry["generator"], depth, f"{100 * entry['accuracy']:.1f}"]
        lines.append(f"| {' | '.join([*head, *shown])} |")
    with_accuracy = {
        c["measure"]: c["spearman"]
        for c in results["correlations"]
        if c["layer"] == "features"
    }
    ranks = {"Spearman with accuracy": with_accuracy}
    if any(entry["depth"] is not None for entry in entries):
        ranks["Spearman with depth, mean of generators"] = _with_depth(entries)
    for title, correlations in ranks.items():
        shown = [_number(correlations.get(name), 2, sign=True) for name in _COLUMNS]
        lines.append(f"| {title} | | | {' | '.join(shown)} |")
    noise = results["noise_variances"]
    held_out = "held-out" if results["held_out"] else "training"
    lines += [
        "",
        f"Nats, of the penultimate features of {entries[0]['images']} {held_out} pairs "
        "of a clean and a protected image; accuracy in % on clean test images. The "
        f"bound within classes is at a noise variance of {noise[len(noise) // 2]:g}; "
        "`label` is the certified lower bound on the information about the class. "
        f"{results['hardware']}, jax {results['versions']['jax']}. "
        f"`{results['command']}`",
    ]
    return "\n".join(lines) + "\n"


def _with_depth(entries: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    means: dict[str, float | None] = {}
    for name in _COLUMNS:
        values = []
        for generator in dict.fromkeys(entry["generator"] for entry in entries):
            found = [
                (measures(entry).get(name), entry["depth"])
                for entry in entries
                if entry["generator"] == generator
            ]
            pairs = [pair for pair in found if None not in pair]
            rho = spearman(*zip(*pairs, strict=True)) if pairs else None
            if rho is not None:
                values.append(rho)
        means[name] = statistics.fmean(values) if values else None
    return means


def _number(value: float | None, digits: int, *, sign: bool = False) -> str:
    if value is None:
        return ""
    return f"{value:{'+' if sign else ''}.{digits}f}"
