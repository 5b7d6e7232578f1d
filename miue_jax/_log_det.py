"""Log-determinants of I + A that keep the digits of a small A."""

import jax
import jax.numpy as jnp


@jax.custom_jvp
def weighted_log_det(matrix: jax.Array, weights: jax.Array) -> jax.Array:
    """Weighted sum of the log det(I + A_b) of the blocks of A, exact for small A too.

    Args:
      matrix: (N, N), A, positive semidefinite and, up to order, block diagonal.
      weights: (N,), equal within a block.

    Returns:
      A scalar.
    """
    return _factor(matrix, weights)[1]


@weighted_log_det.defjvp
def _weighted_log_det_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    # In closed form, since the derivative of the maximum below is wrong at 0.
    factor, value, logs = _factor(*primals)
    solved = jax.scipy.linalg.cho_solve((factor, True), tangents[0])
    by_matrix = jnp.sum(primals[1] * jnp.diagonal(solved))
    return value, by_matrix + jnp.sum(logs * tangents[1])


def _factor(
    matrix: jax.Array, weights: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    factor = jnp.linalg.cholesky(matrix + jnp.eye(len(matrix), dtype=matrix.dtype))
    # A squared diagonal entry of the factor is 1 + a_ii - sum_j<i l_ij^2: leaving out
    # the 1 keeps all digits of a small A. No pivot of I + A is below 1.
    rest = jnp.sum(jnp.square(jnp.tril(factor, -1)), axis=1)
    logs = jnp.log1p(jnp.maximum(jnp.diagonal(matrix) - rest, 0))
    return factor, jnp.sum(weights * logs), logs
