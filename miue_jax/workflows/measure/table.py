"""The Markdown table of a measurement: victims down, measures of features across."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from miue_jax.workflows.measure import summary

# What is shown of each victim's features, and what it is called.
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


def render(results: Mapping[str, Any]) -> str:
    """The measures of the last layer, and how they go with accuracy and with depth.

    Args:
      results: what experiments/measure.py wrote.

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
        values = summary.measures(entry)
        shown = [_number(values.get(name), 2) for name in _COLUMNS]
        head = [entry["method"], str(entry["depth"]), f"{100 * entry['accuracy']:.1f}"]
        lines.append(f"| {' | '.join([*head, *shown])} |")
    with_accuracy = {
        c["measure"]: c["spearman"]
        for c in results["correlations"]
        if c["layer"] == "features"
    }
    for title, correlations in (
        ("Spearman with accuracy", with_accuracy),
        ("Spearman with depth, mean of methods", _with_depth(entries)),
    ):
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
    found: dict[str, float | None] = {}
    for name in _COLUMNS:
        values = []
        for method in dict.fromkeys(entry["method"] for entry in entries):
            own = [
                (summary.measures(entry).get(name), entry["depth"])
                for entry in entries
                if entry["method"] == method
            ]
            pairs = [(value, depth) for value, depth in own if value is not None]
            rho = summary.spearman(*zip(*pairs, strict=True)) if pairs else None
            if rho is not None:
                values.append(rho)
        found[name] = statistics.fmean(values) if values else None
    return found


def _number(value: float | None, digits: int, *, sign: bool = False) -> str:
    if value is None:
        return ""
    return f"{value:{'+' if sign else ''}.{digits}f}"
