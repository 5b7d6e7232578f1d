"""Writes what a sweep has found so far: results.json, the tables and the heat map."""

import importlib.util
from collections.abc import Sequence
from typing import Any

import jax

from miue_jax.data import artifact, atomic
from miue_jax.data.bucket import Place
from miue_jax.train import run_directory
from miue_jax.workflows import evaluate
from miue_jax.workflows.sweep import plan, records, summary, table
from miue_jax.workflows.sweep.plan import Cell, Sweep


def report(
    sweep: Sweep,
    workdir: Place,
    planned: Sequence[Cell],
    made: dict[str, dict[str, Any]],
) -> dict[str, Any]:
    """Writes the tables and the heat map of the cells that are done so far.

    Args:
      sweep: the settings.
      workdir: directory of the sweep.
      planned: all cells.
      made: metadata of the protected data sets by row; those that are missing are read
        and added.

    Returns:
      What results.json holds.
    """
    found = {cell: records.finished(sweep, workdir, cell) for cell in planned}
    done = {cell: results for cell, results in found.items() if results is not None}
    for name in dict.fromkeys(cell.generator for cell in done):
        if sweep.generators[name] is not None and name not in made:
            path = plan.artifact_path(workdir, name)
            made[name] = artifact.load(path).metadata
            if not made[name].keys() >= set(summary.KEPT):
                raise ValueError(f"{path} was not made by a sweep")
    failed = {
        cell: records.failure(sweep, workdir, cell)
        for cell in planned
        if cell not in done
    }
    failed = {cell: why for cell, why in failed.items() if why is not None}
    results = summary.summarize(sweep, made, done, failed, planned)
    if (done or failed) and jax.process_index() == 0:
        # Other processes may write them too; either way they are whole.
        run_directory.write_json(workdir / evaluate.RESULTS, results)
        for name, text in (
            ("table.md", table.render(results)),
            ("table.csv", table.to_csv(results)),
        ):
            with atomic.write_file(workdir / name) as file:
                file.write(text.encode())
        if importlib.util.find_spec("matplotlib") is not None:
            from miue_jax.workflows.sweep import plot

            plot.heat_map(workdir / "heat_map.png", results)
    return results
