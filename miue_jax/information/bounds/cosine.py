"""Bounds from the mean cosine between samples of one class."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from miue_jax.information.bounds.classes import (
    check_classes,
    class_counts,
    class_traces,
    unit,
)
from miue_jax.information.bounds.trace import amgm_bound, trace_bound
from miue_jax.information.checks import is_traced


def intra_class_cosine(
    features: ArrayLike, labels: ArrayLike, num_classes: int
) -> jax.Array:
    r"""Mean cosine between different samples of each class, in O(N D).

    .. math:: \hat c_y = \frac{1}{n_y (n_y - 1)} \sum_{i \ne j} \cos(z_i, z_j)
              = 1 - \operatorname{tr} S_y

    with S_y the unbiased covariance of the unit features, an identity for every sample.
    It is computed by the trace of centered features: the mean-norm formula
    (n |m|^2 - 1) / (n - 1) has no digits of 1 - c left below 1e-8 in float32. An
    unbiased estimate of the population's mean cosine; not a bound of anything itself.

    Args:
      features: (N, D); scaled to unit norm here.
      labels: (N,) integers in [0, num_classes); traced labels out of range give NaN.
      num_classes: number of classes, each with two members or more.

    Returns:
      (num_classes,) cosines. Under `jax.jit` those of classes below two members are
      NaN.

    Raises:
      ValueError: for bad shapes or values, features that are zero, or a class with
        fewer than two members.

    References:
      docs/theory.md, T6.
    """
    features, labels, _ = check_classes(features, labels, num_classes)
    counts = class_counts(labels, num_classes, features.dtype)
    if not is_traced(counts) and not bool(jnp.all(counts > 1)):
        raise ValueError(f"class {int(jnp.argmin(counts))} has no members")
    traces = class_traces(unit(features), labels, num_classes)
    return jnp.where(counts > 1, 1 - traces, jnp.nan)


def cosine_bound(
    features: ArrayLike,
    labels: ArrayLike,
    noise_variance: ArrayLike,
    num_classes: int,
) -> jax.Array:
    r"""Bound on the information within classes from the intra-class cosines.

    .. math:: \sum_y \pi_y \tfrac d2
              \log\Bigl(1 + \frac{1 - \bar c_y}{d \sigma^2}\Bigr)

    for unit features, with c_y the mean cosine between independent samples of class y.
    With the cosines of the population an upper bound of I(Zc; Z~p | Y) and, plus
    I(Zc; Y), of I(Zc; Z~p). It is `amgm_bound` of the unit features: within a few per
    cent of the truth up to about one nat, loose at high signal-to-noise ratio, where
    `cosine_lse` takes over for the empirical law. The value from a sample is an
    estimate of the bound; `cosine_confidence` gives a certified one.

    Args:
      features: (N, D); scaled to unit norm here, so sigma^2 is in that scale. The norm
        is thrown away: what it tells is not covered (F6).
      labels: (N,) integers in [0, num_classes); traced labels out of range give NaN.
      noise_variance: sigma^2 > 0, a scalar.
      num_classes: number of classes; absent ones have no weight.

    Returns:
      The bound in nats, a scalar; under `jax.jit` classes with one member contribute 0.

    Raises:
      ValueError: for bad shapes or values, features that are zero, or a class with one
        member.

    References:
      docs/theory.md, T7.
    """
    features, labels, _ = check_classes(features, labels, num_classes)
    return amgm_bound(unit(features), labels, noise_variance, num_classes)


def linear_bound(
    features: ArrayLike,
    labels: ArrayLike,
    noise_variance: ArrayLike,
    num_classes: int,
) -> jax.Array:
    r"""Bound on the information within classes that is linear in the mean cosine.

    .. math:: \frac{1 - \bar c}{2 \sigma^2}, \quad \bar c = \sum_y \pi_y \bar c_y

    for unit features. With the cosine of the population an upper bound of
    I(Zc; Z~p | Y) that does not depend on the dimension; never below `cosine_bound`. It
    is `trace_bound` of the unit features.

    Args:
      features: (N, D); scaled to unit norm here, so sigma^2 is in that scale.
      labels: (N,) integers in [0, num_classes); traced labels out of range give NaN.
      noise_variance: sigma^2 > 0, a scalar.
      num_classes: number of classes; absent ones have no weight.

    Returns:
      The bound in nats, a scalar; under `jax.jit` classes with one member contribute 0.

    Raises:
      ValueError: for bad shapes or values, features that are zero, or a class with one
        member.

    References:
      docs/theory.md, T7.
    """
    features, labels, _ = check_classes(features, labels, num_classes)
    return trace_bound(unit(features), labels, noise_variance, num_classes)
