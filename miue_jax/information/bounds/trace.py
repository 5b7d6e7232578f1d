"""Bounds on the log-determinant from the trace of the covariance alone."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from miue_jax.information.bounds.classes import (
    check_classes,
    check_positive,
    class_traces,
)


def amgm_bound(
    features: ArrayLike,
    labels: ArrayLike,
    noise_variance: ArrayLike,
    num_classes: int,
) -> jax.Array:
    r"""Bound on the information within classes from traces, by AM-GM.

    .. math:: \sum_y \pi_y \tfrac d2
              \log\Bigl(1 + \frac{\operatorname{tr}\Sigma_y}{d \sigma^2}\Bigr)

    Never below `within_class_logdet` of the same features, and equal to it for
    isotropic covariances. With the traces of the population an upper bound of
    I(Zc; Z~p | Y). The traces are unbiased, the value is slightly low on average.

    Args:
      features: (N, D), not normalized here: sigma^2 is in their scale.
      labels: (N,) integers in [0, num_classes); traced labels out of range give NaN.
      noise_variance: sigma^2 > 0, a scalar.
      num_classes: number of classes; absent ones have no weight.

    Returns:
      The bound in nats, a scalar; under `jax.jit` classes with one member contribute 0.

    Raises:
      ValueError: for bad shapes or values, or a class with one member.

    References:
      docs/theory.md, T3.
    """
    traces, labels, dimension = _traces(features, labels, noise_variance, num_classes)
    return jnp.mean(amgm(traces, noise_variance, dimension)[labels])


def trace_bound(
    features: ArrayLike,
    labels: ArrayLike,
    noise_variance: ArrayLike,
    num_classes: int,
) -> jax.Array:
    r"""Bound on the information within classes that is linear in the traces.

    .. math:: \sum_y \pi_y \frac{\operatorname{tr}\Sigma_y}{2 \sigma^2}

    Never below `amgm_bound` of the same features and free of the dimension. With the
    traces of the population an upper bound of I(Zc; Z~p | Y), close where the trace is
    small beside D sigma^2; its estimate here is unbiased.

    Args:
      features: (N, D), not normalized here: sigma^2 is in their scale.
      labels: (N,) integers in [0, num_classes); traced labels out of range give NaN.
      noise_variance: sigma^2 > 0, a scalar.
      num_classes: number of classes; absent ones have no weight.

    Returns:
      The bound in nats, a scalar; under `jax.jit` classes with one member contribute 0.

    Raises:
      ValueError: for bad shapes or values, or a class with one member.

    References:
      docs/theory.md, T3.
    """
    traces, labels, _ = _traces(features, labels, noise_variance, num_classes)
    return jnp.mean((traces / (2 * jnp.asarray(noise_variance, traces.dtype)))[labels])


def amgm(traces: jax.Array, noise_variance: ArrayLike, dimension: int) -> jax.Array:
    """The AM-GM bound of each of several traces."""
    noise = jnp.asarray(noise_variance, traces.dtype)
    return dimension / 2 * jnp.log1p(traces / (dimension * noise))


def _traces(
    features: ArrayLike, labels: ArrayLike, noise_variance: ArrayLike, num_classes: int
) -> tuple[jax.Array, jax.Array, int]:
    features, labels, _ = check_classes(features, labels, num_classes)
    check_positive("noise_variance", noise_variance)
    return class_traces(features, labels, num_classes), labels, features.shape[1]
