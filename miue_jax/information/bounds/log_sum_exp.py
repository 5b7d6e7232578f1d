"""Pairwise log-sum-exp bounds on the information of a finite sample of features."""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from miue_jax.information.bounds.classes import (
    center,
    check_classes,
    check_positive,
    map_classes,
    matmul,
    unit,
)

# Rows whose distances to their class are held at once.
_CHUNK = 1024


def cosine_lse(
    features: ArrayLike,
    labels: ArrayLike,
    noise_variance: ArrayLike,
    num_classes: int,
) -> jax.Array:
    r"""Upper bound on the information of given samples within their classes.

    .. math:: \sum_y \pi_y \frac{-1}{n_y} \sum_{i \in y} \log \frac{1}{n_y}
              \sum_{j \in y} e^{(\cos_{ij} - 1) / \sigma^2}

    An upper bound of I(Zp; Z~p | Y) under the empirical law of the samples, whose
    directions stand for Zp: what a noisy feature tells about which of them it came
    from. Never above the mean of log n_y, nor above trace / sigma^2; near collapse up
    to twice `within_class_logdet`, and better than it once samples are apart: take the
    smaller. Not a bound for the population the samples are drawn from. As a loss it is
    a soft-nearest-neighbor loss whose temperature is the noise variance.

    Memory is O(n) of 1024 rows at a time; time O(n^2 D) for each class of n. Labels
    that are traced make n = N; under `jax.jit`, close over them.

    Args:
      features: (N, D); scaled to unit norm here, so sigma^2 is in that scale.
      labels: (N,) integers in [0, num_classes); traced labels out of range give NaN.
      noise_variance: sigma^2 > 0, a scalar.
      num_classes: number of classes; absent ones have no weight.

    Returns:
      The bound in nats, a scalar; classes with one member contribute 0.

    Raises:
      ValueError: for bad shapes or values, or features that are zero.

    References:
      docs/theory.md, T7; Kolchinsky and Tracey, Estimating Mixture Entropy with
      Pairwise Distances, Entropy 19 (2017), for bounds of this form.
    """
    return _mean_lse(features, labels, noise_variance, num_classes, 2)


def cosine_lse_lower(
    features: ArrayLike,
    labels: ArrayLike,
    noise_variance: ArrayLike,
    num_classes: int,
) -> jax.Array:
    r"""Lower companion of `cosine_lse`.

    .. math:: \sum_y \pi_y \frac{-1}{n_y} \sum_{i \in y} \log \frac{1}{n_y}
              \sum_{j \in y} e^{(\cos_{ij} - 1) / (4 \sigma^2)}

    A lower bound of I(Zp; Z~p | Y) under the empirical law of the samples; near
    collapse about half of it. Not a bound for the population.

    Args:
      features: (N, D); scaled to unit norm here, so sigma^2 is in that scale.
      labels: (N,) integers in [0, num_classes); traced labels out of range give NaN.
      noise_variance: sigma^2 > 0, a scalar.
      num_classes: number of classes; absent ones have no weight.

    Returns:
      The bound in nats, a scalar; classes with one member contribute 0.

    Raises:
      ValueError: for bad shapes or values, or features that are zero.

    References:
      docs/theory.md, T7.
    """
    return _mean_lse(features, labels, noise_variance, num_classes, 8)


@functools.partial(jax.jit, static_argnames=("num_classes", "size"))
def class_lse(
    features: jax.Array,
    labels: jax.Array,
    squared_width: ArrayLike,
    num_classes: int,
    size: int,
) -> jax.Array:
    """-mean log mean exp(-|z_i - z_j|^2 / width) of each class.

    Args:
      features: (N, D) float, as they are.
      labels: (N,) in range.
      squared_width: 2 sigma^2 for the upper bound, 8 sigma^2 for the lower.
      num_classes: number of classes.
      size: at least the size of the largest class.

    Returns:
      (num_classes,) nats; 0 for absent classes.
    """
    width = jnp.asarray(squared_width, features.dtype)

    def of_class(members: jax.Array, mask: jax.Array) -> jax.Array:
        count = jnp.maximum(jnp.sum(mask, dtype=members.dtype), 1)
        squares = jnp.sum(jnp.square(members), axis=1)

        @jax.checkpoint
        def of_row(row: tuple[jax.Array, jax.Array]) -> jax.Array:
            member, is_member = row
            squared = jnp.sum(jnp.square(member)) + squares
            distances = jnp.maximum(squared - 2 * matmul(members, member), 0)
            # log1p of what is missing from 1 keeps the digits of tight clusters.
            missing = jnp.sum(jnp.expm1(-distances / width), where=mask) / count
            # A row of padding may miss everything: log 0, whose gradient is not finite.
            return -jnp.log1p(jnp.where(is_member, missing, 0))

        rows = lax.map(of_row, (members, mask), batch_size=min(_CHUNK, size))
        return jnp.sum(rows) / count

    # The Gram identity for distances loses nothing to a common offset of the class.
    centered = center(features, labels, num_classes)
    return map_classes(of_class, centered, labels, num_classes, size)


def _mean_lse(
    features: ArrayLike,
    labels: ArrayLike,
    noise_variance: ArrayLike,
    num_classes: int,
    factor: int,
) -> jax.Array:
    features, labels, size = check_classes(features, labels, num_classes, minimum=1)
    check_positive("noise_variance", noise_variance)
    width = factor * jnp.asarray(noise_variance, features.dtype)
    return jnp.mean(class_lse(unit(features), labels, width, num_classes, size)[labels])
