"""One estimator on the samples of one task: the estimate, its time, or why none."""

import dataclasses
import functools
import math
import time
import warnings
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from miue_jax import _checks
from miue_jax.information import Estimate, estimators, tasks

Call = Callable[..., Estimate]
# Of a key and a size, compiled.
Draw = Callable[..., Any]


def prepare(
    label: str,
    settings: Mapping[str, Any],
    *,
    size: int,
    shapes: Iterable[tuple[int, int]],
) -> Call:
    """Makes a function of samples of an entry of the configuration.

    Args:
      label: name of the entry, for messages.
      settings: with `name`, one of `estimators.NAMES`, and `options`; the option
        `config`, if there is one, holds the fields of `estimators.FitConfig`.
      size: largest number of samples.
      shapes: dimensions of x and y of the tasks, one of which must be accepted.

    Returns:
      A function of x, y, key, labels and num_classes.

    Raises:
      ValueError: naming the entry, if it can work with none of them.
    """
    options, refused = dict(settings["options"]), None
    try:
        if isinstance(options.get("config"), Mapping):
            options["config"] = _fit_config(options["config"])
        call = functools.partial(estimators.estimate, settings["name"], **options)
        for shape in shapes:
            try:
                _trace(call, size, *shape)
                return call
            except ValueError as error:
                refused = error
    except (ValueError, TypeError) as error:
        refused = error
    raise ValueError(f"estimators.{label}: {refused}") from refused


def _trace(call: Call, size: int, dim_x: int, dim_y: int) -> None:
    """Finds what is wrong with an option without computing anything."""

    def value(key: jax.Array, x: jax.Array, y: jax.Array, labels: jax.Array) -> Any:
        return call(x=x, y=y, key=key, labels=labels, num_classes=2).value

    samples = (jax.ShapeDtypeStruct((size, dim), jnp.float32) for dim in (dim_x, dim_y))
    labels = jax.ShapeDtypeStruct((size,), jnp.int32)
    jax.eval_shape(value, jax.random.key(0), *samples, labels)


def _fit_config(values: Mapping[str, Any]) -> estimators.FitConfig:
    known = [field.name for field in dataclasses.fields(estimators.FitConfig)]
    for name in values:
        if name not in known:
            raise _checks.unknown("option of FitConfig", name, known)
    return estimators.FitConfig(**values)


def measure(
    call: Call,
    task: tasks.Task,
    draw: Draw,
    *,
    size: int,
    seed: int,
    compiled: set[tuple[int, ...]],
) -> dict[str, Any]:
    """Estimates once and says what came out.

    Samples and the estimator's key depend on task, size and seed only: all estimators
    see the same samples. Where this process has not called the estimator on samples of
    this shape yet, a first call compiles and the second is timed.

    Args:
      call: from `prepare`.
      task: the task.
      draw: its `sample`, compiled.
      size: number of samples.
      seed: of samples and estimator.
      compiled: the shapes that `call` was compiled for; added to.

    Returns:
      JSON values. `estimate` is None where `failure` says why; `standard_error` is None
      where the estimator gives none; a diagnostic is None where it is not finite.
    """
    number = zlib.crc32(task.name.encode())
    key = jax.random.fold_in(jax.random.key(seed), number)
    sample_key, estimator_key = jax.random.split(jax.random.fold_in(key, size))
    samples = jax.block_until_ready(draw(sample_key, size))
    x, y, labels = (*samples, None)[:3]
    arguments: dict[str, Any] = {"x": x, "y": y, "key": estimator_key}
    if labels is not None:
        arguments |= {"labels": labels, "num_classes": task.num_classes}
    row: dict[str, Any] = {
        "truth": task.information,
        "truth_error": task.standard_error,
        "dim_x": task.dim_x,
        "dim_y": task.dim_y,
        "estimate": None,
        "standard_error": None,
        "failure": None,
    }
    shape = (size, task.dim_x, task.dim_y, task.num_classes)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            if shape not in compiled:
                jax.block_until_ready(call(**arguments))
                compiled.add(shape)
                caught.clear()
            before = time.perf_counter(), time.process_time()
            found = jax.block_until_ready(call(**arguments))
            row["seconds"] = time.perf_counter() - before[0]
            row["cpu_seconds"] = time.process_time() - before[1]
    except ValueError as error:
        return row | {"failure": " ".join(str(error).split())}
    value = float(found.value)
    row["kind"] = found.kind
    row["diagnostics"] = {k: _plain(v) for k, v in found.diagnostics.items()}
    row["warnings"] = [str(warning.message) for warning in caught]
    if not math.isfinite(value):
        return row | {"failure": f"the estimate is {value}"}
    error = _plain(found.standard_error)
    return row | {"estimate": value, "standard_error": error}


def _plain(value: Any) -> Any:
    array = np.asarray(value)
    return array.tolist() if np.all(np.isfinite(array)) else None
