"""Runs a sweep: every protected data set and every victim is a run of its own.

Runs lie below the working directory and are made once; rerun the command to resume,
also with more generators, defenses or seeds. Several processes may work in one
directory, and no cell runs twice. A cell whose training diverges is marked by
.failed.json in its folder and not tried again. results.json, table.md, table.csv and
heat_map.png show those cells of its settings that are done so far, by any process.
"""

import dataclasses
import importlib.util
import logging
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from miue_jax.data import artifact, atomic
from miue_jax.train import loop, parallel, run_directory
from miue_jax.workflows import evaluate, protect
from miue_jax.workflows.protect import directory_of
from miue_jax.workflows.sweep import plan, summary, table, workers
from miue_jax.workflows.sweep.plan import Cell, Sweep

__all__ = ["run", "run_workers", "sweep"]

# In the folder of a cell whose training diverged, or of a generator that failed, which
# leaves its cells without data; removing it lets them run once more.
_FAILED = ".failed.json"

# Between two looks at what other processes are doing.
_SECONDS_TO_WAIT = 5.0

# Within which workers have checked their input, as a rule.
_SECONDS_TO_CHECK = 30.0

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
            return run_workers(devices, settings, path, progress=progress)
        return run(settings, path, progress=progress)


def run(
    sweep: Sweep, workdir: pathlib.Path, *, resume: bool = True, progress: bool = True
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
    with parallel.together():
        identity = plan.check(sweep, planned)
    # What this process has made or checked itself is not a run that was stopped.
    known: set[pathlib.Path] = set()
    made: dict[str, dict[str, Any]] = {}
    logged: set[Cell] = set()
    with run_directory.open_directory(workdir, identity, resume=resume, shared=True):
        # Runs of other settings are found before anything starts.
        _check_protected(sweep, workdir, planned)
        report(sweep, workdir, planned, made)
        while left:
            busy = []
            for cell in left:
                if _finished(sweep, workdir, cell) is not None:
                    continue
                if _failure(sweep, workdir, cell) is not None:
                    continue
                try:
                    if cell not in logged:
                        _LOGGER.info("cell: %s", cell.folder(workdir).name)
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
                except run_directory.Failed as error:
                    _record_failure(sweep, workdir, cell, error)
                    continue
                report(sweep, workdir, planned, made)
            if len(busy) == len(left):
                time.sleep(_SECONDS_TO_WAIT)
            left = busy
        return report(sweep, workdir, planned, made)


def _run_cell(
    sweep: Sweep,
    workdir: pathlib.Path,
    cell: Cell,
    *,
    resume: bool,
    known: set[pathlib.Path],
    progress: bool,
) -> None:
    """Trains the victim of a cell; its training data are protected first if need be."""
    if sweep.generators[cell.generator] is not None:
        folder = plan.artifact_path(workdir, cell.generator).parent
        protect.run(
            plan.protection(sweep, cell.generator),
            folder,
            resume=resume or folder in known,
            progress=progress,
        )
        known.add(folder)
    train = plan.train_data(sweep, workdir, cell)
    evaluate.run(
        plan.training(sweep, cell, train),
        cell.folder(workdir),
        resume=resume,
        progress=progress,
    )


def _check_protected(
    sweep: Sweep, workdir: pathlib.Path, planned: Sequence[Cell]
) -> None:
    """Checks that protected data sets, also unfinished ones, are of these settings."""
    for name in dict.fromkeys(cell.generator for cell in planned):
        file = plan.artifact_path(workdir, name).parent / "config.json"
        if sweep.generators[name] is not None and file.exists():
            config = plan.protection(sweep, name)
            meant = {
                "data": protect.data_settings(config.data),
                "generator": config.generator.to_plain(),
                "select": dataclasses.asdict(config.select),
                "export": config.export,
                "seed": config.seed,
                **protect.code_of(config),
            }
            found = run_directory.read_json(file)
            run_directory.check_same(file.parent, found, meant, whole=False)


def _record_failure(
    sweep: Sweep, workdir: pathlib.Path, cell: Cell, error: run_directory.Failed
) -> None:
    """Marks a run that came to nothing, so that no process tries it again."""
    _LOGGER.warning("%s", error)
    note: dict[str, Any] = {"why": str(error)}
    folder = cell.folder(workdir)
    path = plan.artifact_path(workdir, cell.generator)
    if sweep.generators[cell.generator] is not None and not path.exists():
        folder = path.parent
    else:
        note["training"] = plan.expected(sweep, workdir, cell)
    folder.mkdir(parents=True, exist_ok=True)
    run_directory.write_json(folder / _FAILED, note)


def _failure(sweep: Sweep, workdir: pathlib.Path, cell: Cell) -> str | None:
    """Why a cell of these settings came to nothing, if it or its generator did."""
    generator = plan.artifact_path(workdir, cell.generator).parent / _FAILED
    if sweep.generators[cell.generator] is not None and generator.exists():
        # Of these settings, as was checked in the beginning.
        return run_directory.read_json(generator, needed=("why",))["why"]
    file = cell.folder(workdir) / _FAILED
    if not file.exists():
        return None
    note = run_directory.read_json(file, needed=("why", "training"))
    expected = plan.expected(sweep, workdir, cell)
    run_directory.check_same(file, note["training"], expected)
    return note["why"]


def _finished(sweep: Sweep, workdir: pathlib.Path, cell: Cell) -> dict[str, Any] | None:
    """The results of a cell if it is done, by whichever process."""
    file = cell.folder(workdir) / evaluate.RESULTS
    if not file.exists():
        return None
    return evaluate.read_results(file, plan.expected(sweep, workdir, cell))


def report(
    sweep: Sweep,
    workdir: pathlib.Path,
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
    found = {cell: _finished(sweep, workdir, cell) for cell in planned}
    done = {cell: results for cell, results in found.items() if results is not None}
    for name in dict.fromkeys(cell.generator for cell in done):
        if sweep.generators[name] is not None and name not in made:
            path = plan.artifact_path(workdir, name)
            made[name] = artifact.load(path).metadata
            if not made[name].keys() >= set(summary.KEPT):
                raise ValueError(f"{path} was not made by a sweep")
    failed = {
        cell: _failure(sweep, workdir, cell) for cell in planned if cell not in done
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


def run_workers(
    count: int,
    sweep: Sweep,
    workdir: pathlib.Path,
    *,
    resume: bool = True,
    progress: bool = True,
) -> dict[str, Any]:
    """Runs a sweep in several processes at once, each on a device of its own.

    Args:
      count: processes.
      sweep: the settings.
      workdir: directory of the sweep.
      resume: whether to resume runs that were stopped.
      progress: whether to show a progress bar.

    Returns:
      What results.json holds.

    Raises:
      ValueError: if an input is bad, and nothing is written then.

    Example:
      The processes start anew, which takes a while:

      >>> import pathlib
      >>> import miue_jax as mj
      >>> from miue_jax.workflows.sweep import run
      >>> sweep = mj.Sweep(generators=["clean", "random_noise"], seeds=range(4))
      >>> results = run.run_workers(2, sweep, pathlib.Path("runs"))  # doctest: +SKIP
    """
    if not resume and (workdir / "config.json").exists():
        raise ValueError(f"{workdir} holds a run already; pass --resume to resume it")
    planned = plan.cells(sweep)
    # Workers resume what another of them has begun.
    with tempfile.TemporaryDirectory() as folder:
        settings = pathlib.Path(folder, "sweep.json")
        run_directory.write_json(settings, sweep.to_plain())
        command = [sys.executable, "-m", "miue_jax", "sweep-worker"]
        files = [cell.folder(workdir) / evaluate.RESULTS for cell in planned]
        done = sum(file.exists() for file in files)
        # Bad input is one line: workers find it before a bar is drawn.
        with loop.progress(
            len(files), done, delay=_SECONDS_TO_CHECK, quiet=not progress
        ) as bar:
            workers.run(
                count,
                [*command, str(settings), str(workdir), str(os.getpid())],
                workdir / ".logs",
                lambda: bar.update(sum(file.exists() for file in files) - bar.n),
            )
    # This process sees other devices than the workers, and runs no cell.
    return report(sweep, workdir, planned, {})
