"""Bounds on the information within classes from cosines between their members."""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from miue_jax.information._core import is_traced, matmul
from miue_jax.information.bounds.classes import (
    center,
    check_classes,
    check_positive,
    class_counts,
    class_traces,
    map_classes,
)
from miue_jax.information.bounds.within_class import amgm_mean, trace_mean

# Rows whose distances to their class are held in memory at once.
_CHUNK = 1024
# Rounding of a squared distance that comes from a product, in units of eps times the
# squared norms, measured; the share of the width that it may be; and the widths beyond
# which a pair adds nothing.
_ROUNDING, _RESOLVED, _NEAR = 4, 1e-3, 32


def intra_class_cosine(
    features: ArrayLike, labels: ArrayLike, num_classes: int
) -> jax.Array:
    r"""Mean cosine between different samples of each class, in O(N D).

    .. math:: \hat c_y = \frac{1}{n_y (n_y - 1)} \sum_{i \ne j} \cos(z_i, z_j)
              = 1 - \operatorname{tr} S_y

    with S_y the unbiased covariance of the unit features, an identity for every sample.
    The trace of centered features is used because the mean-norm formula
    :math:`(n |m|^2 - 1) / (n - 1)` has no digits of 1 - c left below 1e-8 in float32.
    An unbiased estimate of the population's mean cosine; not a bound on anything.

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

    Example:
      >>> import numpy as np
      >>> from miue_jax.information import bounds
      >>> features = np.array([[2.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
      >>> bounds.intra_class_cosine(features, [0, 0, 1, 1], 2).tolist()
      [1.0, 0.0]

    References:
      docs/theory.md, T6.
    """
    features, labels, _ = check_classes(features, labels, num_classes, normalize=True)
    counts = class_counts(labels, num_classes, features.dtype)
    if not is_traced(counts) and not bool(jnp.all(counts > 1)):
        raise ValueError(f"class {int(jnp.argmin(counts))} has no members")
    traces = class_traces(features, labels, num_classes)
    return jnp.where(counts > 1, 1 - traces, jnp.nan)


def cosine_bound(
    features: ArrayLike, labels: ArrayLike, noise_variance: ArrayLike, num_classes: int
) -> jax.Array:
    r"""Bound on the information within classes from the intra-class cosines.

    .. math:: \sum_y \pi_y \tfrac d2
              \log\Bigl(1 + \frac{1 - \bar c_y}{d \sigma^2}\Bigr)

    for unit features, with c_y the mean cosine between independent samples of class y.
    With population cosines, an upper bound on I(Zc; Z~p | Y) and, plus I(Zc; Y), on
    I(Zc; Z~p). It equals `amgm_bound` of the unit features: within a few percent of the
    truth up to about one nat, loose at high signal-to-noise ratio, where `cosine_lse`
    is better for the empirical law. The value from a sample is an estimate of the
    bound; `cosine_confidence` gives a certified one.

    Args:
      features: (N, D); scaled to unit norm here, so sigma^2 is on that scale. The norm
        is discarded: the information it carries is not covered (F6).
      labels: (N,) integers in [0, num_classes); traced labels out of range give NaN.
      noise_variance: sigma^2 > 0, a scalar.
      num_classes: number of classes; absent ones have no weight.

    Returns:
      The bound in nats, a scalar; under `jax.jit` classes with one member contribute 0.

    Raises:
      ValueError: for bad shapes or values, features that are zero, or a class with one
        member.

    Example:
      >>> import jax
      >>> import numpy as np
      >>> from miue_jax.information import bounds
      >>> features = np.array([[1.0, 0.0], [0.0, 1.0]])  # a mean cosine of 0
      >>> round(float(bounds.cosine_bound(features, [0, 0], 0.5, 1)), 4)  # log(1 + 1)
      0.6931
      >>> jax.grad(bounds.cosine_bound)(features, [0, 0], 0.5, 1).shape
      (2, 2)

    References:
      docs/theory.md, T7.
    """
    units, labels, _ = check_classes(features, labels, num_classes, normalize=True)
    return amgm_mean(units, labels, noise_variance, num_classes)


def linear_bound(
    features: ArrayLike, labels: ArrayLike, noise_variance: ArrayLike, num_classes: int
) -> jax.Array:
    r"""Bound on the information within classes that is linear in the mean cosine.

    .. math:: \frac{1 - \bar c}{2 \sigma^2}, \quad \bar c = \sum_y \pi_y \bar c_y

    for unit features. With the population's cosine, an upper bound on I(Zc; Z~p | Y)
    that does not depend on the dimension; never below `cosine_bound`. It equals
    `trace_bound` of the unit features.

    Args:
      features: (N, D); scaled to unit norm here, so sigma^2 is on that scale.
      labels: (N,) integers in [0, num_classes); traced labels out of range give NaN.
      noise_variance: sigma^2 > 0, a scalar.
      num_classes: number of classes; absent ones have no weight.

    Returns:
      The bound in nats, a scalar; under `jax.jit` classes with one member contribute 0.

    Raises:
      ValueError: for bad shapes or values, features that are zero, or a class with one
        member.

    Example:
      >>> import numpy as np
      >>> from miue_jax.information import bounds
      >>> features = np.array([[1.0, 0.0], [0.0, 1.0]])  # a mean cosine of 0
      >>> float(bounds.linear_bound(features, [0, 0], 0.5, 1))
      1.0

    References:
      docs/theory.md, T7.
    """
    units, labels, _ = check_classes(features, labels, num_classes, normalize=True)
    return trace_mean(units, labels, noise_variance, num_classes)


def cosine_lse(
    features: ArrayLike, labels: ArrayLike, noise_variance: ArrayLike, num_classes: int
) -> jax.Array:
    r"""Upper bound on the information that given samples carry within their classes.

    .. math:: \sum_y \pi_y \frac{-1}{n_y} \sum_{i \in y} \log \frac{1}{n_y}
              \sum_{j \in y} e^{(\cos_{ij} - 1) / \sigma^2}

    An upper bound on I(Zp; Z~p | Y) under the empirical law of the samples, with their
    directions as Zp: how much a noisy feature reveals about which sample it came from.
    Never above the mean of log n_y, nor above trace / sigma^2. Near collapse it is up
    to twice `within_class_logdet`, and it is the better of the two once samples are far
    apart: take the smaller. Not a bound for the population the samples are drawn from.
    As a loss it is a soft-nearest-neighbor loss with the noise variance as temperature.

    Memory is O(n) for each of 1024 rows at a time; time is O(n^2 D) for a class of n.
    If labels are traced, n = N; under `jax.jit`, close over them.

    Args:
      features: (N, D); scaled to unit norm here, so sigma^2 is on that scale.
      labels: (N,) integers in [0, num_classes); traced labels out of range give NaN.
      noise_variance: sigma^2 > 0, a scalar.
      num_classes: number of classes; absent ones have no weight.

    Returns:
      The bound in nats, a scalar; classes with one member contribute 0.

    Raises:
      ValueError: for bad shapes or values, or features that are zero.

    Example:
      >>> import numpy as np
      >>> from miue_jax.information import bounds
      >>> features = np.eye(4)  # far apart: which of the four it was, log 4
      >>> round(float(bounds.cosine_lse(features, [0, 0, 0, 0], 0.01, 1)), 4)
      1.3863

    References:
      docs/theory.md, T7; Kolchinsky and Tracey, Estimating Mixture Entropy with
      Pairwise Distances, Entropy 19 (2017), for bounds of this form.
    """
    return _mean_lse(features, labels, noise_variance, num_classes, 2)


def cosine_lse_lower(
    features: ArrayLike, labels: ArrayLike, noise_variance: ArrayLike, num_classes: int
) -> jax.Array:
    r"""Lower companion of `cosine_lse`.

    .. math:: \sum_y \pi_y \frac{-1}{n_y} \sum_{i \in y} \log \frac{1}{n_y}
              \sum_{j \in y} e^{(\cos_{ij} - 1) / (4 \sigma^2)}

    A lower bound on I(Zp; Z~p | Y) under the empirical law of the samples; near
    collapse about half of it. Not a bound for the population.

    Args:
      features: (N, D); scaled to unit norm here, so sigma^2 is on that scale.
      labels: (N,) integers in [0, num_classes); traced labels out of range give NaN.
      noise_variance: sigma^2 > 0, a scalar.
      num_classes: number of classes; absent ones have no weight.

    Returns:
      The bound in nats, a scalar; classes with one member contribute 0.

    Raises:
      ValueError: for bad shapes or values, or features that are zero.

    Example:
      >>> import numpy as np
      >>> from miue_jax.information import bounds
      >>> data = np.eye(4), [0, 0, 0, 0], 0.2, 1
      >>> bool(bounds.cosine_lse_lower(*data) < bounds.cosine_lse(*data))
      True

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
    r"""Pairwise log-sum-exp of each class, (num_classes,) nats.

    .. math:: -\frac1n \sum_i \log \frac1n \sum_j e^{-|z_i - z_j|^2 / \text{width}}

    The width is 2 sigma^2 for the upper bound and 8 sigma^2 for the lower; `size` is at
    least the size of the largest class. Features are taken as they are; absent classes
    give 0.
    """
    width = jnp.asarray(squared_width, features.dtype)

    def of_class(members: jax.Array, mask: jax.Array) -> jax.Array:
        count = jnp.maximum(jnp.sum(mask, dtype=members.dtype), 1)
        squares = jnp.sum(jnp.square(members), axis=1)

        @jax.checkpoint
        def by_differences(row: jax.Array) -> jax.Array:
            return jnp.sum(jnp.square(members - members[row]), axis=1)

        @jax.checkpoint
        def of_rows(rows: jax.Array) -> jax.Array:
            total = squares[rows][:, None] + squares
            product = jnp.maximum(total - 2 * matmul(members[rows], members.T), 0)
            # Where pairs are near beside the noise, but not beside their distance from
            # the mean, what the product rounds away would decide.
            rounding = _ROUNDING * jnp.finfo(total.dtype).eps * total
            lost = rounding > _RESOLVED * width
            lost &= product < _NEAR * width + rounding
            others = rows[:, None] != jnp.arange(size)
            lost &= others & mask & mask[rows][:, None]
            distances = lax.cond(
                jnp.any(lost), lambda: lax.map(by_differences, rows), lambda: product
            )
            # A member coincides with itself, to the last digit.
            scaled = jnp.where(others, distances / width, 0)
            # log1p of what is missing from 1 keeps the digits of tight clusters, the
            # sum those of distant members.
            missing = jnp.sum(jnp.expm1(-scaled), axis=1, where=mask) / count
            tight = missing > -0.5
            shares = jnp.sum(jnp.exp(-scaled), axis=1, where=mask) / count
            logs = jnp.where(
                tight,
                jnp.log1p(jnp.where(tight, missing, 0)),
                jnp.log(jnp.where(tight, 1, shares)),
            )
            return -jnp.where(mask[rows], logs, 0)

        chunk = min(_CHUNK, size)
        # The last chunk may count rows again that precede it.
        starts = jnp.minimum(jnp.arange(0, size, chunk), size - chunk)
        fresh = starts - jnp.arange(0, size, chunk) + jnp.arange(chunk)[:, None] >= 0
        values = lax.map(lambda start: of_rows(start + jnp.arange(chunk)), starts)
        return jnp.sum(jnp.where(fresh.T, values, 0)) / count

    # Centering removes the offset that the Gram identity for distances would square.
    centered = center(features, labels, num_classes)
    return map_classes(of_class, centered, labels, num_classes, size)


def _mean_lse(
    features: ArrayLike,
    labels: ArrayLike,
    noise_variance: ArrayLike,
    num_classes: int,
    factor: int,
) -> jax.Array:
    units, labels, size = check_classes(
        features, labels, num_classes, minimum=1, normalize=True
    )
    check_positive("noise_variance", noise_variance, units.dtype)
    width = factor * jnp.asarray(noise_variance, units.dtype)
    return jnp.mean(class_lse(units, labels, width, num_classes, size)[labels])
