"""Finitely many points in Gaussian noise, such as clusters of unit vectors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import logsumexp
from jax.typing import ArrayLike

from miue_jax._arguments import check_real, check_scalar
from miue_jax.information._core import check_counts, check_key, check_labels, is_traced
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
    noisy version never appear, so nothing is lost if the noise is small.

    Args:
      points: (n, D), the values of X.
      weights: (n,) probabilities of the points; may contain zeros.
      noise_variance: sigma^2 > 0, in squared units of the points.
      noise: (Q, D), standard normal draws or quadrature nodes u.

    Returns:
      (Q,) nats.

    Raises:
      ValueError: for shapes that disagree, weights that are no probabilities, or a
        noise variance that is not positive and finite.

    Example:
      >>> import numpy as np
      >>> from miue_jax.information import tasks
      >>> nodes, weights = tasks.quadrature(1)
      >>> points, half = np.array([[-1.0], [1.0]]), np.array([0.5, 0.5])
      >>> values = tasks.noisy_information(points, half, 0.01, nodes)
      >>> round(float(values @ weights), 4)  # far apart: log 2
      0.6931
    """
    for name, value in (("points", points), ("weights", weights), ("noise", noise)):
        check_real(name, value)
    points, weights, noise = map(jnp.asarray, (points, weights, noise))
    fits = points.ndim == noise.ndim == 2 and points.shape[1] == noise.shape[1]
    if not fits or weights.shape != points.shape[:1]:
        raise ValueError(
            f"points have shape {points.shape}, weights {weights.shape} and noise "
            f"{noise.shape}; they must be (n, D), (n,) and (Q, D)"
        )
    check_scalar("noise_variance", noise_variance)
    if not is_traced(noise_variance) and not 0 < np.asarray(noise_variance) < np.inf:
        raise ValueError(
            f"noise_variance is {noise_variance}; it must be positive and finite"
        )
    if not is_traced(weights):
        total = float(jnp.sum(weights))
        if not (bool(jnp.all(weights >= 0)) and abs(total - 1) < 1e-4):
            raise ValueError(
                f"weights are {weights}, sum {total}; they must be >= 0 and sum to 1"
            )
    difference = points[:, None] - points
    squared = jnp.sum(difference**2, axis=-1) / (2 * jnp.asarray(noise_variance))
    scaled = difference / jnp.sqrt(noise_variance)

    def at(u: jax.Array) -> jax.Array:
        exponents = -squared - scaled @ u
        return -jnp.sum(weights * logsumexp(exponents, axis=1, b=weights))

    return lax.map(at, noise, batch_size=64)


def quadrature(dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights that integrate smooth functions against a standard normal.

    Args:
      dim: 1 or 2.

    Returns:
      (Q, dim) nodes and (Q,) weights that sum to 1, float64.

    Raises:
      ValueError: for another dimension.

    Example:
      >>> from miue_jax.information import tasks
      >>> nodes, weights = tasks.quadrature(1)
      >>> round(float(weights @ nodes[:, 0] ** 4), 6)  # the fourth moment
      3.0
    """
    check_counts(dim=dim)
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
    r"""X is one of n equally likely points, and y = x + noise of variance sigma^2.

    The information is that of a Gaussian mixture with equal covariances, by quadrature
    in one and two dimensions and otherwise from 1,000 draws per point of the exact
    pointwise values (key 0).

    Args:
      name: name of the task.
      points: (n, D), all distinct; not traced.
      noise_variance: sigma^2 > 0, of every coordinate, in squared units of the points.
      labels: (n,) class of every point, from 0; None for samples without labels.

    Returns:
      The task; x and y have D columns.

    Raises:
      ValueError: if points coincide, shapes disagree, or the noise is not positive.

    Example:
      >>> from miue_jax.information import tasks
      >>> task = tasks.noisy_points("pair", [[-1.0], [1.0]], noise_variance=0.01)
      >>> round(task.information, 4)  # log 2
      0.6931
    """
    check_real("points", points)
    check_scalar("noise_variance", noise_variance)
    points = np.asarray(points, np.float64)
    if not points.size or not np.all(np.isfinite(points)):
        raise ValueError(
            f"points of shape {points.shape} must be finite, and at least one"
        )
    if points.ndim != 2 or len(np.unique(points, axis=0)) < len(points):
        raise ValueError(f"points of shape {points.shape} must be (n, D), none twice")
    if not 0 < noise_variance < np.inf:
        raise ValueError(
            f"noise_variance must be > 0 and finite, given {noise_variance}"
        )
    count, dim = points.shape
    kinds = None if labels is None else np.asarray(check_labels(labels, count))

    def sample(key: jax.Array, size: int) -> tuple[jax.Array, ...]:
        key_point, key_noise = jax.random.split(key)
        index = jax.random.randint(key_point, (size,), 0, count)
        x = jnp.asarray(points)[index]
        noise = jax.random.normal(key_noise, (size, dim))
        y = x + jnp.sqrt(noise_variance) * noise
        return (x, y) if kinds is None else (x, y, jnp.asarray(kinds)[index])

    def pointwise(x: jax.Array, y: jax.Array) -> jax.Array:
        # |y - x|^2 - |y - x_j|^2, without the squares of y that both contain.
        difference = x[:, None] - jnp.asarray(points)
        exponents = -jnp.sum(difference**2, axis=2)
        exponents -= 2 * jnp.einsum("nd,njd->nj", y - x, difference)
        exponents /= 2 * noise_variance
        return jnp.log(count) - logsumexp(exponents, axis=1)

    information, error = _information(points, noise_variance)
    num_classes = 0 if kinds is None else int(kinds.max()) + 1
    return Task(name, sample, information, error, dim, dim, num_classes, pointwise)


def sphere_clusters(
    key: jax.Array,
    *,
    num_classes: int,
    per_class: int,
    dim: int,
    spread: ArrayLike,
) -> jax.Array:
    r"""Unit vectors clustered around random unit class means, like normalized features.

    A point is (mu + kappa g) / norm(mu + kappa g) with standard normal g: much like a
    von Mises-Fisher cluster of concentration 1 / kappa^2. The mean cosine of two points
    of a class is about 1 / (1 + D kappa^2).

    Args:
      key: random key for means and points.
      num_classes: K.
      per_class: n, points of every class.
      dim: D.
      spread: kappa >= 0.

    Returns:
      (K, n, D) unit vectors.

    Raises:
      ValueError: if a number is not positive.

    Example:
      >>> import jax
      >>> from miue_jax.information import tasks
      >>> points = tasks.sphere_clusters(
      ...     jax.random.key(0), num_classes=3, per_class=5, dim=8, spread=0.1
      ... )
      >>> points.shape, round(float((points**2).sum(axis=2).max()), 4)
      ((3, 5, 8), 1.0)
    """
    check_key(key)
    check_counts(num_classes=num_classes, per_class=per_class, dim=dim)
    _check_spread(spread)
    if dim < 2:
        raise ValueError(f"dim must be at least 2, given {dim}")
    key_mean, key_point = jax.random.split(key)
    means = jax.random.normal(key_mean, (num_classes, 1, dim))
    means /= jnp.linalg.norm(means, axis=-1, keepdims=True)
    points = jax.random.normal(key_point, (num_classes, per_class, dim))
    points = means + jnp.asarray(spread, points.dtype) * points
    return points / jnp.linalg.norm(points, axis=-1, keepdims=True)


def sphere(
    dim: int,
    spread: float,
    *,
    noise_variance: float = 0.05,
    num_classes: int = 10,
    per_class: int = 10,
) -> Task:
    """X is a point of clusters on the sphere (key 0), y the same in Gaussian noise.

    Args:
      dim: D.
      spread: kappa > 0 of `sphere_clusters`.
      noise_variance: sigma^2 > 0 of every coordinate.
      num_classes: K.
      per_class: points of every class.

    Returns:
      The task `sphere-<dim>-<spread>`; I(x; y) is at most log(K n).

    Raises:
      ValueError: if a number is not positive.

    Example:
      >>> import math
      >>> from miue_jax.information import tasks
      >>> task = tasks.sphere(2, 0.1, num_classes=2, per_class=3)
      >>> task.num_classes, 0 < task.information < math.log(6)
      (2, True)
    """
    _check_spread(spread)
    if spread == 0:
        raise ValueError("spread must be > 0, given 0: points of a class coincide")
    check_counts(dim=dim, num_classes=num_classes, per_class=per_class)
    build = functools.partial(
        sphere_clusters, num_classes=num_classes, per_class=per_class, dim=dim
    )
    points = double_precision(build, jax.random.key(0), spread=spread)
    return noisy_points(
        f"sphere-{dim}-{spread}",
        points.reshape(-1, dim),
        noise_variance=noise_variance,
        labels=np.repeat(np.arange(num_classes), per_class),
    )


def _check_spread(spread: ArrayLike) -> None:
    check_scalar("spread", spread)
    if not is_traced(spread) and not 0 <= float(np.asarray(spread)) < np.inf:
        raise ValueError(f"spread is {spread}; it must be finite and >= 0")


def _information(points: np.ndarray, noise_variance: float) -> tuple[float, float]:
    count, dim = points.shape
    given = points, np.full(count, 1 / count), noise_variance
    if dim in _NODES:
        nodes, node_weights = quadrature(dim)
        values = double_precision(noisy_information, *given, nodes)
        return float(values @ node_weights), 0.0
    values = double_precision(_drawn, jax.random.key(0), *given)
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(_DRAWS))


def _drawn(
    key: jax.Array, points: jax.Array, weights: jax.Array, noise_variance: jax.Array
) -> jax.Array:
    noise = jax.random.normal(key, (_DRAWS, points.shape[1]))
    return noisy_information(points, weights, noise_variance, noise)
