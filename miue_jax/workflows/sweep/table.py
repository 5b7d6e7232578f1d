"""The tables of a sweep: generators down, defenses across."""

import csv
import io
import json
from collections.abc import Mapping
from typing import Any


def render(results: Mapping[str, Any]) -> str:
    """The Markdown tables of a sweep, one for each victim.

    Args:
      results: what `sweep` returned.

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
    parts.append(origin(results) + "\n")
    return "\n".join(parts)


def _victim(results: Mapping[str, Any], victim: str) -> str:
    cells = {
        (cell["generator"], cell["defense"]): cell
        for cell in results["cells"]
        if cell["victim"] == victim
    }
    generators, defenses = axes(results, victim)
    if "generators" not in results:
        # Of a comparison, whose victims had a defense each.
        defenses = [name for name in defenses if any(key[1] == name for key in cells)]
    lines = [
        f"| trained on | {' | '.join(defenses)} |",
        f"|---|{'---:|' * len(defenses)}",
    ]
    for generator in generators:
        shown = [_accuracy(cells.get((generator, defense))) for defense in defenses]
        lines.append(f"| {label(results, generator)} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def axes(results: Mapping[str, Any], victim: str) -> tuple[list[str], list[str]]:
    """The rows and columns of a victim, those of which nothing is done included.

    Args:
      results: what `sweep` returned.
      victim: its name there.

    Returns:
      Names of generators and of defenses.
    """
    found = dict.fromkeys(cell["generator"] for cell in results["cells"])
    columns = results.get("columns", {}).get(victim, results["defenses"])
    return list(results.get("generators", found)), list(columns)


def label(results: Mapping[str, Any], generator: str) -> str:
    """The name of a row: the generator, with what others would not expect of it.

    That is a budget other than L-infinity 8, an export that does not round, that only
    a part of the images is protected, and a seed of its own.

    Args:
      results: what `sweep` returned.
      generator: its name there.

    Returns:
      The name.
    """
    made = results["protected"].get(generator)
    if made is None:
        return generator
    notes = [made["budget"]] if made["budget"] != "linf 8 gray levels" else []
    if made.get("export", "round") != "round":
        notes.append(made["export"])
    if (fraction := made.get("fraction", 1.0)) < 1:
        notes.append(f"{100 * fraction:g} % of the images")
    if "seed" in made:
        notes.append(f"generator seed {made['seed']}")
    return f"{generator} ({', '.join(notes)})" if notes else generator


def _accuracy(cell: Mapping[str, Any] | None, measure: str = "final") -> str:
    if cell is None:
        return ""
    value = cell[measure]
    mean = f"{100 * value['mean']:.1f}"
    if value["std"] is None:
        return mean
    return f"{mean} ± {100 * value['std']:.1f} ({len(value['values'])})"


def _robust(results: Mapping[str, Any]) -> str:
    notes = [
        f"{cell['generator']}, {cell['defense']}, {cell['victim']}: "
        f"{_accuracy(cell, 'robust')}"
        for cell in results["cells"]
        if "robust" in cell
    ]
    return (
        "Robust accuracy of the adversarially trained in %, against projected gradient "
        f"of the radius they were trained with: {'; '.join(notes)}.\n"
    )


def origin(results: Mapping[str, Any]) -> str:
    """Where the numbers of a sweep come from.

    Args:
      results: what `sweep` returned.

    Returns:
      One paragraph.
    """
    protocols = "; ".join(
        f"{name}: {p['model']}"
        + (f" of width {p['width']}" if p["width"] is not None else "")
        + f", {p['epochs']} epochs, batch {p['batch_size']}, learning rate "
        f"{p['learning_rate']:g}{_schedule(p)}, weight decay {p['weight_decay']:g}"
        f"{_rest(p)}"
        for name, p in results["victims"].items()
    )
    defenses = "".join(
        f" {name}: {_settings(spec)}."
        for name, spec in results["defenses"].items()
        # Comparisons of before have names only.
        if not isinstance(spec, str) and spec["name"] != "none"
    )
    seeds = sorted({seed for cell in results["cells"] for seed in cell["seeds"]})
    failed = "".join(f" {c}: {why}." for c, why in results.get("failed", {}).items())
    devices, versions = (
        ", ".join(sorted({value for cell in results["cells"] for value in cell[key]}))
        for key in ("device", "jax")
    )
    shards = results.get("num_shards")
    split = f", {shards} shards" if shards is not None and shards > 1 else ""
    note = f" ({results['note']})" if "note" in results else ""
    return (
        "Clean test accuracy in % after the last epoch: mean ± standard deviation "
        "(number of seeds of the victim), without spread where there is one seed; an "
        f"empty cell was not run. {results['done']} of {results['planned']} victims "
        f"are done, seeds {', '.join(map(str, seeds))}.{failed} {protocols}.{defenses} "
        "The settings of the generators are in results.json, and the peaks of the "
        f"accuracy curves, as early stopping would have them. {results['data']}; "
        f"{results['processor']}, {devices}{split}, jax {versions}. "
        f"`{results['command']}`{note}"
    )


def _settings(spec: Mapping[str, Any]) -> str:
    own = {k: v for k, v in spec.items() if k != "name" and v is not None}
    return f"{spec['name']}" + "".join(f", {k} {v}" for k, v in own.items())


def _rest(protocol: Mapping[str, Any]) -> str:
    notes = [f"momentum {protocol['momentum']:g}"] if "momentum" in protocol else []
    if protocol.get("clip_norm") is not None:
        notes.append(f"gradient norm at most {protocol['clip_norm']:g}")
    if "dtype" in protocol:
        notes.append(protocol["dtype"])
    return "".join(f", {text}" for text in notes)


def _schedule(protocol: Mapping[str, Any]) -> str:
    if protocol.get("schedule", "cosine") == "cosine":
        return " (cosine)"
    shares = " and ".join(f"{100 * share:g} %" for share in protocol["milestones"])
    return f" x {protocol['drop']:g} at {shares}" if shares else " (constant)"


def to_csv(results: Mapping[str, Any]) -> str:
    """All cells as comma-separated values, accuracies in [0, 1].

    Args:
      results: what `sweep` returned.

    Returns:
      The text: a line for each generator, defense and victim.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    measures = ("final", "best", "robust")
    writer.writerow(
        ["generator", "budget", "export", "defense", "victim"]
        + ["seeds", "settings", "protocol"]
        + [f"{measure}_{part}" for measure in measures for part in ("mean", "std")]
    )
    for cell in results["cells"]:
        made = results["protected"].get(cell["generator"], {"budget": "none"})
        row = [cell["generator"], made["budget"], made.get("export", "round")]
        row += [cell["defense"], cell["victim"]]
        row.append(" ".join(map(str, cell["seeds"])))
        row.append(json.dumps(results["defenses"][cell["defense"]]))
        row.append(json.dumps(results["victims"][cell["victim"]]))
        for measure in measures:
            value = cell.get(measure, {"mean": None, "std": None})
            row += [value["mean"], value["std"]]
        writer.writerow(row)
    return text.getvalue()
