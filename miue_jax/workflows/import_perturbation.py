"""Makes a protected data set of a perturbation that another program generated."""

import os
import pathlib

from miue_jax import data
from miue_jax.budget import Budget
from miue_jax.data import DataSource, artifact, atomic, exchange
from miue_jax.workflows.protect import Export

__all__ = ["import_perturbation"]


def import_perturbation(
    path: str | os.PathLike[str],
    source: str | DataSource | data.Dataset,
    *,
    output: str | os.PathLike[str] | None = None,
    budget: Budget | None = None,
    class_wise: bool | None = None,
    export: Export = "round",
) -> artifact.Protected:
    """Reads a perturbation, adds it to its clean images and audits the result.

    Args:
      path: .npy, .npz, a folder of PNG files, or PyTorch's .pt, which is read without
        running any code it may contain.
      source: the clean data: a name or path, a `DataSource` or a `Dataset`.
      output: the .npz file to write; None for none.
      budget: what the perturbation keeps to; None for L-infinity 8.
      class_wise: whether there is one per class, not per image; None to tell from the
        shape.
      export: how it becomes whole gray levels, see `budget.quantize`.

    Returns:
      The protected data set, which can be evaluated like any other.

    Raises:
      ValueError: if a file cannot be read or does not fit the data or the budget;
        nothing is written then.

    Example:
      >>> import pathlib, tempfile
      >>> import numpy as np
      >>> import miue_jax as mj
      >>> from miue_jax.workflows.import_perturbation import import_perturbation
      >>> clean = mj.data.load("shapes", per_class=2)
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder, "delta.npy")
      ...     np.save(path, np.full(clean.images.shape, 4 / 255, np.float32))
      ...     made = import_perturbation(path, clean)
      >>> made.metadata["audit"]["max_change"]
      4
    """
    if output is not None:
        artifact.check_name(output)
        for file in (pathlib.Path(output), artifact.delta_path(pathlib.Path(output))):
            atomic.check_not_read(file, (path, getattr(source, "name", source)))
    clean = source.load() if isinstance(source, DataSource) else data.load(source)
    delta = exchange.import_perturbation(path, clean, class_wise=class_wise)
    made = artifact.build(
        clean,
        delta,
        budget=Budget() if budget is None else budget,
        export=export,
        metadata={"generator": {"name": "imported", "file": pathlib.Path(path).name}},
    )
    if output is not None:
        pathlib.Path(output).parent.mkdir(parents=True, exist_ok=True)
        artifact.save(output, made, delta=delta, verify=False)
    return made
