"""Covariance bounds on the information within classes: W and its trace relaxations."""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from miue_jax._log_det import weighted_log_det
from miue_jax.information._core import is_traced, matmul
from miue_jax.information.bounds.classes import (
    center,
    check_classes,
    check_positive,
    class_counts,
    class_traces,
    map_classes,
)


def within_class_logdet(
    features: ArrayLike, labels: ArrayLike, noise_variance: ArrayLike, num_classes: int
) -> jax.Array:
    r"""Gaussian (log-determinant) bound on the information within classes.

    .. math:: W = \tfrac12 \sum_y \pi_y \log\det(I + \Sigma_y / \sigma^2)

    With population covariances, I(Zc; Z~p | Y) <= I(Zp; Z~p | Y) <= W and
    I(Zc; Z~p) <= I(Zc; Y) + W for any law of the features with finite second moments.
    Gaussian classes whose poisoned features are a function of the clean ones attain
    the bound. With all labels 0 and one class, the same call bounds I(Zc; Z~p) by
    1/2 log det(I + Sigma_T / sigma^2), which is tighter where classes overlap.

    Covariances are divided by n - 1. They are then unbiased, so the value is on average
    *below* the population's W (Jensen, T13a: 1.525 for 1.572 at 60 members in 256
    dimensions); and because they exceed the covariance of the members themselves
    (division by n), the value is an upper bound for the empirical law as it stands.
    `miue_jax.losses.conditional_covariance_loss` with ``statistic="logdet"`` and
    ``normalize=False`` computes the same quantity for batches spread over devices; this
    function is for data sets. It stays accurate near collapse, even in float32, because
    it works with the excess of the pivots over one.

    A class costs O(n D min(n, D)) for the largest class size n. If labels are traced,
    class sizes are unknown and n = N; under `jax.jit`, close over the labels.

    Args:
      features: (N, D), not normalized here: sigma^2 is on their scale.
      labels: (N,) integers in [0, num_classes); traced labels out of range give NaN.
      noise_variance: sigma^2 > 0, a scalar. `jax.vmap` over it gives the curve.
      num_classes: number of classes; absent ones have no weight.

    Returns:
      W in nats, a scalar >= 0. Under `jax.jit` classes with one member contribute 0,
      and covariances beyond 1/eps times sigma^2 may give NaN.

    Raises:
      ValueError: for bad shapes or values, a class with one member, or covariances too
        large relative to sigma^2 for the precision.

    Example:
      >>> import numpy as np
      >>> from miue_jax.information import bounds
      >>> features = np.array([[0.0, 1.0], [0.0, -1.0], [2.0, 0.0], [4.0, 0.0]])
      >>> value = bounds.within_class_logdet(features, [0, 0, 1, 1], 1.0, 2)
      >>> round(float(value), 4)  # log(1 + 2) / 2: one direction of variance 2 each
      0.5493

    References:
      docs/theory.md, T2 and T13; Cover and Thomas, Elements of Information Theory,
      theorem 8.6.5 (the Gaussian maximizes entropy).
    """
    features, labels, size = check_classes(features, labels, num_classes)
    check_positive("noise_variance", noise_variance, features.dtype)
    values = class_logdets(features, labels, noise_variance, num_classes, size)
    value = jnp.mean(values[labels])
    if not is_traced(value) and not bool(jnp.isfinite(value)):
        raise ValueError(
            f"covariances over noise_variance {noise_variance} are too large for "
            f"{value.dtype}; scale the features or enable float64"
        )
    return value


def amgm_bound(
    features: ArrayLike, labels: ArrayLike, noise_variance: ArrayLike, num_classes: int
) -> jax.Array:
    r"""Bound on the information within classes from traces, by the AM-GM inequality.

    .. math:: \sum_y \pi_y \tfrac d2
              \log\Bigl(1 + \frac{\operatorname{tr}\Sigma_y}{d \sigma^2}\Bigr)

    Never below `within_class_logdet` of the same features, and equal to it for
    isotropic covariances. With population traces, an upper bound on I(Zc; Z~p | Y). The
    traces are unbiased; the value is slightly low on average.

    Args:
      features: (N, D), not normalized here: sigma^2 is on their scale.
      labels: (N,) integers in [0, num_classes); traced labels out of range give NaN.
      noise_variance: sigma^2 > 0, a scalar.
      num_classes: number of classes; absent ones have no weight.

    Returns:
      The bound in nats, a scalar; under `jax.jit` classes with one member contribute 0.

    Raises:
      ValueError: for bad shapes or values, or a class with one member.

    Example:
      >>> import numpy as np
      >>> from miue_jax.information import bounds
      >>> features = np.array([[0.0, 1.0], [0.0, -1.0]])
      >>> round(float(bounds.amgm_bound(features, [0, 0], 1.0, 1)), 4)  # log(1 + 2 / 2)
      0.6931

    References:
      docs/theory.md, T3.
    """
    checked, labels, _ = check_classes(features, labels, num_classes)
    return amgm_mean(checked, labels, noise_variance, num_classes)


def trace_bound(
    features: ArrayLike, labels: ArrayLike, noise_variance: ArrayLike, num_classes: int
) -> jax.Array:
    r"""Bound on the information within classes that is linear in the traces.

    .. math:: \sum_y \pi_y \frac{\operatorname{tr}\Sigma_y}{2 \sigma^2}

    Never below `amgm_bound` of the same features, and independent of the dimension.
    With population traces, an upper bound on I(Zc; Z~p | Y), tight where the trace is
    small compared to D sigma^2; the estimate here is unbiased.

    Args:
      features: (N, D), not normalized here: sigma^2 is on their scale.
      labels: (N,) integers in [0, num_classes); traced labels out of range give NaN.
      noise_variance: sigma^2 > 0, a scalar.
      num_classes: number of classes; absent ones have no weight.

    Returns:
      The bound in nats, a scalar; under `jax.jit` classes with one member contribute 0.

    Raises:
      ValueError: for bad shapes or values, or a class with one member.

    Example:
      >>> import numpy as np
      >>> from miue_jax.information import bounds
      >>> features = np.array([[0.0, 1.0], [0.0, -1.0]])
      >>> float(bounds.trace_bound(features, [0, 0], 1.0, 1))  # a trace of 2, halved
      1.0

    References:
      docs/theory.md, T3.
    """
    checked, labels, _ = check_classes(features, labels, num_classes)
    return trace_mean(checked, labels, noise_variance, num_classes)


def amgm_mean(
    features: jax.Array, labels: jax.Array, noise_variance: ArrayLike, num_classes: int
) -> jax.Array:
    """`amgm_bound` of features from `check_classes`."""
    check_positive("noise_variance", noise_variance, features.dtype)
    traces = class_traces(features, labels, num_classes)
    return jnp.mean(amgm(traces, noise_variance, features.shape[1])[labels])


def trace_mean(
    features: jax.Array, labels: jax.Array, noise_variance: ArrayLike, num_classes: int
) -> jax.Array:
    """`trace_bound` of features from `check_classes`."""
    check_positive("noise_variance", noise_variance, features.dtype)
    traces = class_traces(features, labels, num_classes)
    return jnp.mean((traces / (2 * jnp.asarray(noise_variance, traces.dtype)))[labels])


def amgm(traces: jax.Array, noise_variance: ArrayLike, dimension: int) -> jax.Array:
    """Evaluates the AM-GM bound of each of several traces."""
    noise = jnp.asarray(noise_variance, traces.dtype)
    return dimension / 2 * jnp.log1p(traces / (dimension * noise))


@functools.partial(jax.jit, static_argnames=("num_classes", "size"))
def class_logdets(
    features: jax.Array,
    labels: jax.Array,
    noise_variance: ArrayLike,
    num_classes: int,
    size: int,
) -> jax.Array:
    """The terms of `within_class_logdet`: (num_classes,) nats, 0 below two members.

    The noise variance is a scalar or one per class; `size` is at least the size of the
    largest class.
    """
    counts = class_counts(labels, num_classes, features.dtype)
    noise = jnp.asarray(noise_variance, features.dtype)
    scales = lax.rsqrt(jnp.maximum(counts - 1, 1) * noise)

    def logdet(members: jax.Array, mask: jax.Array, scale: jax.Array) -> jax.Array:
        scaled = members * scale
        # det(I + X'X) = det(I + XX'): take the smaller matrix.
        transposed = scaled if size < scaled.shape[1] else scaled.T
        gram = matmul(transposed, transposed.T)
        return weighted_log_det(gram, jnp.ones(len(gram), gram.dtype)) / 2

    centered = center(features, labels, num_classes)
    return map_classes(logdet, centered, labels, num_classes, size, scales)
