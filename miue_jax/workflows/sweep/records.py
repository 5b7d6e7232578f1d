"""What a sweep has left in its directory: its settings, results and failures."""

import dataclasses
import logging
from collections.abc import Iterable
from typing import Any

import jax

from miue_jax.data import artifact
from miue_jax.data.bucket import Place
from miue_jax.train import parallel, run_directory
from miue_jax.workflows import evaluate, protect
from miue_jax.workflows.sweep import plan
from miue_jax.workflows.sweep.plan import AXES, Cell, Sweep

# The settings that were last started in a directory, and what its names stand for.
SETTINGS = "sweep.json"

# In the folder of a cell whose training diverged, or of a generator that failed, which
# leaves its cells without data; removing it lets them run once more.
FAILED = ".failed.json"

_LOGGER = logging.getLogger("miue_jax")


def claim(sweep: Sweep, workdir: Place) -> None:
    """Records the settings in the directory, in which names go on to mean the same.

    Cells that wait in a queue are found by name: two sweeps may share a directory as
    long as no row, column or victim is one thing to the first and another to the
    second.

    Args:
      sweep: the settings.
      workdir: directory of the sweep, which exists.

    Raises:
      ValueError: naming the first setting that differs.
    """
    with parallel.together():
        if jax.process_index() == 0:
            with run_directory.claiming(workdir):
                _claim(sweep.to_plain(), workdir / SETTINGS)


def _claim(plain: dict[str, Any], file: Place) -> None:
    before, names = _joined(plain, file)
    now = {"sweep": plain, "names": names}
    if now != before:
        run_directory.write_json(file, now)


def _joined(plain: dict[str, Any], file: Place) -> tuple[Any, dict[str, Any]]:
    """What a directory's record holds, and the names with those of these settings."""
    own = {axis: plain[axis] for axis in AXES}
    known: dict[str, Any] = {axis: {} for axis in AXES}
    before = None
    if file.exists():
        before = run_directory.read_json(file, needed=("sweep", "names"))
        known = before["names"]
    for axis in AXES:
        both = known[axis].keys() & own[axis].keys()
        meant = [{axis: {k: v[axis][k] for k in sorted(both)}} for v in (known, own)]
        run_directory.check_same(file, *meant)
    return before, {axis: known[axis] | own[axis] for axis in AXES}


def check(sweep: Sweep, workdir: Place) -> None:
    """Checks that a directory is one for these settings, and writes nothing.

    Args:
      sweep: the settings.
      workdir: directory of the sweep.

    Raises:
      ValueError: if it holds another sweep or something else.
    """
    run_directory.check_place(workdir)
    _joined(sweep.to_plain(), workdir / SETTINGS)
    check_protected(sweep, workdir, [cell.generator for cell in plan.cells(sweep)])


def read_settings(workdir: Place) -> Sweep:
    """The settings that were last started in a directory.

    Args:
      workdir: directory of the sweep.

    Returns:
      The settings.

    Raises:
      ValueError: if no sweep was started there, or their record is damaged.
    """
    file = workdir / SETTINGS
    if not file.exists():
        raise ValueError(f"{workdir} holds no sweep: name its data or a --config")
    return Sweep(**run_directory.read_json(file, needed=("sweep",))["sweep"])


def is_protected(workdir: Place, name: str) -> bool:
    """Whether a row's data set is protected.

    Args:
      workdir: directory of the sweep.
      name: of the row.
    """
    path = plan.artifact_path(workdir, name)
    return path.exists() and artifact.delta_path(path).exists()


def check_protected(sweep: Sweep, workdir: Place, names: Iterable[str]) -> None:
    """Checks that protected data sets, also unfinished ones, are of these settings.

    Args:
      sweep: the settings.
      workdir: directory of the sweep.
      names: of rows.

    Raises:
      ValueError: naming the first setting that differs.
    """
    for name in dict.fromkeys(names):
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


def finished(sweep: Sweep, workdir: Place, cell: Cell) -> dict[str, Any] | None:
    """The results of a cell if it is done, by whichever process.

    Args:
      sweep: the settings.
      workdir: directory of the sweep.
      cell: the cell.
    """
    file = cell.folder(workdir) / evaluate.RESULTS
    if not file.exists():
        return None
    return evaluate.read_results(file, plan.expected(sweep, workdir, cell))


def generator_failure(sweep: Sweep, workdir: Place, name: str) -> str | None:
    """Why a row's data set was not protected, if it came to nothing.

    Args:
      sweep: the settings, which are those of the data set, see `check_protected`.
      workdir: directory of the sweep.
      name: of the row.
    """
    file = plan.artifact_path(workdir, name).parent / FAILED
    if sweep.generators[name] is None or not file.exists():
        return None
    return run_directory.read_json(file, needed=("why",))["why"]


def failure(sweep: Sweep, workdir: Place, cell: Cell) -> str | None:
    """Why a cell of these settings came to nothing, if it or its generator did.

    Args:
      sweep: the settings.
      workdir: directory of the sweep.
      cell: the cell.
    """
    why = generator_failure(sweep, workdir, cell.generator)
    file = cell.folder(workdir) / FAILED
    if why is not None or not file.exists():
        return why
    note = run_directory.read_json(file, needed=("why", "training"))
    expected = plan.expected(sweep, workdir, cell)
    run_directory.check_same(file, note["training"], expected)
    return note["why"]


def record_generator_failure(
    workdir: Place, name: str, error: run_directory.Failed
) -> None:
    """Marks a row that came to nothing, so that no process tries it again.

    Args:
      workdir: directory of the sweep.
      name: of the row.
      error: why.
    """
    _record(plan.artifact_path(workdir, name).parent, {"why": str(error)})


def record_failure(
    sweep: Sweep, workdir: Place, cell: Cell, error: run_directory.Failed
) -> None:
    """Marks a cell that came to nothing, so that no process tries it again.

    Args:
      sweep: the settings.
      workdir: directory of the sweep.
      cell: the cell.
      error: why.
    """
    training = plan.expected(sweep, workdir, cell)
    _record(cell.folder(workdir), {"why": str(error), "training": training})


def _record(folder: Place, note: dict[str, Any]) -> None:
    _LOGGER.warning("%s", note["why"])
    folder.mkdir(parents=True, exist_ok=True)
    run_directory.write_json(folder / FAILED, note)
