"""Certified confidence limits: means of bounded variables and intra-class cosines."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from miue_jax._arguments import check_real, check_scalar
from miue_jax._checks import shown
from miue_jax.information._core import check_key, is_traced
from miue_jax.information.bounds.classes import (
    check_classes,
    check_positive,
    class_counts,
)
from miue_jax.information.bounds.within_class import amgm


class CosineConfidence(NamedTuple):
    """One-sided limits for the mean cosine within each class.

    Attributes:
      lower: (num_classes,); all hold simultaneously with the given confidence.
      upper: (num_classes,); the same, as a separate statement.
      prior: (num_classes,) shares of the classes in the sample.

    Example:
      >>> import jax.numpy as jnp
      >>> from miue_jax.information import bounds
      >>> limits = bounds.CosineConfidence(
      ...     lower=jnp.array([0.9]), upper=jnp.array([1.0]), prior=jnp.array([1.0])
      ... )
      >>> round(float(bounds.certified_bounds(limits, 0.05, 8).linear), 3)
      1.0
    """

    lower: jax.Array
    upper: jax.Array
    prior: jax.Array


class CertifiedBounds(NamedTuple):
    """Upper bounds on I(Zc; Z~p | Y) that hold with the confidence of the cosines.

    Attributes:
      cosine: () nats, the bound of `cosine_bound`.
      linear: () nats, the bound of `linear_bound`.

    Example:
      >>> from miue_jax.information import bounds
      >>> bounds.CertifiedBounds(cosine=0.9, linear=1.0).cosine
      0.9
    """

    cosine: jax.Array
    linear: jax.Array


def empirical_bernstein_radius(
    variance: ArrayLike,
    count: ArrayLike,
    *,
    span: ArrayLike,
    confidence: ArrayLike,
) -> jax.Array:
    r"""One-sided confidence radius for the mean of bounded independent variables.

    .. math:: \sqrt{\frac{2 v \log(2 / \alpha)}{m}}
              + \frac{7 b \log(2 / \alpha)}{3 (m - 1)}

    with v their unbiased sample variance, b the length of an interval that contains all
    of them and alpha one minus the confidence. With at least that confidence the
    expectation is at most the mean plus the radius; separately, it is at least the mean
    minus the radius. Holds for every sample size and law.

    Args:
      variance: v >= 0.
      count: m, the number of variables.
      span: b > 0, known in advance, not read off the sample.
      confidence: in (0, 1).

    Returns:
      The radius, in the unit of the variables; infinite below two variables.

    Raises:
      ValueError: for a variance, count, span or confidence out of range.

    Example:
      >>> from miue_jax.information import bounds
      >>> radius = bounds.empirical_bernstein_radius(
      ...     0.25, 500, span=1.0, confidence=0.95
      ... )
      >>> round(float(radius), 4)
      0.078

    References:
      Maurer and Pontil, Empirical Bernstein Bounds and Sample Variance Penalization,
      COLT 2009, theorem 4; docs/theory.md, T13.
    """
    for name, value in (
        ("variance", variance),
        ("count", count),
        ("span", span),
        ("confidence", confidence),
    ):
        check_real(name, value)
    variance = jnp.asarray(variance)
    dtype = jnp.promote_types(variance.dtype, jnp.float32)
    variance, count, span, confidence = (
        jnp.asarray(value, dtype) for value in (variance, count, span, confidence)
    )
    for name, value, allowed, holds in (
        ("variance", variance, ">= 0", variance >= 0),
        ("count", count, ">= 0", count >= 0),
        ("span", span, "> 0", span > 0),
        ("confidence", confidence, "in (0, 1)", (confidence > 0) & (confidence < 1)),
    ):
        if not is_traced(holds) and not bool(jnp.all(holds)):
            raise ValueError(f"{name} is {value}; it must be {allowed}")
    log_term = jnp.log(2 / (1 - confidence))
    several = count > 1
    squared = 2 * variance * log_term / jnp.where(several, count, 1)
    # The derivative of the root is infinite at 0; it is given as 0 there.
    first = jnp.where(squared > 0, jnp.sqrt(jnp.where(squared > 0, squared, 1)), 0)
    second = 7 * span * log_term / (3 * jnp.where(several, count - 1, 1))
    return jnp.where(several, first + second, jnp.inf)


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
    alpha one minus the confidence, divided among the K classes (union bound). Holds for
    every sample size and law, provided that the features of a class are independent and
    identically distributed given the labels: true of held-out images, not of the images
    the network was trained on. Only one draw of pairs is certified, not the best of
    several.

    Args:
      key: draws the pairs.
      features: (N, D); scaled to unit norm here.
      labels: (N,) integers in [0, num_classes); traced labels out of range give NaN.
      num_classes: number of classes, K in the formula.
      confidence: in (0, 1), for all classes together and one side.
      smallest_cosine: a value in [-1, 1) that no cosine can fall below: 0 for
        nonnegative features, such as those after a ReLU, which halves the last term.

    Returns:
      The limits. Classes with fewer than four members keep the interval from
      smallest_cosine to 1.

    Raises:
      ValueError: for bad shapes or values, a class with one member, features that are
        zero, or a pair below smallest_cosine.

    Example:
      >>> import jax
      >>> import numpy as np
      >>> from miue_jax.information import bounds
      >>> features, labels = np.ones((300, 4)), np.zeros(300, int)  # collapsed
      >>> limits = bounds.cosine_confidence(jax.random.key(0), features, labels, 1)
      >>> round(float(limits.lower[0]), 4), float(limits.upper[0])  # of 150 pairs
      (0.8845, 1.0)

    References:
      docs/theory.md, T13; Maurer and Pontil, Empirical Bernstein Bounds and Sample
      Variance Penalization, COLT 2009.
    """
    check_key(key)
    units, labels, _ = check_classes(features, labels, num_classes, normalize=True)
    check_scalar("smallest_cosine", smallest_cosine)
    check_scalar("confidence", confidence)
    if not is_traced(smallest_cosine) and not -1 <= smallest_cosine < 1:
        raise ValueError(f"smallest_cosine is {smallest_cosine}; it must be in [-1, 1)")
    if not is_traced(confidence) and not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; it must be in (0, 1)")
    means, variances, pairs, largest = _pair_gaps(key, units, labels, num_classes)
    span = 1 - jnp.asarray(smallest_cosine, units.dtype)
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
        prior=class_counts(labels, num_classes, units.dtype) / len(labels),
    )


def certified_bounds(
    limits: CosineConfidence, noise_variance: ArrayLike, dimension: int
) -> CertifiedBounds:
    r"""Bounds on the information within classes that hold with stated confidence.

    .. math:: \sum_y \pi_y \tfrac d2 \log\Bigl(1 + \frac{1 - l_y}{d \sigma^2}\Bigr)
              \quad\text{and}\quad \sum_y \pi_y \frac{1 - l_y}{2 \sigma^2}

    with l_y the lower limits of the cosines. Upper bounds on I(Zc; Z~p | Y) for unit
    features, with the confidence of the limits, for all noise variances simultaneously.
    The prior is that of the sample: exact if classes were sampled in fixed shares, as
    in balanced test sets; otherwise the statement is about the law with these shares.

    Args:
      limits: from `cosine_confidence`.
      noise_variance: sigma^2 > 0, a scalar. `jax.vmap` over it gives the curve.
      dimension: D of the features.

    Returns:
      The bounds in nats.

    Raises:
      ValueError: for a noise variance or dimension that is not positive, or limits or
        shares that are none.

    Example:
      >>> import jax.numpy as jnp
      >>> from miue_jax.information import bounds
      >>> limits = bounds.CosineConfidence(
      ...     lower=jnp.array([0.9, 0.7]), upper=jnp.ones(2), prior=jnp.full(2, 0.5)
      ... )
      >>> found = bounds.certified_bounds(limits, 0.1, 64)
      >>> round(float(found.linear), 3), bool(found.cosine < found.linear)
      (1.0, True)

    References:
      docs/theory.md, T7 and T13.
    """
    if not isinstance(limits, CosineConfidence):
        raise ValueError(f"limits is {shown(limits)}; it must be a CosineConfidence")
    lower, prior = jnp.asarray(limits.lower), jnp.asarray(limits.prior)
    if lower.ndim != 1 or lower.shape != prior.shape:
        raise ValueError(
            f"lower limits have shape {lower.shape} and the prior {prior.shape}; both "
            "must be (num_classes,)"
        )
    inside = (jnp.abs(lower) <= 1 + 1e-5) & (prior >= 0)
    inside &= jnp.abs(jnp.sum(prior) - 1) < 1e-4
    if not is_traced(inside) and not bool(jnp.all(inside)):
        raise ValueError(
            f"lower limits are {lower} with prior {prior}; cosines are from -1 to 1 "
            "and shares >= 0, with sum 1"
        )
    gaps = jnp.maximum(1 - lower, 0)
    check_positive("noise_variance", noise_variance, jnp.result_type(gaps, "float32"))
    check_positive("dimension", dimension)
    noise = jnp.asarray(noise_variance, gaps.dtype)
    return CertifiedBounds(
        cosine=jnp.sum(prior * amgm(gaps, noise, dimension)),
        linear=jnp.sum(prior * gaps) / (2 * noise),
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
