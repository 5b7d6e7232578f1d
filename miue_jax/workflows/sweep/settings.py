"""What the parts of a matrix are run with: its generators, its victims, their data."""

import pathlib
from collections.abc import Mapping
from typing import Any

from miue_jax import data, defenses
from miue_jax.train import parallel, run_directory
from miue_jax.workflows import evaluate, protect
from miue_jax.workflows.sweep.plan import Cell

# Of the settings of data.
SOURCE = "name_or_path"


def identity(
    config: Mapping[str, Any], clean: data.Dataset, test: data.Dataset
) -> dict[str, Any]:
    """What all cells have in common; the rest is checked cell by cell.

    Args:
      config: as in experiments/configs/matrix.py.
      clean: the training data.
      test: the test data.

    Returns:
      As JSON, what a directory holds one of.
    """
    shared = {name: config[name] for name in ("data", "test", "generator_seed")}
    shards = run_directory.number_of_shards(config["num_shards"], parallel.data_mesh())
    fingerprints = [data.fingerprint(clean), data.fingerprint(test)]
    return {**shared, "num_shards": shards, "fingerprints": fingerprints}


def check(
    config: Mapping[str, Any], planned: list[Cell]
) -> tuple[data.Dataset, data.Dataset]:
    """Finds what is wrong with any part before the first of them runs.

    Args:
      config: as in experiments/configs/matrix.py.
      planned: all cells.

    Returns:
      The clean training data and the test data.

    Raises:
      ValueError: if any input is bad.
    """
    run_directory.check_seeds("generator_seed", (config["generator_seed"],))
    clean, test = (data.load(**config[part]) for part in ("data", "test"))
    for name in dict.fromkeys(cell.method for cell in planned):
        if config["methods"][name] is not None:
            protect.prepare(protection(config, name), clean)
    for pair in dict.fromkeys((cell.defense, cell.victim) for cell in planned):
        some = next(cell for cell in planned if cell[1:3] == pair)
        evaluate.prepare(training(config, some, config["data"]), clean, test)
    return clean, test


def check_protected(
    config: Mapping[str, Any], workdir: pathlib.Path, planned: list[Cell]
) -> None:
    """Checks that what is protected, or was begun, was so in the way that is meant.

    Args:
      config: as in experiments/configs/matrix.py.
      workdir: the directory of the matrix.
      planned: all cells.

    Raises:
      ValueError: if a protected data set is of other settings.
    """
    for method in dict.fromkeys(cell.method for cell in planned):
        file = artifact(workdir, method).parent / "config.json"
        if config["methods"][method] is not None and file.exists():
            meant = protection(config, method)
            kept = ("data", "method", "protect", "export", "seed")
            meant = {k: meant[k] for k in kept}
            run_directory.check_same(
                file.parent, run_directory.read_json(file), meant, whole=False
            )


def protection(config: Mapping[str, Any], method: str) -> dict[str, Any]:
    """The configuration of a generator's run, as `generate.run` takes it.

    Args:
      config: as in experiments/configs/matrix.py.
      method: its name there.

    Returns:
      The configuration.
    """
    settings = dict(config["methods"][method])
    return {
        "data": config["data"],
        "export": settings.pop("export", "round"),
        "method": settings,
        "protect": {"fraction": 1.0, "classes": None, "seed": 0},
        "seed": config["generator_seed"],
        "num_shards": config["num_shards"],
        "checkpoint_every": 100,
    }


def training(
    config: Mapping[str, Any], cell: Cell, train: Mapping[str, Any]
) -> dict[str, Any]:
    """The configuration of a victim's run, as `evaluate.run` takes it.

    Args:
      config: as in experiments/configs/matrix.py.
      cell: the victim.
      train: its training data, from `train_data`.

    Returns:
      The configuration.
    """
    return {
        "train": train,
        "test": config["test"],
        "victim": config["victims"][cell.victim],
        "defense": config["defenses"][cell.defense],
        "seeds": (cell.seed,),
        "num_shards": config["num_shards"],
        "evaluate_every": config["evaluate_every"],
        "checkpoint_every": config["evaluate_every"],
    }


def victim(
    config: Mapping[str, Any], workdir: pathlib.Path, cell: Cell
) -> dict[str, Any]:
    """What the results of a victim say of how it was trained.

    Args:
      config: as in experiments/configs/matrix.py.
      workdir: the directory of the matrix.
      cell: the victim.

    Returns:
      The entries of its results that depend on the configuration alone. Paths are not
      among them, since directories may have been moved.
    """
    meant = training(config, cell, train_data(config, workdir, cell))
    kept = ("train", "test", "victim", "defense", "seeds", "evaluate_every")
    entries = {name: meant[name] for name in kept}
    entries["defense"] = defenses.settings_of(meant["defense"])
    for part in ("train", "test"):
        entries[part] = {k: v for k, v in meant[part].items() if k != SOURCE}
    return entries


def artifact(workdir: pathlib.Path, method: str) -> pathlib.Path:
    """Where a protected data set lies.

    Args:
      workdir: the directory of the matrix.
      method: the name of what protects it.

    Returns:
      The path of the file.
    """
    return workdir / "protected" / method / protect.ARTIFACT


def train_data(
    config: Mapping[str, Any], workdir: pathlib.Path, cell: Cell
) -> dict[str, Any]:
    """What a victim is trained on, as `data.load` takes it.

    Args:
      config: as in experiments/configs/matrix.py.
      workdir: the directory of the matrix.
      cell: the victim.

    Returns:
      The clean data, or the protected ones.
    """
    if config["methods"][cell.method] is None:
        return dict(config["data"])
    source = str(artifact(workdir, cell.method))
    return {**config["data"], SOURCE: source, "per_class": None}
