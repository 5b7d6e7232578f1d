"""A matrix of methods, defences, victims and seeds, cell by cell.

    python experiments/matrix.py --config experiments/configs/matrix.py:cifar10_cpu \
        --config.data.name_or_path=path/to/cifar10 \
        --config.test.name_or_path=path/to/cifar10 --workdir runs/matrix --devices=2

Every protected data set and every victim is a run of its own below the working
directory, made once; the same command goes on where it was killed, and a configuration
with more methods, defences or seeds may go on in the same directory. With --devices as
many processes work at a time, each on a device of its own; started several times on one
directory, on one machine or many, no cell is run twice either. results.json, table.md,
table.csv and heat_map.png show the cells that are done so far.
"""

import pathlib
import sys
import time
from collections.abc import Mapping
from typing import Any

import command_line
import evaluate
import generate
import jax
import runs
from absl import flags, logging
from comparison import plot, summary, table, workers
from comparison.plan import Cell, cells

from miue_jax import atomic, data
from miue_jax.data import protected

# Between two looks at what other processes are doing.
_SECONDS_TO_WAIT = 5.0

_DEVICES = flags.DEFINE_integer(
    "devices", None, "Processes to run at once, each on a device of its own."
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
      ValueError: if any input is bad, and nothing is written then; at the end, if the
        training of some cells diverged.
    """
    left = planned = cells(config)
    _check(config, planned)
    # What this process has made or checked itself is no run that was stopped.
    known: set[pathlib.Path] = set()
    diverged: dict[Cell, str] = {}
    made: dict[str, dict[str, Any]] = {}
    with runs.open_directory(workdir, _identity(config), resume=resume, shared=True):
        while left:
            busy = []
            for cell in left:
                if _finished(config, workdir, cell) is not None:
                    continue
                try:
                    _run_cell(config, workdir, cell, resume=resume, known=known)
                except runs.Busy:
                    busy.append(cell)
                    continue
                except runs.Diverged as error:
                    logging.warning("%s", error)
                    diverged[cell] = str(error)
                    continue
                _report(config, workdir, planned, made)
            if len(busy) == len(left):
                time.sleep(_SECONDS_TO_WAIT)
            left = busy
        results = _report(config, workdir, planned, made)
    if diverged:
        first, why = next(iter(diverged.items()))
        raise ValueError(
            f"{len(diverged)} cells diverged, {'-'.join(first[:3])}: {why}"
        )
    return results


def _identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """What all cells have in common; the rest is checked cell by cell."""
    return {name: config[name] for name in ("data", "test", "generator_seed")}


def _check(config: Mapping[str, Any], planned: list[Cell]) -> None:
    """Finds what is wrong with any part before the first of them runs."""
    runs.check_seeds("generator_seed", (config["generator_seed"],))
    clean, test = (data.load(**config[part]) for part in ("data", "test"))
    for name in dict.fromkeys(cell.method for cell in planned):
        if config["methods"][name] is not None:
            generate.prepare(_protection(config, name), clean)
    for pair in dict.fromkeys((cell.defense, cell.victim) for cell in planned):
        some = next(cell for cell in planned if cell[1:3] == pair)
        evaluate.prepare(_training(config, some, config["data"]), clean, test)


def _protection(config: Mapping[str, Any], method: str) -> dict[str, Any]:
    """The configuration of a generator's run."""
    return {
        "data": config["data"],
        "method": config["methods"][method],
        "protect": {"fraction": 1.0, "classes": None, "seed": 0},
        "seed": config["generator_seed"],
        "num_shards": None,
        "checkpoint_every": 100,
    }


def _training(
    config: Mapping[str, Any], cell: Cell, train: Mapping[str, Any]
) -> dict[str, Any]:
    """The configuration of a victim's run."""
    return {
        "train": train,
        "test": config["test"],
        "victim": config["victims"][cell.victim],
        "defense": config["defenses"][cell.defense],
        "seeds": (cell.seed,),
        "num_shards": None,
        "evaluate_every": config["evaluate_every"],
        "checkpoint_every": config["evaluate_every"],
    }


def _artefact(workdir: pathlib.Path, method: str) -> pathlib.Path:
    return workdir / "protected" / method / generate.ARTEFACT


def _train_data(
    config: Mapping[str, Any], workdir: pathlib.Path, cell: Cell
) -> dict[str, Any]:
    if config["methods"][cell.method] is None:
        return dict(config["data"])
    artefact = _artefact(workdir, cell.method)
    return {**config["data"], "name_or_path": str(artefact), "per_class": None}


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
        made = _artefact(workdir, cell.method).parent
        if not (made / generate.ARTEFACT).exists():
            logging.warning("protecting: %s", cell.method)
        protection = _protection(config, cell.method)
        generate.run(protection, made, resume=resume or made in known)
        known.add(made)
    folder = cell.folder(workdir)
    logging.warning("training: %s", folder.name)
    train = _train_data(config, workdir, cell)
    evaluate.run(_training(config, cell, train), folder, resume=resume)


def _finished(
    config: Mapping[str, Any], workdir: pathlib.Path, cell: Cell
) -> dict[str, Any] | None:
    """The results of a cell if it is done, by whichever process, in this way."""
    file = cell.folder(workdir) / evaluate.RESULTS
    if not file.exists():
        return None
    training = _training(config, cell, _train_data(config, workdir, cell))
    settings = ("train", "test", "victim", "defense", "seeds", "evaluate_every")
    return evaluate.read_results(file, {name: training[name] for name in settings})


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
            artefact = _artefact(workdir, method)
            made[method] = protected.load(artefact).metadata
            if not made[method].keys() >= set(summary.KEPT):
                raise ValueError(f"{artefact} was not made by this script")
    results = summary.summarize(config, made, done, planned)
    if done and jax.process_index() == 0:
        # Other processes may write them too, what they know is whole either way.
        runs.write_json(workdir / evaluate.RESULTS, results)
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
        _run_workers(_DEVICES.value, config, workdir)
    results = run(config, workdir, resume=resume)
    print(
        f"{workdir / evaluate.RESULTS}: {results['done']} of {results['planned']} "
        "cells are done"
    )


def _run_workers(count: int, config: dict[str, Any], workdir: pathlib.Path) -> None:
    planned = cells(config)
    rest, skip = [], False
    for argument in sys.argv:
        name, equals, _ = argument.lstrip("-").partition("=")
        if not skip and not (argument.startswith("-") and name == "devices"):
            rest.append(argument)
        skip = argument.startswith("-") and name == "devices" and not equals
    files = [cell.folder(workdir) / evaluate.RESULTS for cell in planned]
    with runs.progress(len(files), sum(file.exists() for file in files)) as bar:
        workers.run(
            count,
            [sys.executable, *rest],
            workdir / ".logs",
            lambda: bar.update(sum(file.exists() for file in files) - bar.n),
        )


if __name__ == "__main__":
    command_line.run(
        main,
        config_file="experiments/configs/matrix.py",
        description="What to run.",
    )
