"""What a covariance says of mutual information, under a Gaussian law."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.linalg import solve_triangular
from jax.typing import ArrayLike

from miue_jax.information.checks import is_traced


def information(scatter: jax.Array, dx: int) -> tuple[jax.Array, ...]:
    """Information between the first dx columns and the others.

    Args:
      scatter: (D, D), a covariance in any scale.
      dx: columns of the first variable.

    Returns:
      The plug-in information in nats, the sum of the squared canonical correlations,
      and the smallest pivot: the least share of variance of a column that the columns
      before it leave unexplained. All are NaN for an indefinite matrix.
    """
    deviation = jnp.sqrt(jnp.diagonal(scatter))
    correlation = scatter / deviation / deviation[:, None]
    joint = jnp.linalg.cholesky(correlation)
    second = jnp.linalg.cholesky(correlation[dx:, dx:])
    # det S / det S_x is that of the Schur complement, which the last block factors.
    pivots, conditional = jnp.diagonal(second), jnp.diagonal(joint)[dx:]
    value = jnp.sum(jnp.log(pivots)) - jnp.sum(jnp.log(conditional))
    canonical = solve_triangular(second, joint[dx:, :dx], lower=True)
    pivot = jnp.minimum(jnp.min(jnp.diagonal(joint)), jnp.min(pivots)) ** 2
    return value, jnp.sum(jnp.square(canonical)), pivot


def correction(table: jax.Array, size: ArrayLike, dx: int, dy: int) -> jax.Array:
    """What makes the plug-in unbiased for Gaussian samples.

    Args:
      table: of `half_digamma`.
      size: samples.
      dx: columns of the first variable.
      dy: columns of the second variable.

    Returns:
      () nats, to be added.
    """
    less = size - jnp.arange(1, dy + 1)
    return jnp.sum(table[less - dx] - table[less]) / 2


def check_pivot(pivot: jax.Array, dimensions: int, what: str) -> None:
    """Refuses a singular covariance, outside of `jax.jit`.

    Args:
      pivot: the smallest, of `information`.
      dimensions: of the covariance.
      what: has the covariance, for the message.

    Raises:
      ValueError: if it is singular in the precision at hand.
    """
    if is_traced(pivot):
        return
    smallest = 8 * jnp.finfo(pivot.dtype).eps * dimensions**0.5
    if not float(pivot) > smallest:  # NaN where the factorization broke down
        raise ValueError(
            f"the covariance of {what} is singular (in {pivot.dtype}): a column is a "
            "linear function of others, and the information of a Gaussian infinite or "
            "undefined"
        )


def matmul(left: jax.Array, right: jax.Array) -> jax.Array:
    """A matrix product in full precision on every backend."""
    return jnp.matmul(left, right, precision=lax.Precision.HIGHEST)
