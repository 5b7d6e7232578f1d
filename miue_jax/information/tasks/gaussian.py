"""Jointly Gaussian tasks: two variables, all coordinates correlated, or a few pairs."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from miue_jax.information.tasks.task import Task


def gaussian(name: str, covariance: ArrayLike, *, dim_x: int) -> Task:
    r"""Two blocks of one Gaussian vector of mean 0.

    .. math:: I(x; y) = \tfrac12 \log \frac{\det\Sigma_x \det\Sigma_y}{\det\Sigma}

    Args:
      name: of the task.
      covariance: (dim_x + dim_y, dim_x + dim_y), positive definite; values.
      dim_x: size of the first block, which is x.

    Returns:
      The task.

    Raises:
      ValueError: for a matrix that is not square, symmetric and positive definite, or a
        block that is empty.

    References:
      Cover and Thomas, Elements of Information Theory, section 8.5.
    """
    sigma = np.asarray(covariance, np.float64)
    if sigma.ndim != 2 or sigma.shape[0] != sigma.shape[1]:
        raise ValueError(f"the covariance has shape {sigma.shape}; it must be square")
    total = len(sigma)
    if not 0 < dim_x < total:
        raise ValueError(f"dim_x must be above 0 and below {total}, given {dim_x}")
    if not np.allclose(sigma, sigma.T) or np.linalg.eigvalsh(sigma).min() <= 0:
        raise ValueError(
            "the covariance must be symmetric and positive definite; its smallest "
            f"eigenvalue is {np.linalg.eigvalsh(sigma).min()}"
        )
    blocks = slice(0, dim_x), slice(dim_x, total)
    factor = np.linalg.cholesky(sigma)
    # z' (sum of the blocks' inverses - whole inverse) z / 2 is the quadratic part.
    precision = -np.linalg.inv(sigma)
    information = -0.5 * _logdet(sigma)
    for block in blocks:
        precision[block, block] += np.linalg.inv(sigma[block, block])
        information += 0.5 * _logdet(sigma[block, block])

    def sample(key: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
        z = jax.random.normal(key, (size, total)) @ jnp.asarray(factor).T
        return z[:, :dim_x], z[:, dim_x:]

    def pointwise(x: jax.Array, y: jax.Array) -> jax.Array:
        z = jnp.concatenate([x, y], axis=1)
        return information + 0.5 * jnp.sum((z @ jnp.asarray(precision)) * z, axis=1)

    return Task(
        name=name,
        sample=sample,
        information=float(information),
        standard_error=0.0,
        dim_x=dim_x,
        dim_y=total - dim_x,
        pointwise=pointwise,
    )


def bivariate(correlation: float) -> Task:
    """Two standard normal variables: I = -log(1 - rho^2) / 2.

    Args:
      correlation: rho, between -1 and 1.

    Returns:
      The task `1v1-normal-<rho>`.

    Raises:
      ValueError: if |rho| >= 1.
    """
    covariance = np.array([[1, correlation], [correlation, 1]])
    return gaussian(f"1v1-normal-{correlation}", covariance, dim_x=1)


def dense(dim_x: int, dim_y: int, *, correlation: float = 0.5) -> Task:
    """Standard normal coordinates, every two of them equally correlated.

    Args:
      dim_x: coordinates of x.
      dim_y: coordinates of y.
      correlation: of any two coordinates, within x, within y and between them.

    Returns:
      The task `multinormal-dense-<dim_x>-<dim_y>-<correlation>`.

    Raises:
      ValueError: if such a covariance is not positive definite.
    """
    total = dim_x + dim_y
    covariance = (1 - correlation) * np.eye(total) + correlation
    name = f"multinormal-dense-{dim_x}-{dim_y}-{correlation}"
    return gaussian(name, covariance, dim_x=dim_x)


def sparse(dim_x: int, dim_y: int, *, pairs: int = 2, strength: float = 2.0) -> Task:
    r"""Standard normal coordinates of which the first few are correlated pairwise.

    A pair shares a latent variable of `strength` times the standard deviation of either
    side's own noise: the correlation is s^2 / (1 + s^2).

    Args:
      dim_x: coordinates of x.
      dim_y: coordinates of y.
      pairs: x_i is correlated with y_i for i < pairs, all else is independent.
      strength: s.

    Returns:
      The task `multinormal-sparse-<dim_x>-<dim_y>-<pairs>-<strength>`.

    Raises:
      ValueError: for more pairs than coordinates.

    References:
      Czyz et al., Beyond Normal: On the Evaluation of Mutual Information Estimators,
      NeurIPS 2023, the two-pair tasks.
    """
    if not 0 <= pairs <= min(dim_x, dim_y):
        raise ValueError(
            f"pairs must be between 0 and {min(dim_x, dim_y)}, given {pairs}"
        )
    covariance = np.eye(dim_x + dim_y)
    index = np.arange(pairs)
    correlation = strength**2 / (1 + strength**2)
    covariance[index, dim_x + index] = covariance[dim_x + index, index] = correlation
    name = f"multinormal-sparse-{dim_x}-{dim_y}-{pairs}-{strength}"
    return gaussian(name, covariance, dim_x=dim_x)


def _logdet(matrix: np.ndarray) -> float:
    return float(np.linalg.slogdet(matrix)[1])
