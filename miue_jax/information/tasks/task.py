"""What a task of known mutual information is."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

Draw = Callable[[jax.Array, int], tuple[jax.Array, ...]]
Pointwise = Callable[[jax.Array, jax.Array], jax.Array]


class Task(NamedTuple):
    """Samples together with the mutual information they were drawn with.

    Attributes:
      name: of the task.
      sample: pure, ``sample(key, size) -> (x, y)`` or ``(x, y, labels)`` with x
        (size, dim_x) and y (size, dim_y) of JAX's default floating-point type and
        labels (size,) int32. The size is static: ``jax.jit(sample, static_argnums=1)``.
      information: I(x; y) in nats, in double precision.
      standard_error: of the information, in nats: 0 for closed forms and quadrature,
        positive where it is the mean of a function of known densities over samples.
      dim_x: columns of x.
      dim_y: columns of y.
      num_classes: number of labels; 0 where samples have none.
      pointwise: ``pointwise(x, y) -> (size,)``, the exact
        log p(x, y) / (p(x) p(y)) in nats; None where it has no simple form.
    """

    name: str
    sample: Draw
    information: float
    standard_error: float
    dim_x: int
    dim_y: int
    num_classes: int = 0
    pointwise: Pointwise | None = None


def mean_pointwise(
    key: jax.Array, sample: Draw, pointwise: Pointwise, *, size: int
) -> tuple[float, float]:
    """Mutual information as the mean of its exact pointwise values over samples.

    Computed in float64 whether or not JAX is set to it.

    Args:
      key: for the samples.
      sample: as in `Task`.
      pointwise: as in `Task`.
      size: number of samples.

    Returns:
      The mean and its standard error, in nats.

    References:
      Czyz et al., On the Properties and Estimation of Pointwise Mutual Information
      Profiles, 2023.
    """

    def values(key: jax.Array) -> jax.Array:
        x, y = sample(key, size)[:2]
        return pointwise(x, y)

    found = double_precision(values, key)
    return float(found.mean()), float(found.std(ddof=1) / np.sqrt(size))


def double_precision(
    function: Callable[..., Any], *arguments: Any, **named: Any
) -> Any:
    """Runs a function of arrays compiled and in float64, whatever JAX is set to.

    Args:
      function: of arrays, to arrays.
      *arguments: its arguments; keys, numbers or float64 NumPy arrays, so that nothing
        has been rounded before.
      **named: more of them.

    Returns:
      NumPy arrays in the structure that the function returns.
    """
    with jax.enable_x64(True):
        return jax.device_get(jax.jit(function)(*arguments, **named))
