"""What inference asks of an estimator: a pure function of samples to a scalar."""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def check_scalar(
    estimator: Callable[[jax.Array, jax.Array], jax.Array], x: jax.Array, y: jax.Array
) -> None:
    """Refuses an estimator that returns something else, without running it.

    Args:
      estimator: (x, y) -> ().
      x: (N, dx) float.
      y: (N, dy) float.

    Raises:
      ValueError: saying what it returns.
    """
    result = jax.eval_shape(estimator, x, y)
    shape = getattr(result, "shape", None)
    if shape != () or not jnp.issubdtype(result.dtype, jnp.floating):
        got = type(result).__name__ if shape is None else f"{result.dtype}{list(shape)}"
        raise ValueError(
            f"the estimator returns {got}; it must return a floating-point scalar (of "
            "an Estimate, its value)"
        )
