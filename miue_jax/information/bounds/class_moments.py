"""Means and covariances of classes: from samples, and what is checked of them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from miue_jax.information.bounds.classes import (
    center,
    check_classes,
    class_counts,
    map_classes,
    matmul,
)
from miue_jax.information.checks import is_traced


class ClassMoments(NamedTuple):
    """Means and covariances of classes.

    Attributes:
      means: (K, D).
      covariances: (K, D, D).
      prior: (K,) probabilities.
    """

    means: jax.Array
    covariances: jax.Array
    prior: jax.Array


def class_moments(
    features: ArrayLike, labels: ArrayLike, num_classes: int
) -> ClassMoments:
    """Means, unbiased covariances and shares of the classes of a sample.

    Args:
      features: (N, D).
      labels: (N,) integers in [0, num_classes); traced labels out of range give NaN.
      num_classes: K; absent classes have zero moments and no weight.

    Returns:
      The moments, for `label_information_bounds` and `rate_reduction`.

    Raises:
      ValueError: for bad shapes or values, or a class with one member.
    """
    features, labels, size = check_classes(features, labels, num_classes)
    counts = class_counts(labels, num_classes, features.dtype)
    sums = jax.ops.segment_sum(features, labels, num_classes)

    def covariance(
        members: jax.Array, mask: jax.Array, degrees: jax.Array
    ) -> jax.Array:
        return matmul(members.T, members) / degrees

    centered = center(features, labels, num_classes)
    degrees = jnp.maximum(counts - 1, 1)
    return ClassMoments(
        means=sums / jnp.maximum(counts, 1)[:, None],
        covariances=map_classes(
            covariance, centered, labels, num_classes, size, degrees
        ),
        prior=counts / len(labels),
    )


def check_moments(
    means: ArrayLike, covariances: ArrayLike, prior: ArrayLike, noise: ArrayLike
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Checks moments and adds noise to the covariances.

    Args:
      means: (K, D).
      covariances: (K, D, D).
      prior: (K,) probabilities.
      noise: variance, >= 0.

    Returns:
      The three, of one floating-point type.

    Raises:
      ValueError: for anything else.
    """
    prior = check_prior(prior)
    means, covariances = jnp.asarray(means), jnp.asarray(covariances)
    dtype = jnp.result_type(means, covariances, prior, jnp.float32)
    if means.ndim != 2 or covariances.shape != (*means.shape, means.shape[1]):
        raise ValueError(
            f"means have shape {means.shape} and covariances {covariances.shape}; they "
            "must be (K, D) and (K, D, D)"
        )
    if prior.shape != means.shape[:1]:
        raise ValueError(f"prior has shape {prior.shape}; it must be {means.shape[:1]}")
    if not is_traced(noise) and not 0 <= float(np.asarray(noise)) < float("inf"):
        raise ValueError(f"noise_variance is {noise}; it must be finite and >= 0")
    if not is_traced(means) and not bool(jnp.all(jnp.isfinite(means))):
        raise ValueError("means are not finite")
    noise = jnp.asarray(noise, dtype) * jnp.eye(means.shape[1], dtype=dtype)
    return means.astype(dtype), covariances.astype(dtype) + noise, prior.astype(dtype)


def check_definite(factors: jax.Array) -> None:
    """Refuses Cholesky factors (K, D, D) of what is not positive definite."""
    if is_traced(factors):
        return
    bad = ~np.isfinite(np.asarray(factors)).all(axis=(1, 2))
    if bad.any():
        raise ValueError(
            f"the covariance of class {int(np.argmax(bad))} is not positive definite; "
            "add noise_variance"
        )


def check_prior(prior: ArrayLike) -> jax.Array:
    """Checks probabilities and returns them as (K,) float."""
    prior = jnp.asarray(prior)
    prior = prior.astype(jnp.promote_types(prior.dtype, jnp.float32))
    if prior.ndim != 1 or len(prior) == 0:
        raise ValueError(f"prior has shape {prior.shape}; it must be (K,)")
    if not is_traced(prior):
        total = float(jnp.sum(prior))
        if not (bool(jnp.all(prior >= 0)) and abs(total - 1) < 1e-4):
            raise ValueError(
                f"prior is {prior}, sum {total}; it must be >= 0 and sum to 1"
            )
    return prior


def half_logdet(factor: jax.Array) -> jax.Array:
    """Half the log-determinant of a matrix from its Cholesky factor, (..., D, D)."""
    diagonal = jnp.diagonal(factor, axis1=-2, axis2=-1)
    return jnp.sum(jnp.log(diagonal), axis=-1)
