"""Certified limits for the mean intra-class cosine, and the bounds they certify."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from miue_jax.information.bounds.classes import (
    check_classes,
    check_positive,
    class_counts,
    unit,
)
from miue_jax.information.bounds.empirical_bernstein import empirical_bernstein_radius
from miue_jax.information.bounds.trace import amgm
from miue_jax.information.checks import is_traced


class CosineConfidence(NamedTuple):
    """One-sided limits for the mean cosine within each class.

    Attributes:
      lower: (num_classes,); all of them hold at once with the given confidence.
      upper: (num_classes,); the same, as a separate statement.
      prior: (num_classes,) the classes' shares of the sample.
    """

    lower: jax.Array
    upper: jax.Array
    prior: jax.Array


class CertifiedBounds(NamedTuple):
    """Upper bounds of I(Zc; Z~p | Y) that hold with the confidence of the cosines.

    Attributes:
      cosine: () nats, the bound of `cosine_bound`.
      linear: () nats, the bound of `linear_bound`.
    """

    cosine: jax.Array
    linear: jax.Array


def cosine_confidence(
    key: jax.Array,
    features: ArrayLike,
    labels: ArrayLike,
    num_classes: int,
    *,
    confidence: float = 0.95,
    smallest_cosine: float = -1.0,
) -> CosineConfidence:
    r"""Certified limits for the population's mean cosine within each class.

    The key draws disjoint pairs within classes. The cosines of the m pairs of a class
    are independent with mean c_y, so by the empirical Bernstein inequality

    .. math:: c_y \ge \bar x - \sqrt{\frac{2 v \log(2 K / \alpha)}{m}}
              - \frac{7 b \log(2 K / \alpha)}{3 (m - 1)}

    with mean x and variance v of the pairs, b the length of the interval of cosines and
    alpha one minus the confidence, divided among the K classes (union bound). For every
    sample size and law; assumed is that features of a class are independent and of one
    law given the labels. That holds for held-out images; it does not for the images the
    network was trained on. One draw of pairs: the best of several is not certified.

    Args:
      key: draws the pairs.
      features: (N, D); scaled to unit norm here.
      labels: (N,) integers in [0, num_classes); traced labels out of range give NaN.
      num_classes: number of classes, K in the formula.
      confidence: in (0, 1), for all classes together and one side.
      smallest_cosine: a value in [-1, 1) that no cosine can fall below: 0 for features
        that are not negative, such as those behind a ReLU, which halves the last term.

    Returns:
      The limits. Classes with fewer than four members are left with the interval from
      smallest_cosine to 1.

    Raises:
      ValueError: for bad shapes or values, a class with one member, features that are
        zero, or a pair below smallest_cosine.

    References:
      docs/theory.md, T13; Maurer and Pontil, Empirical Bernstein Bounds and Sample
      Variance Penalization, COLT 2009.
    """
    features, labels, _ = check_classes(features, labels, num_classes)
    if not is_traced(smallest_cosine) and not -1 <= smallest_cosine < 1:
        raise ValueError(f"smallest_cosine is {smallest_cosine}; it must be in [-1, 1)")
    if not is_traced(confidence) and not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; it must be in (0, 1)")
    means, variances, pairs, largest = _pair_gaps(
        key, unit(features), labels, num_classes
    )
    span = 1 - jnp.asarray(smallest_cosine, features.dtype)
    slack = 32 * jnp.finfo(largest.dtype).eps
    if not is_traced(largest, span) and float(largest) > float(span) + slack:
        raise ValueError(
            f"a pair has cosine {1 - float(largest)}, below smallest_cosine "
            f"{smallest_cosine}"
        )
    radius = empirical_bernstein_radius(
        variances, pairs, span=span, confidence=1 - (1 - confidence) / num_classes
    )
    return CosineConfidence(
        lower=1 - jnp.minimum(means + radius, span),
        upper=1 - jnp.maximum(means - radius, 0),
        prior=class_counts(labels, num_classes, features.dtype) / len(labels),
    )


def certified_bounds(
    limits: CosineConfidence, noise_variance: ArrayLike, dimension: int
) -> CertifiedBounds:
    r"""Bounds on the information within classes that hold with stated confidence.

    .. math:: \sum_y \pi_y \tfrac d2 \log\Bigl(1 + \frac{1 - l_y}{d \sigma^2}\Bigr)
              \quad\text{and}\quad \sum_y \pi_y \frac{1 - l_y}{2 \sigma^2}

    with l_y the lower limits of the cosines. Upper bounds of I(Zc; Z~p | Y) for unit
    features, with the confidence of the limits and for all noise variances at once. The
    prior is the sample's: exact where classes were sampled in fixed shares, as in
    balanced test sets, and else the statement is about the law with these shares.

    Args:
      limits: from `cosine_confidence`.
      noise_variance: sigma^2 > 0, a scalar. `jax.vmap` over it gives the curve.
      dimension: D of the features.

    Returns:
      The bounds in nats.

    Raises:
      ValueError: for a noise variance or dimension that is not positive.

    References:
      docs/theory.md, T7 and T13.
    """
    check_positive("noise_variance", noise_variance)
    check_positive("dimension", dimension)
    gaps = 1 - limits.lower
    noise = jnp.asarray(noise_variance, gaps.dtype)
    return CertifiedBounds(
        cosine=jnp.sum(limits.prior * amgm(gaps, noise, dimension)),
        linear=jnp.sum(limits.prior * gaps) / (2 * noise),
    )


@functools.partial(jax.jit, static_argnames="num_classes")
def _pair_gaps(
    key: jax.Array, units: jax.Array, labels: jax.Array, num_classes: int
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Mean and variance of 1 - cos over pairs, number of pairs, and largest gap."""
    shuffled = jax.random.permutation(key, len(labels))
    order = shuffled[jnp.argsort(labels[shuffled])]
    units, labels = units[order], labels[order]
    counts = class_counts(labels, num_classes, jnp.int32)
    starts = jnp.cumsum(counts) - counts
    position = jnp.arange(len(labels)) - starts[labels]
    # Members 0 and 1 of a class are a pair, 2 and 3, ...; an odd last one is left out.
    first = (position % 2 == 0)[:-1] & (labels[:-1] == labels[1:])
    # |u - v|^2 / 2 = 1 - cos keeps its digits near collapse.
    gaps = jnp.sum(jnp.square(units[1:] - units[:-1]), axis=1) / 2
    largest = jnp.max(gaps, where=first, initial=0)
    gaps, weights, labels = jnp.where(first, gaps, 0), first * 1.0, labels[:-1]
    pairs = jax.ops.segment_sum(weights.astype(gaps.dtype), labels, num_classes)
    means = jax.ops.segment_sum(gaps, labels, num_classes) / jnp.maximum(pairs, 1)
    squares = jnp.where(first, jnp.square(gaps - means[labels]), 0)
    sums = jax.ops.segment_sum(squares, labels, num_classes)
    return means, sums / jnp.maximum(pairs - 1, 1), pairs, largest
