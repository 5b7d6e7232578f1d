"""Cells a minute of a sweep whose cells do next to nothing, by launcher.

    python experiments/launchers.py --launchers ray local slurm --workers 1 \
        --cells 40 --json results/launchers_cpu.json

The result is results/launchers_cpu.json: 49 cells a minute by Ray, 114 by `local` and
27 by Slurm, with their start. It takes three minutes on two cores. A cell trains a
linear network for one epoch on 40 random images of 8x8 pixels, with programs that the
first one has compiled. What is measured is what starting it costs beyond that.
``cells_per_minute`` is from the start of the command to its end, with the start of the
engine and the checks; ``cells_per_minute_after_start`` is from the end of the first
cell to the end of the last. On a busy machine both say little: ``cpu_seconds_per_cell``
is the processor time of this process and of all that it has started, on Linux; the
daemons of Slurm are not among them, nor what they start.

Ray's workers and those of ``local`` run cell after cell; Slurm starts a process for
each. ``slurm`` needs a cluster, such as the one of one machine that
tests/workflows/test_sweep_slurm.py starts.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import platform
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from miue_jax import _checks, _command_line
from miue_jax.workflows.sweep import launch, plan
from miue_jax.workflows.sweep.launch import Launcher
from miue_jax.workflows.sweep.launchers import local, ray, slurm

PROG = "launchers.py"

_SECONDS_TO_LOOK = 1.0

_LAUNCHERS = ("local", "ray", "slurm")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Counts the cells a minute of launchers.

    Attributes:
      launchers: local, ray, slurm.
      workers: processes at once, of local; the others take what there is.
      cells: of the sweep.
      json: file for the results.
    """

    launchers: tuple[str, ...] = ("ray", "local")
    workers: int = 1
    cells: int = 40
    json: pathlib.Path | None = None


def run(options: Options) -> dict[str, Any]:
    """Runs the sweep by every launcher.

    Args:
      options: of the command.

    Returns:
      What the JSON file holds.

    Raises:
      ValueError: for an unknown launcher, a number that is not positive, or an engine
        that is not there.
    """
    if not options.launchers:
        raise ValueError(f"launchers are missing; allowed: {', '.join(_LAUNCHERS)}")
    for name in options.launchers:
        _checks.check_choice("launchers", name, _LAUNCHERS)
    _checks.check_number("workers", options.workers, "> 0", whole=True)
    _checks.check_number("cells", options.cells, "> 0", whole=True)
    made: dict[str, Launcher] = {
        "local": local.launcher(options.workers),
        "ray": ray.launcher(),
        "slurm": slurm.launcher(),
    }
    results = {}
    for name in options.launchers:
        # On a file system that the nodes of Slurm see, too.
        with tempfile.TemporaryDirectory(dir=".") as folder:
            place = pathlib.Path(folder).absolute()
            results[name] = _measure(made[name], place, options.cells)
            print(f"{name}: {json.dumps(results[name])}", flush=True)
    return {
        "num_cells": options.cells,
        "workers": options.workers,
        "results": results,
        "hardware": {
            "processor": platform.processor() or platform.machine(),
            "cores_used": len(os.sched_getaffinity(0)),
            # Above the number of cores used, neighbors were busy.
            "load_average": os.getloadavg()[0],
        },
    }


def _measure(launcher: Launcher, folder: pathlib.Path, cells: int) -> dict[str, float]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 8, 8, 3), np.uint8)
    labels = np.arange(40) % 2
    data = folder / "data.npz"
    np.savez(data, x_train=images, y_train=labels, x_test=images, y_test=labels)
    sweep = plan.Sweep(
        data=str(data),
        generators=["clean"],
        victims={"linear": {"model": "linear", "epochs": 1, "batch_size": 8}},
        seeds=range(cells),
    )
    began, workdir = time.time(), folder / "run"
    with _processor_time() as seconds:
        results = launch.launch(sweep, workdir, launcher, progress=False)
    ended = time.time()
    if results["done"] != cells:
        raise ValueError(f"{results['done']} of {cells} cells are done")
    done = sorted(x.stat().st_mtime for x in workdir.glob("cells/*/results.json"))
    return {
        "seconds": round(ended - began, 1),
        "seconds_to_first_cell": round(done[0] - began, 1),
        "cpu_seconds_per_cell": round(sum(seconds.values()) / cells, 2),
        "cells_per_minute": round(60 * cells / (ended - began), 1),
        "cells_per_minute_after_start": round(
            60 * (cells - 1) / max(done[-1] - done[0], 1e-9), 1
        ),
    }


@contextlib.contextmanager
def _processor_time() -> Iterator[dict[int, float]]:
    """Seconds of this process and of those below it, by number, within the context."""
    own, seen = os.getpid(), {}
    first = _times_below(own)
    ended = threading.Event()

    def look() -> None:
        # What a process took is gone with it, and its parent may not have waited.
        for pid, seconds in _times_below(own).items():
            seen[pid] = seconds - first.get(pid, 0.0)

    def work() -> None:
        while not ended.wait(_SECONDS_TO_LOOK):
            look()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()
        look()


def _times_below(ancestor: int) -> dict[int, float]:
    parents, times = {}, {}
    for file in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # The name of the program is in brackets, and may hold blanks.
            fields = file.read_text().rpartition(")")[2].split()
            pid = int(file.parent.name)
            parents[pid] = int(fields[1])
            times[pid] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def is_below(pid: int) -> bool:
        while pid not in (0, ancestor):
            pid = parents.get(pid, 0)
        return pid == ancestor

    return {pid: seconds for pid, seconds in times.items() if is_below(pid)}


def main() -> None:
    """Measures, prints and writes what the options ask for."""
    _command_line.measure(Options, run, PROG)


if __name__ == "__main__":
    sys.exit(_command_line.run(main, PROG))
