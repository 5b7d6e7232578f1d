"""The cells of a sweep as commands: each is run by itself, by whatever engine.

A sweep's protected data sets come first, then its victims, which wait for theirs. A
task is known by its name, the generator's or that of the victim's folder, which stays
as it is when others are added to the sweep.
"""

import time
from typing import NamedTuple

from miue_jax import _checks
from miue_jax.data.bucket import Place
from miue_jax.train import run_directory
from miue_jax.workflows import evaluate, protect
from miue_jax.workflows.sweep import plan, records
from miue_jax.workflows.sweep.plan import Cell, Sweep

__all__ = ["Task", "find", "run_task", "tasks"]

# Between two looks at a cell that another process works on.
_SECONDS_TO_WAIT = 2.0


class Task(NamedTuple):
    """A protected data set to make, or a victim to train.

    Attributes:
      name: what `run_task` calls it.
      generator: the row of the data set.
      cell: the victim; None for a protected data set.
      after: names of the tasks that must be done before.

    Example:
      >>> from miue_jax.workflows.sweep.tasks import Task
      >>> Task("em", "em", None, ()).after
      ()
    """

    name: str
    generator: str
    cell: Cell | None
    after: tuple[str, ...]

    def folder(self, workdir: Place) -> Place:
        """The folder of its run in the directory of the sweep."""
        if self.cell is not None:
            return self.cell.folder(workdir)
        return plan.artifact_path(workdir, self.generator).parent


def tasks(sweep: Sweep) -> list[Task]:
    """Lists what a sweep consists of: generators, then victims, in their order.

    Args:
      sweep: the settings.

    Returns:
      The tasks.

    Example:
      >>> from miue_jax.workflows.sweep import plan, tasks
      >>> sweep = plan.Sweep(generators=["clean", "one_pixel"])
      >>> for task in tasks.tasks(sweep):
      ...     print(task.name, task.after)
      one_pixel ()
      clean-none-quick-seed_0 ()
      one_pixel-none-quick-seed_0 ('one_pixel',)
    """
    cells = plan.cells(sweep)
    made = [
        name
        for name in dict.fromkeys(cell.generator for cell in cells)
        if sweep.generators[name] is not None
    ]
    return [Task(name, name, None, ()) for name in made] + [
        Task(
            cell.name,
            cell.generator,
            cell,
            (cell.generator,) if cell.generator in made else (),
        )
        for cell in cells
    ]


def find(sweep: Sweep, name: str) -> Task:
    """Finds a task by its name.

    Args:
      sweep: the settings.
      name: of the task.

    Returns:
      The task.

    Raises:
      ValueError: if there is none of that name.

    Example:
      >>> from miue_jax.workflows.sweep import plan, tasks
      >>> sweep = plan.Sweep(generators=["clean"])
      >>> tasks.find(sweep, "clean-none-quick-seed_0").cell.seed
      0
    """
    found = {task.name: task for task in tasks(sweep)}
    if name not in found:
        raise _checks.unknown("cell", name, found)
    return found[name]


def run_task(
    sweep: Sweep, workdir: Place, name: str, *, progress: bool = False
) -> str | None:
    """Runs one task, or finishes it; where it is done, it is checked and left as it is.

    It waits while another process works on the same one.

    Args:
      sweep: the settings.
      workdir: directory of the sweep, which other processes may share.
      name: of the task.
      progress: whether to show a progress bar.

    Returns:
      None, or why it came to nothing, as it would again: it is marked and not tried
      any more.

    Raises:
      ValueError: if an input is bad, the directory holds another sweep, or something
        must be done before. Nothing is written then.

    Example:
      >>> import pathlib, tempfile
      >>> import miue_jax as mj
      >>> from miue_jax.workflows.sweep import tasks
      >>> sweep = mj.Sweep(
      ...     data=mj.data.DataSource("shapes", per_class=4),
      ...     test=mj.data.DataSource("shapes", split="test", per_class=2),
      ...     generators=["clean"],
      ...     victims={"linear": mj.victims.preset("quick", model="linear", epochs=1)},
      ... )
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     workdir = pathlib.Path(folder, "sweep")
      ...     print(tasks.run_task(sweep, workdir, "clean-none-linear-seed_0"))
      None
    """
    task = find(sweep, name)
    if task.after and not _can_start(sweep, workdir, task):
        raise ValueError(f"{name} waits for {task.after[0]}, which is not done")
    cell = next(c for c in plan.cells(sweep) if c.generator == task.generator)
    identity = plan.check(sweep, [task.cell or cell])
    with run_directory.open_directory(workdir, identity, resume=True, shared=True):
        records.check_protected(sweep, workdir, [task.generator])
        records.claim(sweep, workdir)
        while True:
            why = failed(sweep, workdir, task)
            if why is not None:
                return why
            try:
                if task.cell is None:
                    make_protected(sweep, workdir, name, progress=progress)
                else:
                    train_victim(sweep, workdir, task.cell, progress=progress)
            except run_directory.Busy:
                time.sleep(_SECONDS_TO_WAIT)
                continue
            except run_directory.Failed:
                continue  # it is marked
            return None


def failed(sweep: Sweep, workdir: Place, task: Task) -> str | None:
    """Why a task came to nothing, if it, or what it waits for, did.

    Args:
      sweep: the settings.
      workdir: directory of the sweep.
      task: the task.
    """
    if task.cell is None:
        return records.generator_failure(sweep, workdir, task.generator)
    return records.failure(sweep, workdir, task.cell)


def _can_start(sweep: Sweep, workdir: Place, task: Task) -> bool:
    return all(
        records.is_protected(workdir, name)
        or records.generator_failure(sweep, workdir, name) is not None
        for name in task.after
    )


def make_protected(
    sweep: Sweep,
    workdir: Place,
    name: str,
    *,
    resume: bool = True,
    progress: bool = False,
) -> None:
    """Protects the data set of a row, and marks it if that comes to nothing.

    Args:
      sweep: the settings.
      workdir: directory of the sweep.
      name: of the row.
      resume: whether to resume a run that was stopped.
      progress: whether to show a progress bar.

    Raises:
      Failed: if it comes to nothing.
      Busy: if another process works on it.
    """
    folder = plan.artifact_path(workdir, name).parent
    config = plan.protection(sweep, name)
    try:
        protect.run(config, folder, resume=resume, progress=progress)
    except run_directory.Failed as error:
        records.record_generator_failure(workdir, name, error)
        raise


def train_victim(
    sweep: Sweep,
    workdir: Place,
    cell: Cell,
    *,
    resume: bool = True,
    progress: bool = False,
) -> None:
    """Trains the victim of a cell, and marks the cell if that comes to nothing.

    Args:
      sweep: the settings.
      workdir: directory of the sweep.
      cell: the victim.
      resume: whether to resume a run that was stopped.
      progress: whether to show a progress bar.

    Raises:
      Failed: if it comes to nothing.
      Busy: if another process works on it.
    """
    train = plan.train_data(sweep, workdir, cell)
    config = plan.training(sweep, cell, train)
    folder = cell.folder(workdir)
    try:
        evaluate.run(config, folder, resume=resume, progress=progress)
    except run_directory.Failed as error:
        records.record_failure(sweep, workdir, cell, error)
        raise
