"""Estimators of mutual information on the 40 tasks of the Beyond Normal benchmark.

    python experiments/benchmark_estimators.py --workdir runs/estimators

The result is results/estimators.json, mean absolute errors in nats: 0.24 and 0.22 for
KSG, 0.17 for the Gaussian ones, 0.19 for InfoNCE, 0.23 and 0.24 for Donsker-Varadhan
and SMILE; NWJ diverges on Student tails. It takes 46 minutes of one busy core, most of
them for training critics: at 5,000 samples 0.3 s for KSG, 3 to 4 s for a critic, which
takes 6 s to compile for each number of dimensions. In the table the first three rows,
KSG with k = 10, InfoNCE and MINE stand beside published figures. For a part of it, name
rows and seeds: `--rows gaussian_corrected ksg_10 --seeds 0`.

Every cell (size, seed, estimator, task) is a line of cells.jsonl, written when it is
done; rerun the command to resume. Several processes in one directory share the work.
results.json, table.md and estimates-N.png, one plot per size, show what is done so far.

Times are of a call that compiles nothing, see `accuracy.measuring.measure`. On a shared
machine read the processor time.
"""

import contextlib
import dataclasses
import functools
import importlib.metadata
import math
import pathlib
import platform
import sys
import time
from typing import Any, NamedTuple

import jax
from accuracy import cell_log, measuring, plot, summary
from accuracy.config import Benchmark

from miue_jax import _checks, _command_line, _settings
from miue_jax.data import atomic, memory, public
from miue_jax.information import tasks
from miue_jax.train import loop, run_directory
from miue_jax.workflows import estimator_table

PROG = "benchmark_estimators.py"
RESULTS = "results.json"
TABLE = "table.md"

# Between two looks at what other processes are doing.
_SECONDS_TO_WAIT = 5.0


_Compiled = dict[str, set[tuple[int, ...]]]


class _Work(NamedTuple):
    calls: dict[str, measuring.Call]
    tasks: dict[str, tasks.Task]
    draws: dict[str, measuring.Draw]
    cells: list[cell_log.Cell]


def run(
    config: Benchmark, workdir: pathlib.Path, *, resume: bool = True
) -> dict[str, Any]:
    """Runs, or finishes, a benchmark.

    Args:
      config: the settings.
      workdir: the directory of the benchmark.
      resume: whether one that was stopped may be continued.

    Returns:
      What results.json holds.

    Raises:
      ValueError: if any input is bad, and nothing is written then.
      Stopped: after a signal, between two cells.
    """
    work = prepare(config)
    with contextlib.ExitStack() as stack:
        stack.enter_context(
            run_directory.open_directory(
                workdir, _settings.to_plain(config), resume=resume, shared=True
            )
        )
        log = cell_log.CellLog(workdir, stack)
        received = stack.enter_context(loop.stop_signals())
        bar = stack.enter_context(loop.progress(len(work.cells), len(log.rows)))
        compiled: _Compiled = {label: set() for label in work.calls}
        left = dict(enumerate(work.cells))
        while left:
            before = len(left)
            for index, cell in list(left.items()):
                if received:
                    print("stopped by a signal; rerun to resume", file=sys.stderr)
                    raise loop.Stopped(128 + received[0])
                with log.claim(index) as mine:
                    if mine:
                        _finish(cell, config, work, log, workdir, compiled)
                        del left[index]
                bar.update(len(log.rows) - bar.n)
            if len(left) == before:
                time.sleep(_SECONDS_TO_WAIT)
        results = _collect(config, work, log)
        results["conditional_ksg"] = _speed(config, workdir)
    return _write(results, log, workdir)


def prepare(config: Benchmark) -> _Work:
    """Finds what is wrong with a configuration before anything runs.

    Args:
      config: the settings.

    Returns:
      What to run, in order.

    Raises:
      ValueError: naming what is wrong.
    """
    _checks.check_seeds("seeds", config.seeds)
    for name in ("rows", "tasks", "sizes"):
        given = getattr(config, name)
        if not isinstance(given, list | tuple) or not given:
            raise ValueError(f"{name} is {given!r}; it must be a list of at least one")
        if len(set(given)) < len(given):
            raise ValueError(f"{name} is {tuple(given)}; they must differ")
    for name, value in dataclasses.asdict(config.speed).items():
        _checks.check_number(f"speed.{name}", value, "> 0", whole=True)
    # Of x and y in two precisions.
    values = config.speed.size * config.speed.dim
    memory.check(2 * (4 + 8) * values, f"speed.size is {config.speed.size}, which")
    for size in config.sizes:
        if type(size) is not int or not 2 <= size < 2**31:
            raise ValueError(
                f"sizes holds {_checks.shown(size)}; allowed: integers from 2 to "
                "2**31 - 1"
            )
    made = {name: tasks.create(name) for name in config.tasks}
    for name, task in made.items():
        if not math.isfinite(task.information):
            raise ValueError(f"task {name!r} has a truth of {task.information} nats")
    shapes = sorted({(task.dim_x, task.dim_y) for task in made.values()})
    calls = {}
    for label in config.rows:
        if label not in config.estimators:
            raise _checks.unknown("row", label, config.estimators)
        calls[label] = measuring.prepare(label, config, shapes=shapes)
    draws: dict[str, measuring.Draw] = {}
    for name, task in made.items():
        draws[name] = jax.jit(task.sample, static_argnums=1)
    cells = [
        cell_log.Cell(size, seed, label, name)
        for size in sorted(config.sizes)
        for seed in config.seeds
        for label in config.rows
        for name in config.tasks
    ]
    return _Work(calls, made, draws, cells)


def _speed(config: Benchmark, workdir: pathlib.Path) -> dict[str, Any]:
    """Times KSG within classes, once in a directory."""
    file = workdir / "conditional_ksg.json"
    if not file.exists():
        measured = measuring.conditional_ksg(config.speed)
        run_directory.write_json(file, {**measured, "hardware": _hardware()})
    return run_directory.read_json(file, needed=("first_seconds", "median_seconds"))


def _finish(
    cell: cell_log.Cell,
    config: Benchmark,
    work: _Work,
    log: cell_log.CellLog,
    workdir: pathlib.Path,
    compiled: _Compiled,
) -> None:
    """Does a cell that is claimed, unless it is done."""
    # Whoever had claimed it before may have finished it.
    log.refresh()
    if cell in log.rows:
        return
    measured = measuring.measure(
        work.calls[cell.estimator],
        work.tasks[cell.task],
        work.draws[cell.task],
        size=cell.size,
        seed=cell.seed,
        compiled=compiled[cell.estimator],
    )
    log.append({**cell._asdict(), **measured, "hardware": _hardware()})
    run_directory.write_json(workdir / RESULTS, _collect(config, work, log))


@functools.cache
def _hardware() -> str:
    processor = platform.processor() or platform.machine()
    return f"{processor}, {jax.local_device_count()} x {jax.devices()[0].device_kind}"


def _collect(config: Benchmark, work: _Work, log: cell_log.CellLog) -> dict[str, Any]:
    """What is done so far, by whichever process."""
    versions = {name: importlib.metadata.version(name) for name in ("jax", "numpy")}
    return {
        "command": public.command(["python", f"experiments/{PROG}", *sys.argv[1:]]),
        "hardware": sorted({row["hardware"] for row in log.rows.values()}),
        "versions": {"python": platform.python_version(), **versions},
        "float": "float64" if jax.config.values["jax_enable_x64"] else "float32",
        "sizes": sorted(config.sizes),
        "seeds": list(config.seeds),
        **summary.summarize(config, work.cells, log.rows),
    }


def _write(
    results: dict[str, Any], log: cell_log.CellLog, workdir: pathlib.Path
) -> dict[str, Any]:
    run_directory.write_json(workdir / RESULTS, results)
    with atomic.write_file(workdir / TABLE) as file:
        file.write(estimator_table.render(results).encode())
    for size in results["sizes"]:
        rows = [row for cell, row in log.rows.items() if cell.size == size]
        titles = {e["label"]: e["title"] for e in results["estimators"]}
        plot.estimates(workdir / f"estimates-{size}.png", rows, titles)
    return results


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(Benchmark):
    """Compares estimators of mutual information on tasks of known truth.

    Attributes:
      workdir: directory of the benchmark; rerun the same command to resume.
      resume: resume a benchmark that is in the directory.
    """

    workdir: pathlib.Path = pathlib.Path("runs/estimators")
    resume: bool = True


def main() -> None:
    """Runs and prints the table."""
    options = _command_line.parse(Options, sys.argv[1:], prog=PROG)
    fields = [field.name for field in dataclasses.fields(Benchmark)]
    config = Benchmark(**{name: getattr(options, name) for name in fields})
    _command_line.keep_compiled()
    results = run(config, options.workdir, resume=options.resume)
    print(estimator_table.render(results))
    print(
        f"{options.workdir / RESULTS}: {results['finished']} of {results['planned']} "
        "cells"
    )


if __name__ == "__main__":
    sys.exit(_command_line.run(main, PROG))
