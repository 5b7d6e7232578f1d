"""The time of KSG within classes on many samples of many dimensions."""

import statistics
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from miue_jax.information import estimators


def check(settings: Mapping[str, Any]) -> None:
    """Checks what is to be timed.

    Args:
      settings: `size`, `dim`, `classes` and `repeats`, positive integers.

    Raises:
      ValueError: naming what is wrong.
    """
    for name in ("size", "dim", "classes", "repeats"):
        value = settings[name]
        if type(value) is not int or value <= 0:
            raise ValueError(
                f"speed.{name} is {value!r}; it must be a positive integer"
            )


def conditional_ksg(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Times `ksg_conditional` on normal features around class means.

    Args:
      settings: `size`, samples in all; `dim`, of x and of y; `classes`, of equal size;
        `repeats`, calls after the first, which compiles.

    Returns:
      The settings, wall and processor seconds of the first call, and the median ones of
      those after it.

    Raises:
      ValueError: if there are too few samples in a class.
    """
    check(settings)
    size, dim, classes = (settings[name] for name in ("size", "dim", "classes"))
    keys = jax.random.split(jax.random.key(0), 3)
    labels = jnp.arange(size) % classes
    means = 4 * jax.random.normal(keys[0], (classes, dim))[labels]
    x = means + jax.random.normal(keys[1], (size, dim))
    y = x + jax.random.normal(keys[2], (size, dim))
    jax.block_until_ready(y)
    walls, works = [], []
    for _ in range(1 + settings["repeats"]):
        wall, work = time.perf_counter(), time.process_time()
        estimate = estimators.estimate(
            "ksg_conditional", x, y, labels=labels, num_classes=classes
        )
        jax.block_until_ready(estimate.value)
        walls.append(time.perf_counter() - wall)
        works.append(time.process_time() - work)
    return {
        **settings,
        "first_seconds": walls[0],
        "first_cpu_seconds": works[0],
        "median_seconds": statistics.median(walls[1:]),
        "median_cpu_seconds": statistics.median(works[1:]),
    }
