"""Runs a sweep: every protected data set and every victim is a run of its own.

Runs lie below the working directory and are made once; rerun the command to resume,
also with more generators, defenses or seeds. Several processes may work in one
directory, and no cell runs twice. A cell whose training diverges is marked by
.failed.json in its folder and not tried again. results.json, table.md, table.csv and
heat_map.png show those cells of its settings that are done so far, by any process.
"""

import logging
import os
import time
from collections.abc import Mapping
from typing import Any

from miue_jax.data.bucket import Address, Place
from miue_jax.train import loop, run_directory
from miue_jax.workflows.protect import directory_of
from miue_jax.workflows.sweep import launch, plan, records, tasks
from miue_jax.workflows.sweep.launchers import local
from miue_jax.workflows.sweep.plan import Cell, Sweep
from miue_jax.workflows.sweep.report import report

__all__ = ["run", "sweep"]

# Of the time, at most this share goes into tables while cells run.
_SHARE_OF_TABLES = 0.1

# Between two looks at what other processes are doing.
_SECONDS_TO_WAIT = 5.0

_LOGGER = logging.getLogger("miue_jax")


def sweep(
    settings: Sweep | Mapping[str, Any],
    *,
    workdir: str | os.PathLike[str] | None = None,
    devices: int | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Protects data with several generators and trains victims behind several defenses.

    Args:
      settings: a `Sweep`, or its fields.
      workdir: directory of the sweep, which can be resumed; None for a temporary one.
      devices: processes to run at once, each on a device of its own; None for this one.
      progress: whether to show progress bars.

    Returns:
      What results.json holds: all settings, and "cells" with the accuracies of every
      generator, defense and victim over the seeds.

    Raises:
      ValueError: if an input is bad, and nothing is written then.

    Example:
      >>> import miue_jax as mj
      >>> sweep = mj.Sweep(
      ...     data=mj.data.DataSource("shapes", per_class=4),
      ...     test=mj.data.DataSource("shapes", split="test", per_class=2),
      ...     generators=["clean"],
      ...     victims={"tiny": mj.victims.preset("quick", model="linear", epochs=1)},
      ... )
      >>> results = mj.sweep(sweep)
      >>> results["done"], results["planned"]
      (1, 1)
    """
    if not isinstance(settings, Sweep):
        settings = Sweep(**settings)
    with directory_of(workdir) as path:
        if devices is not None:
            return launch.launch(
                settings, path, local.launcher(devices), progress=progress
            )
        return run(settings, path, progress=progress)


def run(
    sweep: Sweep, workdir: Place, *, resume: bool = True, progress: bool = True
) -> dict[str, Any]:
    """Runs, or finishes, a sweep in this process.

    Args:
      sweep: the settings.
      workdir: directory of the sweep.
      resume: whether to resume runs that were stopped.
      progress: whether to show progress bars.

    Returns:
      What results.json holds.

    Raises:
      ValueError: if an input is bad, and nothing is written then.

    Example:
      >>> import pathlib, tempfile
      >>> import miue_jax as mj
      >>> from miue_jax.workflows.sweep import run
      >>> sweep = mj.Sweep(
      ...     data=mj.data.DataSource("shapes", per_class=4),
      ...     test=mj.data.DataSource("shapes", split="test", per_class=2),
      ...     generators=["clean"],
      ...     victims={"linear": mj.victims.preset("quick", model="linear", epochs=1)},
      ... )
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     workdir = pathlib.Path(folder, "sweep")
      ...     results = run.run(sweep, workdir, progress=False)
      ...     (workdir / "table.md").exists()
      True
    """
    left = planned = plan.cells(sweep)
    identity = plan.check(sweep, planned)
    # What this process has made or checked itself is not a run that was stopped.
    known: set[str] = set()
    made: dict[str, dict[str, Any]] = {}
    logged: set[Cell] = set()
    with run_directory.open_directory(workdir, identity, resume=resume, shared=True):
        # Runs of other settings are found before anything starts.
        records.check_protected(sweep, workdir, [cell.generator for cell in planned])
        records.claim(sweep, workdir)
        began = time.monotonic()
        report(sweep, workdir, planned, made)
        took = time.monotonic() - began
        while left:
            busy = []
            for cell in left:
                if records.finished(sweep, workdir, cell) is not None:
                    continue
                if records.failure(sweep, workdir, cell) is not None:
                    continue
                # Whoever wants a lock in a bucket waits for its holder to renew it.
                # Elsewhere, all processes of a run must take the same way.
                folder = cell.folder(workdir)
                if isinstance(folder, Address) and run_directory.is_locked(folder):
                    busy.append(cell)
                    continue
                try:
                    if cell not in logged:
                        _LOGGER.info("cell: %s", folder.name)
                        logged.add(cell)
                    _run_cell(
                        *(sweep, workdir, cell),
                        resume=resume,
                        known=known,
                        progress=progress,
                    )
                except run_directory.Busy:
                    busy.append(cell)
                    continue
                except run_directory.Failed:
                    continue
                except loop.Stopped:
                    report(sweep, workdir, planned, made)
                    raise
                # With many quick cells, it would take longer than they do.
                if (time.monotonic() - began) * _SHARE_OF_TABLES >= took:
                    began = time.monotonic()
                    report(sweep, workdir, planned, made)
                    took = time.monotonic() - began
            if len(busy) == len(left):
                time.sleep(_SECONDS_TO_WAIT)
            left = busy
        return report(sweep, workdir, planned, made)


def _run_cell(
    sweep: Sweep,
    workdir: Place,
    cell: Cell,
    *,
    resume: bool,
    known: set[str],
    progress: bool,
) -> None:
    """Trains the victim of a cell; its training data are protected first if need be."""
    name = cell.generator
    if sweep.generators[name] is not None and name not in known:
        tasks.make_protected(sweep, workdir, name, resume=resume, progress=progress)
        known.add(name)
    tasks.train_victim(sweep, workdir, cell, resume=resume, progress=progress)
