"""What depends on an image's class, computed for one class after the other."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax


def by_class(
    function: Callable[[jax.Array], jax.Array], labels: jax.Array, num_classes: int
) -> jax.Array:
    """Evaluates a function of the class on all rows and keeps each row's own class.

    Only one class's parameters and results are alive at a time, at the price of
    computing every row once for every class.

    Args:
      function: class, () integer -> (g, n, ...), as if every row were of this class.
      labels: (g, n) integer.
      num_classes: K.

    Returns:
      (g, n, ...), row by row what the function gives for the row's class; 0 where the
      label is none of the classes.
    """
    result = jax.eval_shape(function, jnp.zeros((), jnp.int32))

    def add(label: jax.Array, rows: jax.Array) -> jax.Array:
        mine = jnp.expand_dims(labels == label, tuple(range(2, rows.ndim)))
        return jnp.where(mine, function(label), rows)

    start = jnp.zeros(result.shape, result.dtype)
    return lax.fori_loop(0, num_classes, add, start)
