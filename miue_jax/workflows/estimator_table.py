"""The Markdown table of a benchmark of estimators, beside the published figures."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Published(NamedTuple):
    """One row of the published figures.

    Attributes:
      all: mean absolute error over the 40 tasks, nats.
      low: over the 33 tasks of at most 5 dimensions.
      high: over the 7 tasks of at least 25.
      largest: error, nats.
      seconds: median wall time on two cores; 0.001 stands for less than that.
    """

    all: float
    low: float
    high: float
    largest: float
    seconds: float


SOURCE = "bmi 0.1.3 on jax 0.10.2, one seed, N = 5,000"
PUBLISHED = {
    "Gaussian plug-in": Published(0.169, 0.188, 0.077, 1.06, 0.001),
    "Gaussian + digamma correction": Published(0.165, 0.189, 0.052, 1.06, 0.001),
    "GCMI": Published(0.166, 0.191, 0.048, 0.80, 0.001),
    "KSG k=10": Published(0.240, 0.142, 0.702, 0.88, 2.5),
    "InfoNCE": Published(0.151, 0.108, 0.350, 0.52, 20),
    "MINE": Published(0.173, 0.146, 0.297, 0.59, 12),
}

_GROUPS = {"all": "all tasks", "low": "≤ 5 dims", "high": "≥ 25 dims"}


def render(results: Mapping[str, Any]) -> str:
    """Renders one row per estimator and size; published figures are in brackets.

    Args:
      results: what experiments/benchmark_estimators.py wrote.

    Returns:
      The table, and below it where its numbers come from, what failed, and where the
      published figures are better.
    """
    entries = results["estimators"]
    head = ["estimator", "N", *_GROUPS.values(), "largest", "time", "processor time"]
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    for entry in entries:
        lines.append(f"| {' | '.join([entry['title'], *_cells(entry)])} |")
    notes = [_caption(results)]
    if any(entry["published"] for entry in entries):
        notes.append(
            f"In brackets: {SOURCE}; its times are wall times of two cores. "
            f"{_worse(entries)}"
        )
    failed = {e["title"]: len(e["failures"]) for e in entries if e["failures"]}
    if failed:
        counts = ", ".join(f"{title}: {number}" for title, number in failed.items())
        notes.append(f"Left out, as the estimator gave no value: {counts}.")
    timed = results.get("conditional_ksg")
    if timed is not None:
        notes.append(
            f"KSG within {timed['classes']} classes of {timed['size']:,} samples in "
            f"{timed['dim']} dimensions takes {_seconds(timed['median_seconds'])}, the "
            f"first call {_seconds(timed['first_seconds'])} ({timed['hardware']})."
        )
    return "\n".join([*lines, "", " ".join(notes)]) + "\n"


def _cells(entry: Mapping[str, Any]) -> list[str]:
    published = PUBLISHED.get(entry["published"])
    shown = []
    for group in _GROUPS:
        error = entry["mean_absolute_error"][group]
        text = "" if error is None else f"{error['mean']:.3f}"
        if error is not None and error["std"] is not None:
            text += f" ± {error['std']:.3f}"
        if published is not None:
            text += f" ({getattr(published, group):.3f})"
        shown.append(text)
    worst = entry["largest_error"]
    largest = "" if worst is None else f"{worst['value']:.2f}"
    work = _seconds(entry["median_cpu_seconds"])
    if published is not None:
        largest += f" ({published.largest:.2f})"
        work += f" ({_seconds(published.seconds)})"
    time = _seconds(entry["median_seconds"])
    return [f"{entry['size']:,}", *shown, largest, time, work]


def _seconds(value: float | None) -> str:
    if value is None:
        return ""
    if value <= 1e-3:
        return "< 1 ms"
    return f"{1e3 * value:.0f} ms" if value < 0.1 else f"{value:.2g} s"


def _caption(results: Mapping[str, Any]) -> str:
    numbers = [len(results["tasks"]), ", ".join(map(str, results["seeds"]))]
    text = (
        f"Mean absolute error in nats over {numbers[0]} tasks and seeds {numbers[1]}, "
        "± the standard deviation between seeds; the largest error of any task and "
        "seed; median times of a call that compiles nothing. "
        f"{'; '.join(results['hardware'])}, {results['float']}, "
        f"jax {results['versions']['jax']}. `{results['command']}`"
    )
    if results["finished"] < results["planned"]:
        text += f" Unfinished: {results['finished']} of {results['planned']} cells."
    return text


def _worse(entries: Sequence[Mapping[str, Any]]) -> str:
    """Says where ours are worse, in the digits that were published."""
    found = []
    for entry in entries:
        published = PUBLISHED.get(entry["published"])
        if published is None:
            continue
        ours = {g: round(entry["mean_absolute_error"][g]["mean"], 3) for g in _GROUPS}
        ours["largest"] = round(entry["largest_error"]["value"], 2)
        # Wall time tells more about the neighbors on a machine than about a program.
        ours["seconds"] = entry["median_cpu_seconds"]
        named = {**_GROUPS, "largest": "largest error", "seconds": "processor time"}
        where = [named[k] for k, v in ours.items() if v > getattr(published, k)]
        if where:
            found.append(f"{entry['title']} ({', '.join(where)})")
    return (
        f"Ours are worse: {'; '.join(found)}." if found else "Ours are nowhere worse."
    )
