"""A matrix of methods, defenses, victims and seeds, cell by cell.

    python experiments/matrix.py --config experiments/configs/matrix.py:cifar10_cpu \
        --config.data.name_or_path=path/to/cifar10 \
        --config.test.name_or_path=path/to/cifar10 --workdir runs/matrix --devices=2

Every protected data set and every victim is a run of its own below the working
directory, made once; the same command goes on where it was killed, and a configuration
with more methods, defenses or seeds may go on in the same directory. With --devices as
many processes work at a time, each on a device of its own; started several times on
one directory, by the same name, no cell is run twice either. Workers whose starter is
killed finish by themselves. A cell whose training diverges is marked by .failed.json in
its directory, and not tried again. results.json, table.md, table.csv and heat_map.png
show the cells of the configuration that are done so far, by whichever process.
"""

import pathlib
import re
import sys
import time
from collections.abc import Mapping
from typing import Any

import jax
from absl import flags, logging

from miue_jax import cli
from miue_jax.data import atomic
from miue_jax.train import loop, run_directory
from miue_jax.workflows import evaluate, protect
from miue_jax.workflows.sweep import plot, settings, summary, table, workers
from miue_jax.workflows.sweep.plan import Cell, cells

# In the directory of a cell whose training diverged, or of a generator that failed,
# which leaves its cells without data; removing it lets them run once more.
_FAILED = ".failed.json"

# Between two looks at what other processes are doing.
_SECONDS_TO_WAIT = 5.0

# Within which workers have checked their input, as a rule.
_SECONDS_TO_CHECK = 30.0

_DEVICES = flags.DEFINE_integer(
    "devices", None, "Processes to run at once, each on a device of its own."
)
_ALONE = flags.DEFINE_bool(
    "alone", False, "Join no cluster: what --devices says to its processes."
)


def run(
    config: Mapping[str, Any], workdir: pathlib.Path, *, resume: bool = True
) -> dict[str, Any]:
    """Runs, or finishes, a matrix.

    Args:
      config: as in experiments/configs/matrix.py.
      workdir: the directory of the matrix.
      resume: whether runs that were stopped may be continued.

    Returns:
      What results.json holds.

    Raises:
      ValueError: if any input is bad, and nothing is written then.
    """
    left = planned = cells(config)
    identity = settings.identity(config, *settings.check(config, planned))
    # What this process has made or checked itself is no run that was stopped.
    known: set[pathlib.Path] = set()
    made: dict[str, dict[str, Any]] = {}
    told: set[Cell] = set()
    with run_directory.open_directory(workdir, identity, resume=resume, shared=True):
        # What lies there of other settings is found before anything runs.
        settings.check_protected(config, workdir, planned)
        _report(config, workdir, planned, made)
        while left:
            busy = []
            for cell in left:
                if _finished(config, workdir, cell) is not None:
                    continue
                if _failure(config, workdir, cell) is not None:
                    continue
                try:
                    if cell not in told:
                        logging.warning("cell: %s", cell.folder(workdir).name)
                        told.add(cell)
                    _run_cell(config, workdir, cell, resume=resume, known=known)
                except run_directory.Busy:
                    busy.append(cell)
                    continue
                except run_directory.Failed as error:
                    _note_failure(config, workdir, cell, error)
                    continue
                _report(config, workdir, planned, made)
            if len(busy) == len(left):
                time.sleep(_SECONDS_TO_WAIT)
            left = busy
        return _report(config, workdir, planned, made)


def _run_cell(
    config: Mapping[str, Any],
    workdir: pathlib.Path,
    cell: Cell,
    *,
    resume: bool,
    known: set[pathlib.Path],
) -> None:
    """Trains the victim of a cell; its training data are protected first if need be."""
    if config["methods"][cell.method] is not None:
        made = settings.artifact(workdir, cell.method).parent
        protection = settings.protection(config, cell.method)
        protect.run(protection, made, resume=resume or made in known)
        known.add(made)
    folder = cell.folder(workdir)
    train = settings.train_data(config, workdir, cell)
    evaluate.run(settings.training(config, cell, train), folder, resume=resume)


def _note_failure(
    config: Mapping[str, Any],
    workdir: pathlib.Path,
    cell: Cell,
    error: run_directory.Failed,
) -> None:
    """Leaves a mark of a run that came to nothing, so that nobody tries it again."""
    logging.warning("%s", error)
    note: dict[str, Any] = {"why": str(error)}
    folder, artifact = cell.folder(workdir), settings.artifact(workdir, cell.method)
    if config["methods"][cell.method] is not None and not artifact.exists():
        folder = artifact.parent
    else:
        note["training"] = settings.victim(config, workdir, cell)
    folder.mkdir(parents=True, exist_ok=True)
    run_directory.write_json(folder / _FAILED, note)


def _failure(
    config: Mapping[str, Any], workdir: pathlib.Path, cell: Cell
) -> str | None:
    """Why a cell came to nothing, if it or its generator did, in this way."""
    generator = settings.artifact(workdir, cell.method).parent / _FAILED
    if config["methods"][cell.method] is not None and generator.exists():
        # Of the settings that are meant, as was checked in the beginning.
        return run_directory.read_json(generator, needed=("why",))["why"]
    file = cell.folder(workdir) / _FAILED
    if not file.exists():
        return None
    note = run_directory.read_json(file, needed=("why",))
    if "training" not in note:
        return None  # of a version that did not write them down
    run_directory.check_same(
        file, note["training"], settings.victim(config, workdir, cell)
    )
    return note["why"]


def _finished(
    config: Mapping[str, Any], workdir: pathlib.Path, cell: Cell
) -> dict[str, Any] | None:
    """The results of a cell if it is done, by whichever process, in this way."""
    file = cell.folder(workdir) / evaluate.RESULTS
    if not file.exists():
        return None
    return evaluate.read_results(file, settings.victim(config, workdir, cell))


def _report(
    config: Mapping[str, Any],
    workdir: pathlib.Path,
    planned: list[Cell],
    made: dict[str, dict[str, Any]],
) -> dict[str, Any]:
    """Writes what is done so far, with the metadata of the protected data in `made`.

    Those that are not in it yet are read. Returns what results.json holds.
    """
    found = {cell: _finished(config, workdir, cell) for cell in planned}
    done = {cell: results for cell, results in found.items() if results is not None}
    for method in dict.fromkeys(cell.method for cell in done):
        if config["methods"][method] is not None and method not in made:
            artifact = settings.artifact(workdir, method)
            made[method] = artifact.load(artifact).metadata
            if not made[method].keys() >= set(summary.KEPT):
                raise ValueError(f"{artifact} was not made by this script")
    failed = {
        cell: _failure(config, workdir, cell) for cell in planned if cell not in done
    }
    failed = {cell: why for cell, why in failed.items() if why is not None}
    results = summary.summarize(config, made, done, failed, planned)
    if (done or failed) and jax.process_index() == 0:
        # Other processes may write them too, what they know is whole either way.
        run_directory.write_json(workdir / evaluate.RESULTS, results)
        for name, text in (
            ("table.md", table.render(results)),
            ("table.csv", table.to_csv(results)),
        ):
            with atomic.write_file(workdir / name) as file:
                file.write(text.encode())
        plot.heat_map(workdir / "heat_map.png", results)
    return results


def main(config: dict[str, Any], workdir: pathlib.Path, resume: bool) -> None:
    """Runs and prints what came out."""
    if _DEVICES.value is not None:
        if not resume and (workdir / "config.json").exists():
            raise ValueError(f"{workdir} holds a run already; pass --resume to go on")
        _run_workers(_DEVICES.value, config, workdir)
        # All is done; this process sees other devices than they, and runs no cell.
        results = _report(config, workdir, cells(config), {})
    else:
        results = run(config, workdir, resume=resume)
    told = f", {len(results['failed'])} failed" if results["failed"] else ""
    print(
        f"{workdir / evaluate.RESULTS}: {results['done']} of {results['planned']} "
        f"cells are done{told}"
    )


def _run_workers(count: int, config: dict[str, Any], workdir: pathlib.Path) -> None:
    planned = cells(config)
    # Workers go on with what another of them has begun.
    own = re.compile(r"--?(devices|(no)?resume)(=.*)?")
    rest, skip = [], False
    for argument in sys.argv:
        if not skip and not own.fullmatch(argument):
            rest.append(argument)
        skip = argument in ("--devices", "-devices")
    rest.append("--alone")
    files = [cell.folder(workdir) / evaluate.RESULTS for cell in planned]
    # Bad input is one line: workers have found it before a bar is drawn.
    done = sum(file.exists() for file in files)
    with loop.progress(len(files), done, delay=_SECONDS_TO_CHECK) as bar:
        workers.run(
            count,
            [sys.executable, *rest],
            workdir / ".logs",
            lambda: bar.update(sum(file.exists() for file in files) - bar.n),
        )


if __name__ == "__main__":
    cli.run(
        main,
        config_file="experiments/configs/matrix.py",
        description="What to run.",
        alone=lambda: _ALONE.value or _DEVICES.value is not None,
    )
