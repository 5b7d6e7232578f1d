"""Finitely many points seen in Gaussian noise: exact information of a mixture."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import logsumexp
from jax.typing import ArrayLike

from miue_jax.information.tasks.task import Task, double_precision

# Quadrature over a standard normal: the density is below 1e-16 outside, and the
# trapezoidal rule converges faster than any power of the step for smooth functions.
_REACH = 8.5
_NODES = {1: 3401, 2: 137}
_DRAWS = 1000


def noisy_information(
    points: ArrayLike, weights: ArrayLike, noise_variance: ArrayLike, noise: ArrayLike
) -> jax.Array:
    r"""Pointwise information of a point and its noisy version, averaged over points.

    For u = noise and :math:`\Delta_{ij} = x_i - x_j`,

    .. math:: -\sum_i w_i \log \sum_j w_j
              e^{-\lVert\Delta_{ij}\rVert^2/2\sigma^2 - u\cdot\Delta_{ij}/\sigma},

    whose mean over standard normal u is exactly I(X; X + sigma u). Distances from the
    noisy version never appear, so nothing is lost where the noise is small.

    Args:
      points: (n, D), the values of X.
      weights: (n,) probabilities of the points; may hold zeros.
      noise_variance: sigma^2 > 0, in squared units of the points.
      noise: (Q, D), standard normal draws or quadrature nodes u.

    Returns:
      (Q,) nats.
    """
    points, weights = jnp.asarray(points), jnp.asarray(weights)
    difference = points[:, None] - points
    squared = jnp.sum(difference**2, axis=-1) / (2 * jnp.asarray(noise_variance))
    scaled = difference / jnp.sqrt(noise_variance)

    def at(u: jax.Array) -> jax.Array:
        exponents = -squared - scaled @ u
        return -jnp.sum(weights * logsumexp(exponents, axis=1, b=weights))

    return lax.map(at, jnp.asarray(noise), batch_size=64)


def quadrature(dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights that integrate smooth functions against a standard normal.

    Args:
      dim: 1 or 2.

    Returns:
      (Q, dim) nodes and (Q,) weights that sum to 1, float64.

    Raises:
      ValueError: for another dimension.
    """
    if dim not in _NODES:
        raise ValueError(f"quadrature is for 1 or 2 dimensions, given {dim}")
    line = np.linspace(-_REACH, _REACH, _NODES[dim])
    nodes = np.stack(np.meshgrid(*[line] * dim, indexing="ij"), axis=-1)
    nodes = nodes.reshape(-1, dim)
    weights = np.exp(-np.sum(nodes**2, axis=1) / 2)
    return nodes, weights / weights.sum()


def noisy_points(
    name: str,
    points: ArrayLike,
    *,
    noise_variance: float,
    labels: ArrayLike | None = None,
) -> Task:
    r"""X is one of n points, all equally likely, and y = x + noise of variance sigma^2.

    The information is that of a Gaussian mixture with equal covariances, by quadrature
    in one and two dimensions and by 1,000 draws a point of the exact pointwise values
    (key 0) in more.

    Args:
      name: of the task.
      points: (n, D) values, no two alike.
      noise_variance: sigma^2 > 0, of every coordinate, in squared units of the points.
      labels: (n,) class of every point, from 0; None for samples without labels.

    Returns:
      The task; x and y have D columns.

    Raises:
      ValueError: if points coincide, shapes disagree, or the noise is not positive.
    """
    points = np.asarray(points, np.float64)
    if points.ndim != 2 or len(np.unique(points, axis=0)) < len(points):
        raise ValueError(f"points of shape {points.shape} must be (n, D), none twice")
    if not noise_variance > 0:
        raise ValueError(f"noise_variance must be > 0, given {noise_variance}")
    count, dim = points.shape
    kinds = None if labels is None else np.asarray(labels, np.int32)
    if kinds is not None and kinds.shape != (count,):
        raise ValueError(f"there are {count} points and labels of shape {kinds.shape}")

    def sample(key: jax.Array, size: int) -> tuple[jax.Array, ...]:
        key_point, key_noise = jax.random.split(key)
        index = jax.random.randint(key_point, (size,), 0, count)
        x = jnp.asarray(points)[index]
        noise = jax.random.normal(key_noise, (size, dim))
        y = x + jnp.sqrt(noise_variance) * noise
        return (x, y) if kinds is None else (x, y, jnp.asarray(kinds)[index])

    def pointwise(x: jax.Array, y: jax.Array) -> jax.Array:
        # |y - x|^2 - |y - x_j|^2, without the squares of y that both hold.
        difference = x[:, None] - jnp.asarray(points)
        exponents = -jnp.sum(difference**2, axis=2)
        exponents -= 2 * jnp.einsum("nd,njd->nj", y - x, difference)
        exponents /= 2 * noise_variance
        return jnp.log(count) - logsumexp(exponents, axis=1)

    information, standard_error = _information(points, noise_variance)
    return Task(
        name=name,
        sample=sample,
        information=information,
        standard_error=standard_error,
        dim_x=dim,
        dim_y=dim,
        num_classes=0 if kinds is None else int(kinds.max()) + 1,
        pointwise=pointwise,
    )


def _information(points: np.ndarray, noise_variance: float) -> tuple[float, float]:
    count, dim = points.shape
    weights = np.full(count, 1 / count)
    if dim in _NODES:
        nodes, node_weights = quadrature(dim)
        values = double_precision(
            noisy_information, points, weights, noise_variance, nodes
        )
        return float(values @ node_weights), 0.0
    values = double_precision(
        _drawn, jax.random.key(0), points, weights, noise_variance
    )
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(_DRAWS))


def _drawn(
    key: jax.Array, points: jax.Array, weights: jax.Array, noise_variance: jax.Array
) -> jax.Array:
    noise = jax.random.normal(key, (_DRAWS, points.shape[1]))
    return noisy_information(points, weights, noise_variance, noise)
