"""How far a sweep is: which of its cells are done, running, failed or waiting."""

import statistics
import time
from collections.abc import Sequence
from typing import Literal, NamedTuple

from miue_jax.data import artifact
from miue_jax.data.bucket import Place
from miue_jax.train import run_directory
from miue_jax.workflows import evaluate
from miue_jax.workflows.sweep import plan, records
from miue_jax.workflows.sweep import tasks as commands
from miue_jax.workflows.sweep.plan import Sweep
from miue_jax.workflows.sweep.tasks import Task

__all__ = ["Status", "describe", "status"]

State = Literal["done", "running", "failed", "waiting"]


class Status(NamedTuple):
    """The states of all cells, generators first.

    Attributes:
      states: "done", "running", "failed" or "waiting", by name.
      failed: why those that failed did, by name.
      seconds_left: an estimate from the cells that are done; None where it takes more
        of them.

    Example:
      >>> from miue_jax.workflows.sweep.status import Status
      >>> Status({"em": "done"}, {}, 0.0).states["em"]
      'done'
    """

    states: dict[str, State]
    failed: dict[str, str]
    seconds_left: float | None


def status(sweep: Sweep, workdir: Place) -> Status:
    """Looks at what is in a sweep's directory, whoever works there.

    A cell is running if a process holds the lock of its folder, and waiting if nobody
    does, also where it was stopped. Nothing is written.

    Args:
      sweep: the settings.
      workdir: directory of the sweep.

    Returns:
      The states.

    Raises:
      ValueError: if the directory holds another sweep, or a file of it is damaged.

    Example:
      >>> import pathlib
      >>> from miue_jax.workflows.sweep import plan, status
      >>> sweep = plan.Sweep(generators=["clean", "one_pixel"])
      >>> print(status.describe(status.status(sweep, pathlib.Path("nothing"))))
      0 done, 0 running, 0 failed, 3 waiting
    """
    tasks = commands.tasks(sweep)
    records.check_protected(sweep, workdir, [task.generator for task in tasks])
    failed: dict[str, str] = {}
    states: dict[str, State] = {}
    for task in tasks:
        if _is_done(sweep, workdir, task):
            states[task.name] = "done"
        elif (why := commands.failed(sweep, workdir, task)) is not None:
            states[task.name] = "failed"
            failed[task.name] = why
        else:
            running = run_directory.is_locked(task.folder(workdir))
            states[task.name] = "running" if running else "waiting"
    return Status(states, failed, _seconds_left(workdir, tasks, states))


def describe(found: Status) -> str:
    """One line on the states, with the time left where it is known.

    Args:
      found: from `status`.

    Returns:
      The line.

    Example:
      >>> from miue_jax.workflows.sweep import status
      >>> found = status.Status({"em": "done", "lsp": "running"}, {}, 90.0)
      >>> status.describe(found)
      '1 done, 1 running, 0 failed, 0 waiting; about 2 min left'
    """
    values = list(found.states.values())
    named = ("done", "running", "failed", "waiting")
    text = ", ".join(f"{values.count(state)} {state}" for state in named)
    if not found.seconds_left or not {"running", "waiting"} & set(values):
        return text
    minutes = max(1, round(found.seconds_left / 60))
    left = f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
    return f"{text}; about {left} left"


def _is_done(sweep: Sweep, workdir: Place, task: Task) -> bool:
    if task.cell is None:
        return records.is_protected(workdir, task.generator)
    return records.finished(sweep, workdir, task.cell) is not None


def _seconds_left(
    workdir: Place, tasks: Sequence[Task], states: dict[str, State]
) -> float | None:
    """The time for what is left at the present pace, shared by those that run."""
    took = {
        task: _end(workdir, task) - began
        for task in tasks
        if states[task.name] == "done" and (began := _began(workdir, task)) is not None
    }
    total = 0.0
    for task in tasks:
        if states[task.name] not in ("running", "waiting"):
            continue
        estimate = _estimate(task, took)
        if estimate is None:
            return None
        began = _began(workdir, task)
        if states[task.name] == "running" and began is not None:
            estimate = max(0.0, estimate - (time.time() - began))
        total += estimate
    return total / max(1, list(states.values()).count("running"))


def _estimate(task: Task, took: dict[Task, float]) -> float | None:
    """The median time of the tasks most like this one."""
    kinds = [lambda t: t.cell is None]
    if task.cell is not None:
        own = task.cell
        kinds = [
            lambda t: t.cell is not None and t.cell[1:3] == own[1:3],
            lambda t: t.cell is not None and t.cell.victim == own.victim,
            lambda t: t.cell is not None,
        ]
    for like in kinds:
        seconds = [value for other, value in took.items() if like(other)]
        if seconds:
            return statistics.median(seconds)
    return None


def _began(workdir: Place, task: Task) -> float | None:
    try:
        return (task.folder(workdir) / "config.json").stat().st_mtime
    except FileNotFoundError:
        return None


def _end(workdir: Place, task: Task) -> float:
    folder = task.folder(workdir)
    if task.cell is not None:
        return (folder / evaluate.RESULTS).stat().st_mtime
    path = plan.artifact_path(workdir, task.generator)
    return max(p.stat().st_mtime for p in (path, artifact.delta_path(path)))
