r"""Standard errors and bias from disjoint parts of the samples.

Never the bootstrap for nearest neighbors: a resample holds samples twice, a duplicate
is its own nearest neighbor at distance 0, and the estimate counts it as information
(0.42 nats became 0.70 at a true value of 0.41). Parts without replacement have no
duplicates, and the estimates on disjoint parts are independent.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtri
from jax.typing import ArrayLike

from miue_jax.information.inference.parts import (
    Estimator,
    check_parts,
    estimate_on_parts,
)


class SubsampleInterval(NamedTuple):
    """An estimate with its interval.

    Attributes:
      value: () float, nats, the estimate on all samples.
      standard_error: () float, nats, of the value.
      lower: () float, end of the interval.
      upper: () float, end of the interval.
      bias: () float, nats, of the value by the fit of `extrapolate`.
      biased: () bool, whether the bias is larger than the standard error: then the
        interval is around the wrong number, as it knows nothing of the bias.
      sizes: (F + 1,) float, samples behind each estimate, all of them first.
      means: (F + 1,) float, mean estimate at each size.
      standard_errors: (F,) float, of the value, from each number of parts alone: they
        agree where the variance falls like 1/N.
    """

    value: jax.Array
    standard_error: jax.Array
    lower: jax.Array
    upper: jax.Array
    bias: jax.Array
    biased: jax.Array
    sizes: jax.Array
    means: jax.Array
    standard_errors: jax.Array


def subsample_interval(
    key: jax.Array,
    estimator: Estimator,
    x: ArrayLike,
    y: ArrayLike,
    *,
    num_parts: Sequence[int] = (2, 5, 10),
    num_splits: int = 4,
    level: float = 0.95,
) -> SubsampleInterval:
    r"""Interval from the variance of estimates on disjoint parts of the samples.

    The samples are split at random into f parts for each f of ``num_parts``. With
    :math:`s_f^2` the variance of the f estimates and Var proportional to 1/N, every f
    gives :math:`s_f^2 / f` for the variance of the estimate on all samples; the fit
    weighs them by degrees of freedom,

    .. math:: \hat V = \frac{\sum_f (f - 1) s_f^2 / f}{\sum_f (f - 1)}, \qquad
              \hat I \pm z \sqrt{\hat V}

    with z the normal quantile. Averaging over several splits removes the randomness of
    the split, not that of the samples. The interval covers the mean of the estimator
    at this N, which is neither a lower nor an upper bound of the mutual information;
    see ``biased``.

    Assumes independent pairs and an estimator that is asymptotically linear.

    Args:
      key: random key of the splits.
      estimator: pure function (x, y) -> (), the same object in repeated calls so that
        it is compiled once; it must work on N / max(num_parts) samples.
      x: (N, dx) or (N,) numbers.
      y: (N, dy) or (N,) numbers.
      num_parts: numbers of parts, each from 2 to N / 2 and different.
      num_splits: random splits for each number of parts.
      level: of the interval, between 0 and 1.

    Returns:
      The interval.

    Raises:
      ValueError: for bad samples, parts, splits or level, or an estimator that does not
        return a scalar.

    References:
      Holmes and Nemenman, Estimation of Mutual Information for Real-valued Data with
      Error Bars and Controlled Bias, 2019; Politis et al., Subsampling, 1999.
    """
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; it must be between 0 and 1")
    x, y, parts = check_parts(estimator, x, y, num_parts, num_splits)
    return _subsample_interval(
        key,
        x,
        y,
        jnp.asarray(level, x.dtype),
        estimator=estimator,
        parts=parts,
        num_splits=num_splits,
    )


@functools.partial(jax.jit, static_argnames=("estimator", "parts", "num_splits"))
def _subsample_interval(
    key: jax.Array,
    x: jax.Array,
    y: jax.Array,
    level: jax.Array,
    *,
    estimator: Estimator,
    parts: tuple[int, ...],
    num_splits: int,
) -> SubsampleInterval:
    found = estimate_on_parts(key, estimator, x, y, parts=parts, num_splits=num_splits)
    standard_error = jnp.sqrt(found.variance)
    margin = ndtri((1 + level) / 2) * standard_error
    bias = found.value - jnp.mean(found.intercepts)
    return SubsampleInterval(
        value=found.value,
        standard_error=standard_error,
        lower=found.value - margin,
        upper=found.value + margin,
        bias=bias,
        biased=jnp.abs(bias) > standard_error,
        sizes=found.sizes,
        means=found.means,
        standard_errors=jnp.sqrt(found.variances),
    )
