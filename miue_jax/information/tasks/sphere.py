"""Clusters of unit vectors, as normalized features form them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from miue_jax.information.tasks.noisy_points import noisy_points
from miue_jax.information.tasks.task import Task, double_precision


def sphere_clusters(
    key: jax.Array,
    *,
    num_classes: int,
    per_class: int,
    dim: int,
    spread: ArrayLike,
) -> jax.Array:
    r"""Unit vectors around random unit class means.

    A point is (mu + kappa g) / |mu + kappa g| with standard normal g: much like a von
    Mises-Fisher cluster of concentration 1 / kappa^2. The mean cosine of two points of
    a class is about 1 / (1 + D kappa^2).

    Args:
      key: for means and points.
      num_classes: K.
      per_class: n, points of every class.
      dim: D.
      spread: kappa >= 0.

    Returns:
      (K, n, D) unit vectors.

    Raises:
      ValueError: if a number is not positive.
    """
    for what, number in (("num_classes", num_classes), ("per_class", per_class)):
        if number < 1:
            raise ValueError(f"{what} must be at least 1, given {number}")
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
    """
    if not spread > 0:
        raise ValueError(f"spread must be > 0, given {spread}")

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
