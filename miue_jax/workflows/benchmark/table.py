"""The table of the benchmark's results."""

from collections.abc import Mapping, Sequence
from typing import Any

from miue_jax.workflows.benchmark.cases import BEFORE, OURS

_NAMES = {
    "pytorch": "PyTorch",
    "torch_compile": "torch.compile",
    "lax": "plain lax",
    "scikit_image": "scikit-image",
    "scikit_learn": "scikit-learn",
    "scipy": "SciPy's tree",
    BEFORE: "before",
}
_PACKAGES = ("jax", "torch", "scikit-image", "scikit-learn", "scipy", "infomeasure")


def render(results: Mapping[str, Any]) -> str:
    """Renders the table in Markdown.

    Args:
      results: what `miue benchmark` wrote: "settings", "hardware", "versions" and
        "build", the digest of the package; "benchmark", by case and side the seconds of
        wall and of processor time (median, min and max of the repetitions), how many
        times that of this library it is in the same turn, and the figure on which all
        sides agree.

    Returns:
      The table, and below it the origin of its numbers.

    Example:
      >>> from miue_jax.workflows.benchmark import table
      >>> spread = {"median": 0.5, "min": 0.25, "max": 1.0}
      >>> side = {"seconds": spread, "cpu_seconds": spread}
      >>> case = {"title": "work", "sides": {"miue_jax": side}, "load_average": 1.0}
      >>> results = {
      ...     "settings": {"repetitions": 3, "threads": 1, "size": "full"},
      ...     "hardware": {
      ...         "backend": "cpu", "device": "cpu", "processor": "some", "cores": 2
      ...     },
      ...     "versions": {"jax": "0.10.2"},
      ...     "benchmark": {"a_case": case},
      ... }
      >>> print(table.render(results).splitlines()[2])
      | work (`a_case`) | miue_jax | 500 ms (250 to 1000) |  |  |
    """
    cases = results["benchmark"]
    sides = [side for case in cases.values() for side in case["sides"].values()]
    peaks = any("peak_flops_per_second" in side for side in sides)
    memory = any(side.get("peak_bytes") for side in sides)
    header = ["case", "", "time", "speed by processor time", "by wall time"]
    header += ["share of peak"] * peaks + ["memory"] * memory
    lines = [header, ["---", "---", *["---:"] * (len(header) - 2)]]
    by_processor = results["hardware"]["backend"] == "cpu"
    for name, case in cases.items():
        title = f"{case['title']} (`{name}`)"
        for label, side in case["sides"].items():
            row = [title, _NAMES.get(label, label)]
            title = ""
            if "why" in side:
                row += [side["why"].replace("|", "\\|"), *[""] * (len(header) - 3)]
                lines.append(row)
                continue
            key = "cpu_seconds" if by_processor else "seconds"
            row += [_seconds(side[key])]
            ratios = ("cpu_ratio", "ratio")
            row += ["" if label == OURS else _ratio(side.get(x)) for x in ratios]
            if peaks:
                row.append(_share(side, case["sides"].get(OURS, {})))
            if memory:
                row.append(_bytes(side.get("peak_bytes")))
            lines.append(row)
    table = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([*table, "", _origin(results)])


def _seconds(spread: Mapping[str, float]) -> str:
    middle = spread["median"]
    scale, unit = next(
        (s, u)
        for s, u in ((1, "s"), (1e-3, "ms"), (1e-6, "µs"))
        if middle >= s or s < 1e-5
    )
    shown = [f"{_digits(spread[k] / scale)}" for k in ("median", "min", "max")]
    return f"{shown[0]} {unit} ({shown[1]} to {shown[2]})"


def _digits(value: float) -> str:
    """Three digits that count."""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _ratio(spread: Mapping[str, float] | None) -> str:
    if spread is None:
        return ""
    shown = [_digits(spread[k]) for k in ("median", "min", "max")]
    return f"{shown[0]} ({shown[1]} to {shown[2]})"


def _share(side: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """FLOPs are those of the work, whoever does it; the peak is that of our type."""
    if "flops" not in ours:
        return ""
    speed = ours["flops"] / side["seconds"]["median"]
    return f"{100 * speed / ours['peak_flops_per_second']:.0f} %"


def _bytes(count: int | None) -> str:
    return "" if not count else f"{count / 2**30:.2f} GiB"


def _origin(results: Mapping[str, Any]) -> str:
    settings, hardware = results["settings"], results["hardware"]
    sides = [
        s for case in results["benchmark"].values() for s in case["sides"].values()
    ]
    by = "processor time" if hardware["backend"] == "cpu" else "wall time"
    threads = settings["threads"]
    loads = [
        case["load_average"]
        for case in results["benchmark"].values()
        if case.get("load_average") is not None
    ]
    text = [
        f"Times are {by}, median and range of {settings['repetitions']} turns; speed "
        "is the time of a side over that of this library in the same turn: above 1, "
        "this library is faster.",
        f"{hardware['device']}, {hardware['processor']}, "
        + (f"{threads} of {hardware['cores']} cores" if threads else "all cores")
        + (f"; load average {min(loads):.1f} to {max(loads):.1f}." if loads else "."),
    ]
    if settings["size"] == "small":
        text.append("Small sizes: a trial, not a measurement.")
    if against := settings.get("against"):
        text.append(f"Before: {against['wheel']}.")
    peaks = sorted({side["peak"] for side in sides if "peak" in side})
    if peaks:
        text.append(
            "FLOPs are those of direct convolutions, three forward passes for a "
            "training step and two for a perturbation step; Winograd's filtering takes "
            f"fewer. The peak: {' and '.join(peaks)}."
        )
    if any(side.get("peak_bytes") for side in sides):
        text.append("Memory is the most that a process took beyond its data.")
    versions = results["versions"]
    used: Sequence[str] = [f"{k} {versions[k]}" for k in _PACKAGES if versions.get(k)]
    text.append(", ".join(used) + ".")
    if "command" in results:
        text.append(f"`{results['command']}`.")
    return " ".join(text)
