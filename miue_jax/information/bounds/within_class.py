"""The log-determinant bound on what features tell beyond the label (W)."""

import functools

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from miue_jax.information.bounds.classes import (
    center,
    check_classes,
    check_positive,
    class_counts,
    map_classes,
    matmul,
)
from miue_jax.information.checks import is_traced


def within_class_logdet(
    features: ArrayLike,
    labels: ArrayLike,
    noise_variance: ArrayLike,
    num_classes: int,
) -> jax.Array:
    r"""Gaussian bound on the information within classes.

    .. math:: W = \tfrac12 \sum_y \pi_y \log\det(I + \Sigma_y / \sigma^2)

    With the covariances of the population, I(Zc; Z~p | Y) <= I(Zp; Z~p | Y) <= W and
    I(Zc; Z~p) <= I(Zc; Y) + W, for any law of the features with finite second moments.
    It is attained by Gaussian classes whose poisoned features are a function of the
    clean ones. The same call with all labels 0 and one class is the bound
    1/2 log det(I + Sigma_T / sigma^2) on I(Zc; Z~p), the better one where classes
    overlap.

    The covariances are divided by n - 1. That makes them unbiased, so the value is on
    average *below* W of the population (Jensen, T13a: 1.525 for 1.572 at 60 members in
    256 dimensions); and since it is more than the covariance of the members themselves
    (division by n), the value is an upper bound for their empirical law as it stands.
    The quantity is that of `miue_jax.losses.conditional_covariance_loss` with
    ``statistic="logdet"`` and ``normalize=False``, which is made for batches spread
    over devices; this one is made for data sets. It keeps its digits near collapse, in
    float32 too: the value is found from the excess of the pivots over one.

    A class costs O(n D min(n, D)), with n the size of the largest class. Labels that
    are traced have no known class sizes and n = N; under `jax.jit`, close over them.

    Args:
      features: (N, D), not normalized here: sigma^2 is in their scale.
      labels: (N,) integers in [0, num_classes); traced labels out of range give NaN.
      noise_variance: sigma^2 > 0, a scalar. `jax.vmap` over it gives the curve.
      num_classes: number of classes; absent ones have no weight.

    Returns:
      W in nats, a scalar >= 0. Under `jax.jit` classes with one member contribute 0,
      and covariances beyond 1/eps times sigma^2 may give NaN.

    Raises:
      ValueError: for bad shapes or values, a class with one member, or covariances too
        large over sigma^2 for the precision.

    References:
      docs/theory.md, T2 and T13; Cover and Thomas, Elements of Information Theory,
      theorem 8.6.5 (the Gaussian maximizes entropy).
    """
    features, labels, size = check_classes(features, labels, num_classes)
    check_positive("noise_variance", noise_variance)
    values = class_logdets(features, labels, noise_variance, num_classes, size)
    value = jnp.mean(values[labels])
    if not is_traced(value) and not bool(jnp.isfinite(value)):
        raise ValueError(
            f"covariances over noise_variance {noise_variance} are too large for "
            f"{value.dtype}; scale the features or enable float64"
        )
    return value


@functools.partial(jax.jit, static_argnames=("num_classes", "size"))
def class_logdets(
    features: jax.Array,
    labels: jax.Array,
    noise_variance: ArrayLike,
    num_classes: int,
    size: int,
) -> jax.Array:
    """The terms of `within_class_logdet` before they are averaged.

    Args:
      features: (N, D) float.
      labels: (N,) in range.
      noise_variance: scalar, or one for each class.
      num_classes: number of classes.
      size: at least the size of the largest class.

    Returns:
      (num_classes,) nats; 0 below two members.
    """
    counts = class_counts(labels, num_classes, features.dtype)
    noise = jnp.asarray(noise_variance, features.dtype)
    scales = jax.lax.rsqrt(jnp.maximum(counts - 1, 1) * noise)

    def logdet(members: jax.Array, mask: jax.Array, scale: jax.Array) -> jax.Array:
        scaled = members * scale
        # det(I + X'X) = det(I + XX'): the smaller of the two.
        transposed = scaled if size < scaled.shape[1] else scaled.T
        return _log_det_one_plus(matmul(transposed, transposed.T)) / 2

    centered = center(features, labels, num_classes)
    return map_classes(logdet, centered, labels, num_classes, size, scales)


@jax.custom_jvp
def _log_det_one_plus(matrix: jax.Array) -> jax.Array:
    """Returns log det(I + A) for A positive semidefinite, exact for small A too."""
    return _factor(matrix)[1]


@_log_det_one_plus.defjvp
def _log_det_one_plus_jvp(
    primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    # In closed form, since the derivative of the maximum below is wrong at 0.
    factor, value = _factor(*primals)
    return value, jnp.trace(jax.scipy.linalg.cho_solve((factor, True), *tangents))


def _factor(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    factor = jnp.linalg.cholesky(matrix + jnp.eye(len(matrix), dtype=matrix.dtype))
    # The square of a diagonal entry of the factor is 1 + a_ii - sum_j<i l_ij^2: without
    # the 1 no digits of a small A are lost. No pivot of I + A is below 1.
    rest = jnp.sum(jnp.square(jnp.tril(factor, -1)), axis=1)
    return factor, jnp.sum(jnp.log1p(jnp.maximum(jnp.diagonal(matrix) - rest, 0)))
