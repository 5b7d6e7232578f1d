"""Errors and times of each estimator, over tasks and seeds."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from accuracy.cell_log import Cell
from accuracy.config import Benchmark

from miue_jax.information import tasks

# Tasks of the benchmark have at most 5 dimensions or at least 25.
GROUPS = {
    "all": lambda dim: True,
    "low": lambda dim: dim <= 5,
    "high": lambda dim: dim >= 25,
}

# What the published figures are of.
_PUBLISHED_SIZE = 5000

Rows = Mapping[Cell, Mapping[str, Any]]


def summarize(config: Benchmark, planned: Sequence[Cell], rows: Rows) -> dict[str, Any]:
    """Summarizes the cells that are done.

    A failure has no error and no time: it is counted, and left out of the means.

    Args:
      config: the settings.
      planned: all cells.
      rows: what was measured, of those that are done.

    Returns:
      JSON values: numbers of cells, the tasks' truths, and one entry for each size and
      estimator with something done.
    """
    done = {cell: rows[cell] for cell in planned if cell in rows}
    truths = {
        cell.task: {k: row[k] for k in ("truth", "truth_error", "dim_x", "dim_y")}
        for cell, row in done.items()
    }
    entries = []
    for size in sorted(config.sizes):
        for label in config.rows:
            mine = {
                c: r for c, r in done.items() if (c.size, c.estimator) == (size, label)
            }
            if mine:
                of_all = len(config.tasks) * len(config.seeds)
                entries.append(_entry(label, size, config, mine, of_all))
    return {
        "planned": len(planned),
        "finished": len(done),
        "tasks": {name: truths[name] for name in config.tasks if name in truths},
        "estimators": entries,
    }


def _entry(
    label: str, size: int, config: Benchmark, rows: Rows, planned: int
) -> dict[str, Any]:
    settings = config.estimators[label]
    good = {c: r for c, r in rows.items() if r["failure"] is None}
    comparable = (
        size == _PUBLISHED_SIZE
        and set(config.tasks) == set(tasks.BENCHMARK)
        and len(good) == planned
    )
    errors = {cell: abs(r["estimate"] - r["truth"]) for cell, r in good.items()}
    dims = {c.task: max(r["dim_x"], r["dim_y"]) for c, r in good.items()}
    groups = {
        name: _mean_error({c: e for c, e in errors.items() if inside(dims[c.task])})
        for name, inside in GROUPS.items()
    }
    worst = max(errors, key=lambda cell: errors[cell], default=None)
    return {
        "label": label,
        "title": settings.title,
        "name": settings.name,
        "options": config.options(label),
        "size": size,
        "published": settings.published if comparable else None,
        "planned": planned,
        "finished": len(rows),
        "mean_absolute_error": groups,
        "largest_error": None
        if worst is None
        else {"value": errors[worst], "task": worst.task, "seed": worst.seed},
        "median_seconds": _median(r["seconds"] for r in good.values()),
        "median_cpu_seconds": _median(r["cpu_seconds"] for r in good.values()),
        "flags": _flags(good),
        "failures": [
            {"task": c.task, "seed": c.seed, "message": r["failure"]}
            for c, r in rows.items()
            if r["failure"] is not None
        ],
        "tasks": {
            name: _of_task([r for c, r in good.items() if c.task == name])
            for name in config.tasks
            if name in dims
        },
    }


def _mean_error(errors: Mapping[Cell, float]) -> dict[str, Any] | None:
    """Over tasks, and how much it varies from seed to seed."""
    if not errors:
        return None
    seeds: dict[int, list[float]] = {}
    for cell, error in errors.items():
        seeds.setdefault(cell.seed, []).append(error)
    return {
        "mean": statistics.fmean(errors.values()),
        "std": _std([statistics.fmean(values) for values in seeds.values()]),
        "tasks": len({cell.task for cell in errors}),
    }


def _flags(rows: Rows) -> dict[str, int]:
    """How many estimates carry each flag, and how many came with a warning."""
    flags: dict[str, int] = {}
    for row in rows.values():
        for name, value in row["diagnostics"].items():
            if isinstance(value, bool):
                flags[name] = flags.get(name, 0) + value
    warned = sum(bool(row["warnings"]) for row in rows.values())
    return flags | {"warned": warned}


def _of_task(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    values = [row["estimate"] for row in rows]
    reported = [row["standard_error"] for row in rows]
    return {
        "mean": statistics.fmean(values),
        "std": _std(values),
        "standard_error": None if None in reported else statistics.fmean(reported),
        "mean_absolute_error": statistics.fmean(
            abs(row["estimate"] - row["truth"]) for row in rows
        ),
        "seeds": len(values),
    }


def _std(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def _median(values: Iterable[float]) -> float | None:
    values = list(values)
    return statistics.median(values) if values else None
