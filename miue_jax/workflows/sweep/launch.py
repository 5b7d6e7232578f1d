"""Runs the cells of a sweep on an engine: processes of this machine, Slurm or Ray.

A launcher submits tasks, each after those that it waits for. What an engine runs is
`tasks.run_task`, so that a cell is the same bytes on all of them, and what it loses is
resumed by the next launch.
"""

import contextlib
import dataclasses
import functools
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from miue_jax import _checks
from miue_jax.data import atomic
from miue_jax.data.bucket import Place
from miue_jax.train import loop, run_directory
from miue_jax.workflows import evaluate
from miue_jax.workflows.sweep import plan, records, status
from miue_jax.workflows.sweep import tasks as commands
from miue_jax.workflows.sweep.plan import Sweep
from miue_jax.workflows.sweep.report import report
from miue_jax.workflows.sweep.tasks import Task

__all__ = ["Launcher", "Resources", "Submission", "launch"]

# Between two looks at the engine.
_SECONDS_TO_WAIT = 1.0

# Within which the processes have checked their input, as a rule.
_SECONDS_TO_CHECK = 30.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Resources:
    """What every cell asks an engine for.

    Attributes:
      cpus: processor cores.
      gpus: GPUs; on Ray also a part of one.
      tpus: TPU chips.
      minutes: time limit of a cell, on Slurm.

    Raises:
      ValueError: if a number is out of range.

    Example:
      >>> from miue_jax.workflows.sweep.launch import Resources
      >>> Resources(gpus=0.5).cpus
      1
    """

    cpus: int = 1
    gpus: float = 0.0
    tpus: int = 0
    minutes: int = 240

    def __post_init__(self) -> None:
        _checks.check_number("cpus", self.cpus, "> 0", whole=True)
        _checks.check_number("gpus", self.gpus, ">= 0")
        _checks.check_number("tpus", self.tpus, ">= 0", whole=True)
        _checks.check_number("minutes", self.minutes, "> 0", whole=True)
        if self.gpus > 1 and self.gpus != int(self.gpus):
            raise ValueError(f"gpus is {self.gpus}; allowed: whole numbers above 1")


class Submission(NamedTuple):
    """Cells that an engine works on.

    Attributes:
      ended: () -> whether none of them is queued or running any more.
      cancel: (signal number) -> None: stops them; those that run save their work.
      check: () -> None: raises a ValueError, or exits with the status of a process, if
        cells were lost.
      close: () -> None: frees what the submission holds.

    Example:
      >>> from miue_jax.workflows.sweep.launch import Submission
      >>> nothing = Submission(lambda: True, print, lambda: None, lambda: None)
      >>> nothing.ended()
      True
    """

    ended: Callable[[], bool]
    cancel: Callable[[int], None]
    check: Callable[[], None]
    close: Callable[[], None]


class Launcher(NamedTuple):
    """An engine.

    Attributes:
      submit: (sweep, workdir, tasks) -> the submission; tasks come behind those that
        they wait for, which may also be done already.
      checks: whether its processes check all input themselves before any begins.
      detached: whether its cells go on when the process that submitted them ends.

    Example:
      >>> from miue_jax.workflows.sweep.launch import Launcher
      >>> Launcher(lambda sweep, workdir, tasks: ...).detached
      False
    """

    submit: Callable[[Sweep, Place, Sequence[Task]], Submission]
    checks: bool = False
    detached: bool = False


def launch(
    sweep: Sweep,
    workdir: Place,
    launcher: Launcher,
    *,
    resume: bool = True,
    progress: bool = True,
    wait: bool = True,
) -> dict[str, Any]:
    """Runs, or finishes, a sweep on an engine.

    Args:
      sweep: the settings.
      workdir: directory of the sweep, on a file system that all of the engine's
        machines share.
      launcher: the engine.
      resume: whether to resume runs that were stopped.
      progress: whether to show a progress bar.
      wait: whether to wait until all cells have ended.

    Returns:
      What results.json holds so far.

    Raises:
      ValueError: if an input is bad or the engine cannot be reached, and nothing is
        written then; if the engine lost cells.

    Example:
      The processes start anew, which takes a while:

      >>> import pathlib
      >>> import miue_jax as mj
      >>> from miue_jax.workflows.sweep import launch
      >>> from miue_jax.workflows.sweep.launchers import local
      >>> sweep = mj.Sweep(generators=["clean", "random_noise"], seeds=range(4))
      >>> results = launch.launch(  # doctest: +SKIP
      ...     sweep, pathlib.Path("runs"), local.launcher(2)
      ... )
    """
    if not resume and (workdir / "config.json").exists():
        raise ValueError(f"{workdir} holds a run already; pass --resume to resume it")
    if not wait and not launcher.detached:
        raise ValueError("this launcher ends with the command; wait for it")
    planned = plan.cells(sweep)
    records.check(sweep, workdir)
    if not launcher.checks:
        _check_elsewhere(sweep)
    if left := _left(sweep, workdir):
        submit = functools.partial(launcher.submit, sweep, workdir, left)
        if not wait:
            submit()
        else:
            files = [cell.folder(workdir) / evaluate.RESULTS for cell in planned]
            done = sum(file.exists() for file in files)
            # Bad input is one line: it is found before a bar is drawn.
            with loop.progress(
                len(files), done, delay=_SECONDS_TO_CHECK, quiet=not progress
            ) as bar:
                follow(
                    submit,
                    lambda: bar.update(sum(file.exists() for file in files) - bar.n),
                )
    # Where no cell is left, nobody else looks after what a killed process was writing.
    atomic.remove_unfinished(workdir, below=False)
    # This process sees other devices than those that ran the cells, and runs none.
    return report(sweep, workdir, planned, {})


def _left(sweep: Sweep, workdir: Place) -> list[Task]:
    states = status.status(sweep, workdir).states
    return [
        task
        for task in commands.tasks(sweep)
        if states[task.name] not in ("done", "failed")
    ]


def follow(submit: Callable[[], Submission], look: Callable[[], object]) -> None:
    """Submits cells and waits until none of them is left.

    SIGTERM, SIGINT and SIGHUP are passed on, and answered once all have ended.

    Args:
      submit: () -> the submission.
      look: called about once a second meanwhile.

    Raises:
      ValueError: if cells were lost.
      SystemExit: with status 128 + n after signal n.
    """
    received: list[int] = []
    # Twice, for Ray puts its own handlers in the place of others as it starts.
    with _signals(received), _closing(submit()) as submission, _signals(received):
        passed = 0
        while not submission.ended():
            if received and not passed:
                print("stopping: waiting for the cells to save", file=sys.stderr)
            for number in received[passed:]:
                submission.cancel(number)
            passed = len(received)
            look()
            time.sleep(_SECONDS_TO_WAIT)
        if not received:
            submission.check()
    if received:
        print("stopped by a signal; rerun the same command to resume", file=sys.stderr)
        sys.exit(128 + received[0])


@contextlib.contextmanager
def _signals(received: list[int]) -> Iterator[None]:
    before = {
        number: signal.signal(number, lambda number, _: received.append(number))
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _closing(submission: Submission) -> Iterator[Submission]:
    try:
        yield submission
    finally:
        submission.close()


def _check_elsewhere(sweep: Sweep) -> None:
    """Finds what is wrong with any cell, in a process that leaves all devices alone."""
    with tempfile.TemporaryDirectory() as folder:
        settings = pathlib.Path(folder, "sweep.json")
        run_directory.write_json(settings, sweep.to_plain())
        done = subprocess.run(
            [sys.executable, "-m", "miue_jax", "sweep-check", str(settings)],
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        raise ValueError(lines[-1].removeprefix("miue sweep-check: "))
