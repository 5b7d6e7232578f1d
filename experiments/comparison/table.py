"""The tables of a matrix: methods down, defences across."""

import csv
import io
from collections.abc import Mapping
from typing import Any


def render(results: Mapping[str, Any]) -> str:
    """The Markdown tables of a matrix, one for each victim.

    Args:
      results: what experiments/matrix.py wrote.

    Returns:
      The tables, and below them where their numbers come from.
    """
    victims = list(results["victims"])
    parts = []
    for victim in victims:
        if len(victims) > 1:
            parts.append(f"Victim {victim}:\n")
        parts.append(_victim(results, victim))
    if any("robust" in cell for cell in results["cells"]):
        parts.append(_robust(results))
    parts.append(_origin(results))
    return "\n".join(parts)


def _victim(results: Mapping[str, Any], victim: str) -> str:
    cells = {
        (cell["method"], cell["defense"]): cell
        for cell in results["cells"]
        if cell["victim"] == victim
    }
    methods, defenses = (list(dict.fromkeys(key[i] for key in cells)) for i in (0, 1))
    lines = [
        f"| trained on | {' | '.join(defenses)} |",
        f"|---|{'---:|' * len(defenses)}",
    ]
    for method in methods:
        shown = [_accuracy(cells.get((method, defense))) for defense in defenses]
        lines.append(f"| {label(results, method)} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def label(results: Mapping[str, Any], method: str) -> str:
    """The name of a row: the method, with its budget where that is not L-infinity 8.

    Args:
      results: what experiments/matrix.py wrote.
      method: its name there.

    Returns:
      The name.
    """
    made = results["protected"].get(method)
    if made is None or made["budget"] == "linf 8 grey levels":
        return method
    return f"{method} ({made['budget']})"


def _accuracy(cell: Mapping[str, Any] | None, measure: str = "final") -> str:
    if cell is None:
        return ""
    value = cell[measure]
    mean = f"{100 * value['mean']:.1f}"
    if value["std"] is None:
        return mean
    return f"{mean} ± {100 * value['std']:.1f} ({len(value['values'])})"


def _robust(results: Mapping[str, Any]) -> str:
    told = [
        f"{cell['method']} {cell['defense']}: {_accuracy(cell, 'robust')}"
        for cell in results["cells"]
        if "robust" in cell
    ]
    return f"Robust accuracy of the adversarially trained, in %: {'; '.join(told)}.\n"


def _origin(results: Mapping[str, Any]) -> str:
    protocols = "; ".join(
        f"{name}: {p['model']}"
        + (f" of width {p['width']}" if p["width"] is not None else "")
        + f", {p['epochs']} epochs, learning rate {p['learning_rate']:g}"
        for name, p in results["victims"].items()
    )
    devices, versions = (
        ", ".join(sorted({value for cell in results["cells"] for value in cell[key]}))
        for key in ("device", "jax")
    )
    note = f" ({results['note']})" if "note" in results else ""
    return (
        "Clean test accuracy in % after the last epoch: mean ± standard deviation "
        "(number of seeds of the victim), without spread where there is one seed; an "
        f"empty cell was not run. {results['done']} of {results['planned']} victims "
        f"are done. {protocols}. {results['data']}; {results['processor']}, {devices}, "
        f"jax {versions}. `{results['command']}`{note}\n"
    )


def to_csv(results: Mapping[str, Any]) -> str:
    """All cells as comma-separated values, accuracies in [0, 1].

    Args:
      results: what experiments/matrix.py wrote.

    Returns:
      The text: a line for each method, defence and victim.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    measures = ("final", "best", "robust")
    writer.writerow(
        ["method", "budget", "defense", "victim", "seeds"]
        + [f"{measure}_{part}" for measure in measures for part in ("mean", "std")]
    )
    for cell in results["cells"]:
        made = results["protected"].get(cell["method"], {"budget": "none"})
        row = [cell["method"], made["budget"], cell["defense"], cell["victim"]]
        row.append(" ".join(map(str, cell["seeds"])))
        for measure in measures:
            value = cell.get(measure, {"mean": None, "std": None})
            row += [value["mean"], value["std"]]
        writer.writerow(row)
    return text.getvalue()
