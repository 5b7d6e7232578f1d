"""Estimators on samples: an estimate and its time, or why there is none."""

import dataclasses
import functools
import math
import statistics
import time
import warnings
import zlib
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from accuracy.config import Benchmark, Speed

from miue_jax import _settings
from miue_jax.information import Estimate, estimators, tasks

Call = Callable[..., Estimate]
# Of a key and a size, compiled.
Draw = Callable[..., Any]


def prepare(
    label: str, config: Benchmark, *, shapes: Iterable[tuple[int, int]]
) -> Call:
    """Builds the estimator of a row as a function of samples.

    Args:
      label: of the row.
      config: the settings.
      shapes: dimensions of x and y of the tasks, one of which must be accepted.

    Returns:
      A function of x, y, key, labels and num_classes.

    Raises:
      ValueError: naming the row, if it can work with none of them.
    """
    options, size, refused = config.options(label), max(config.sizes), None
    try:
        if "config" in options:
            options["config"] = _settings.from_plain(
                estimators.FitConfig, options["config"], "FitConfig"
            )
        name = config.estimators[label].name
        call = functools.partial(estimators.estimate, name, **options)
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


def measure(
    call: Call,
    task: tasks.Task,
    draw: Draw,
    *,
    size: int,
    seed: int,
    compiled: set[tuple[int, ...]],
) -> dict[str, Any]:
    """Runs an estimator once and reports the result.

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


def conditional_ksg(settings: Speed) -> dict[str, Any]:
    """Times `ksg_conditional` on normal features around class means.

    Args:
      settings: what it is timed on.

    Returns:
      The settings, wall and processor seconds of the first call, and the median ones of
      those after it.

    Raises:
      ValueError: if there are too few samples in a class.
    """
    size, dim, classes = settings.size, settings.dim, settings.classes
    keys = jax.random.split(jax.random.key(0), 3)
    labels = jnp.arange(size) % classes
    means = 4 * jax.random.normal(keys[0], (classes, dim))[labels]
    x = means + jax.random.normal(keys[1], (size, dim))
    y = x + jax.random.normal(keys[2], (size, dim))
    jax.block_until_ready(y)
    walls, works = [], []
    for _ in range(1 + settings.repeats):
        wall, work = time.perf_counter(), time.process_time()
        estimate = estimators.estimate(
            "ksg_conditional", x, y, labels=labels, num_classes=classes
        )
        jax.block_until_ready(estimate.value)
        walls.append(time.perf_counter() - wall)
        works.append(time.process_time() - work)
    return {
        **dataclasses.asdict(settings),
        "first_seconds": walls[0],
        "first_cpu_seconds": works[0],
        "median_seconds": statistics.median(walls[1:]),
        "median_cpu_seconds": statistics.median(works[1:]),
    }
