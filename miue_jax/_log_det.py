"""Log-determinants of I + A that keep the digits of a small A."""

import jax
import jax.numpy as jnp
from jax import lax


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
    # In closed form: no derivative of the factorization.
    factor, value, logs = _factor(*primals)
    solved = jax.scipy.linalg.cho_solve((factor, True), tangents[0])
    by_matrix = jnp.sum(primals[1] * jnp.diagonal(solved))
    return value, by_matrix + jnp.sum(logs * tangents[1])


def factor_and_logs(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Factorizes I + A.

    Args:
      matrix: (N, N), A, positive semidefinite.

    Returns:
      The lower Cholesky factor of I + A, and the logarithms of its squared diagonal,
      which sum up to log det(I + A) and are exact for small A too.
    """
    factor = jnp.linalg.cholesky(matrix + jnp.eye(len(matrix), dtype=matrix.dtype))
    # A squared diagonal entry of the factor is 1 + a_ii - sum_j<i l_ij^2: leaving out
    # the 1 keeps all digits of a small A. No pivot of I + A is below 1.
    rest = jnp.sum(jnp.square(jnp.tril(factor, -1)), axis=1)
    pivots = jnp.diagonal(matrix) - rest
    # Not a maximum with 0, whose derivative is wrong there.
    return factor, jnp.log1p(pivots - lax.stop_gradient(jnp.minimum(pivots, 0)))


def _factor(
    matrix: jax.Array, weights: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    factor, logs = factor_and_logs(matrix)
    return factor, jnp.sum(weights * logs), logs
