r"""Uncertainty of estimates: permutation tests, subsampling intervals, extrapolation.

Here an estimator is a pure function (x, y) -> (), such as
``lambda x, y: estimators.ksg(x, y).value``.

Standard errors and bias come from disjoint parts of the samples, never from the
bootstrap: a resample contains samples twice, a duplicate is its own nearest neighbor at
distance 0, and the estimate counts it as information (0.42 nats became 0.70 at a true
value of 0.41; the bootstrap intervals of npeet_plus 0.2.0 lie above the truth). Parts
without replacement have no duplicates, and the estimates on disjoint parts are
independent.
"""

import functools
import numbers
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri
from jax.typing import ArrayLike

from miue_jax._checks import check_flag, shown
from miue_jax.information._core import (
    check_counts,
    check_key,
    check_pair,
    is_traced,
)
from miue_jax.information.permutation import (
    Estimator,
    PermutationTest,
    check_estimate,
    check_known,
    check_scalar,
    permutation_test,
)

__all__ = [
    "Extrapolation",
    "PermutationTest",
    "SubsampleInterval",
    "extrapolate",
    "permutation_test",
    "subsample_interval",
]


class SubsampleInterval(NamedTuple):
    """An estimate with its interval.

    Attributes:
      value: () float, nats, the estimate on all samples.
      standard_error: () float, nats, of the value.
      lower: () float, lower end of the interval.
      upper: () float, upper end of the interval.
      bias: () float, nats, of the value by the fit of `extrapolate`.
      biased: () bool, whether the bias exceeds the standard error: then the interval is
        around the wrong number, because it does not account for the bias.
      sizes: (F + 1,) float, samples behind each estimate, all of them first.
      means: (F + 1,) float, mean estimate at each size.
      standard_errors: (F,) float, of the value, from each number of parts alone: they
        agree if the variance decreases like 1/N.

    Example:
      >>> from miue_jax.information import inference
      >>> inference.SubsampleInterval._fields[:4]
      ('value', 'standard_error', 'lower', 'upper')
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


class Extrapolation(NamedTuple):
    """An estimate extrapolated to infinitely many samples.

    Attributes:
      value: () float, nats, intercept of the line in 1/N.
      standard_error: () float, nats, of the value: sampling and random parts, not the
        error of the line as a model.
      slope: () float, nats times samples; the bias on N samples is slope / N.
      sizes: (F + 1,) float, samples behind each estimate, all of them first.
      means: (F + 1,) float, mean estimate at each size.

    Example:
      >>> from miue_jax.information import inference
      >>> inference.Extrapolation._fields[:3]
      ('value', 'standard_error', 'slope')
    """

    value: jax.Array
    standard_error: jax.Array
    slope: jax.Array
    sizes: jax.Array
    means: jax.Array


def subsample_interval(
    key: jax.Array,
    estimator: Estimator,
    x: ArrayLike,
    y: ArrayLike,
    *,
    num_parts: Sequence[int] = (2, 5, 10),
    num_splits: int = 4,
    level: float = 0.95,
    compiled: bool = True,
) -> SubsampleInterval:
    r"""Interval from the variance of estimates on disjoint parts of the samples.

    The samples are split at random into f parts for each f of ``num_parts``. With
    :math:`s_f^2` the variance of the f estimates and Var proportional to 1/N, every f
    gives :math:`s_f^2 / f` for the variance of the estimate on all samples; the fit
    weights them by degrees of freedom,

    .. math:: \hat V = \frac{\sum_f (f - 1) s_f^2 / f}{\sum_f (f - 1)}, \qquad
              \hat I \pm z \sqrt{\hat V}

    with z the normal quantile. Averaging over several splits removes the randomness of
    the split, not that of the samples. The interval covers the mean of the estimator
    at this N, which is neither a lower nor an upper bound on the mutual information;
    see ``biased``.

    Assumes independent pairs and an estimator that is asymptotically linear.

    Args:
      key: random key for the splits.
      estimator: pure function (x, y) -> (), the same object in repeated calls so that
        it is compiled once; must work on N / max(num_parts) samples.
      x: (N, dx) or (N,) numbers.
      y: (N, dy) or (N,) numbers.
      num_parts: distinct numbers of parts, each from 2 to N / 2.
      num_splits: random splits for each number of parts.
      level: confidence level of the interval, between 0 and 1.
      compiled: whether the estimator is compiled, once for each size of parts. If not,
        it is called with NumPy arrays, one part after the other, on the same parts.

    Returns:
      The interval.

    Raises:
      ValueError: for bad samples, parts, splits or level, or an estimator that does not
        return a scalar, or none that is finite for the samples or a part of them (under
        `jax.jit` the interval is NaN).

    Example:
      >>> import jax
      >>> import numpy as np
      >>> from miue_jax.information import estimators, inference
      >>> x, noise = np.random.default_rng(0).standard_normal((2, 400))
      >>> def estimator(x, y):
      ...     return estimators.gaussian(x, y).value
      >>> found = inference.subsample_interval(
      ...     jax.random.key(0), estimator, x, x + noise, num_parts=(2, 4)
      ... )
      >>> bool(found.lower < found.value < found.upper), found.sizes.tolist()
      (True, [400.0, 200.0, 100.0])

    References:
      Holmes and Nemenman, Estimation of Mutual Information for Real-valued Data with
      Error Bars and Controlled Bias, 2019; Politis et al., Subsampling, 1999.
    """
    if not (isinstance(level, numbers.Real) and 0 < level < 1):
        raise ValueError(f"level is {shown(level)}; it must be between 0 and 1")
    check_flag("compiled", compiled)
    x, y, parts = _check_parts(
        key, estimator, x, y, num_parts, num_splits, compiled=compiled
    )
    covered = jnp.asarray(level, x.dtype)
    if compiled:
        found = _subsample_interval(key, x, y, covered, estimator, parts, num_splits)
    else:
        estimates = _called_on_parts(key, estimator, x, y, parts, num_splits)
        found = _interval_of(estimates, covered, parts, len(x))
    _check_estimates(found)
    return found


def extrapolate(
    key: jax.Array,
    estimator: Estimator,
    x: ArrayLike,
    y: ArrayLike,
    *,
    num_parts: Sequence[int] = (2, 3, 4),
    num_splits: int = 4,
) -> Extrapolation:
    r"""Extrapolates an estimate to infinitely many samples by a line in 1/N.

    Fits the mean estimates on N / f samples against f / N by least squares, including
    all samples (f = 1). Removes a bias of order 1/N, such as that of plug-in estimates;
    a bias that decreases more slowly, as with nearest neighbors in many dimensions or
    at high information, remains in part. Neither a lower nor an upper bound.

    Args:
      key: random key for the splits.
      estimator: as for `subsample_interval`.
      x: (N, dx) or (N,) numbers.
      y: (N, dy) or (N,) numbers.
      num_parts: distinct numbers of parts, each from 2 to N / 2.
      num_splits: random splits for each number of parts, at least 2.

    Returns:
      The extrapolation.

    Raises:
      ValueError: for bad samples, parts or splits, or an estimator that does not return
        a scalar, or none that is finite for the samples or a part of them (under
        `jax.jit` the value is NaN).

    Example:
      >>> import jax
      >>> import numpy as np
      >>> from miue_jax.information import inference
      >>> def biased(x, y):
      ...     return 3 + 20 / len(x) + 0 * x.mean()
      >>> x = np.linspace(0, 1, 60)
      >>> found = inference.extrapolate(jax.random.key(0), biased, x, x)
      >>> round(float(found.value), 3), round(float(found.slope), 1)
      (3.0, 20.0)

    References:
      Strong et al., Entropy and Information in Neural Spike Trains, 1998; Holmes and
      Nemenman 2019 (drift with the sample size).
    """
    check_counts(num_splits=num_splits)
    if num_splits < 2:
        raise ValueError(f"num_splits is {num_splits}; it must be at least 2")
    x, y, parts = _check_parts(key, estimator, x, y, num_parts, num_splits)
    found = _extrapolate(key, x, y, estimator, parts, num_splits)
    _check_estimates(found)
    return found


@functools.partial(jax.jit, static_argnums=(4, 5, 6))
def _subsample_interval(
    key: jax.Array,
    x: jax.Array,
    y: jax.Array,
    level: jax.Array,
    estimator: Estimator,
    parts: tuple[int, ...],
    num_splits: int,
) -> SubsampleInterval:
    estimates = _estimate_on_parts(key, estimator, x, y, parts, num_splits)
    return _interval_of(estimates, level, parts, len(x))


@functools.partial(jax.jit, static_argnums=(2, 3))
def _interval_of(
    estimates: list[jax.Array], level: jax.Array, parts: tuple[int, ...], total: int
) -> SubsampleInterval:
    found = _summarized(estimates, parts, total)
    standard_error = jnp.sqrt(found.variance)
    margin = ndtri((1 + level) / 2) * standard_error
    bias = found.value - jnp.mean(found.intercepts)
    return SubsampleInterval(
        value=found.value,
        standard_error=standard_error,
        lower=found.value - margin,
        upper=found.value + margin,
        bias=bias,
        biased=~(jnp.abs(bias) <= standard_error),  # NaN is no sign of none
        sizes=found.sizes,
        means=found.means,
        standard_errors=jnp.sqrt(found.variances),
    )


@functools.partial(jax.jit, static_argnums=(3, 4, 5))
def _extrapolate(
    key: jax.Array,
    x: jax.Array,
    y: jax.Array,
    estimator: Estimator,
    parts: tuple[int, ...],
    num_splits: int,
) -> Extrapolation:
    estimates = _estimate_on_parts(key, estimator, x, y, parts, num_splits)
    found = _summarized(estimates, parts, len(x))
    # The lines of all splits share the sampling error of the samples, whose variance
    # the parts estimate; the spread over splits is what random parts add.
    spread = jnp.var(found.intercepts, ddof=1) / num_splits
    return Extrapolation(
        value=jnp.mean(found.intercepts),
        standard_error=jnp.sqrt(found.variance + spread),
        slope=found.slope,
        sizes=found.sizes,
        means=found.means,
    )


class _PartEstimates(NamedTuple):
    value: jax.Array  # on all N samples
    variances: jax.Array  # (F,), of the value from each number of parts
    variance: jax.Array  # their mean, weighted by degrees of freedom
    sizes: jax.Array  # (F + 1,), samples behind the estimates, all of them first
    means: jax.Array  # (F + 1,), mean estimate at each size
    intercepts: jax.Array  # (splits,), of the least-squares line in 1 / size
    slope: jax.Array  # of that line, mean over splits


def _estimate_on_parts(
    key: jax.Array,
    estimator: Estimator,
    x: jax.Array,
    y: jax.Array,
    parts: tuple[int, ...],
    num_splits: int,
) -> list[jax.Array]:
    """Estimates on disjoint parts, several random splits for each number of parts.

    Samples beyond equal parts are left out.

    Returns:
      () on all samples; (splits, count) for each number of parts.
    """

    def on_part(indices: jax.Array) -> jax.Array:
        return estimator(x[indices], y[indices])

    orders = _orders(key, len(x), num_splits)
    found = [estimator(x, y)]
    for count in parts:
        estimates = jax.lax.map(on_part, _cut(orders, count))
        found.append(estimates.reshape(num_splits, count))
    return found


def _called_on_parts(
    key: jax.Array,
    estimator: Estimator,
    x: jax.Array,
    y: jax.Array,
    parts: tuple[int, ...],
    num_splits: int,
) -> list[jax.Array]:
    """The same, by calls with NumPy arrays."""
    first, second = np.asarray(x), np.asarray(y)
    orders = np.asarray(_orders(key, len(x), num_splits))
    found = [np.asarray(estimator(first, second))]
    for count in parts:
        estimates = [estimator(first[i], second[i]) for i in _cut(orders, count)]
        found.append(np.reshape(estimates, (num_splits, count)))
    return [jnp.asarray(each, x.dtype) for each in found]


@functools.partial(jax.jit, static_argnums=(1, 2))
def _orders(key: jax.Array, size: int, num_splits: int) -> jax.Array:
    keys = jax.random.split(key, num_splits)
    return jax.vmap(lambda key: jax.random.permutation(key, size))(keys)


def _cut(orders: Any, count: int) -> Any:
    """Indices of each part, (splits * count, size of a part)."""
    size = orders.shape[1] // count
    return orders[:, : count * size].reshape(len(orders) * count, size)


def _summarized(
    estimates: list[jax.Array], parts: tuple[int, ...], total: int
) -> _PartEstimates:
    value, *on_parts = estimates
    means, variances = [jnp.broadcast_to(value, len(on_parts[0]))], []
    for count, each in zip(parts, on_parts, strict=True):
        means.append(jnp.mean(each, axis=1))
        # The variance of an estimate on 1 / count of the samples, over count.
        variances.append(jnp.mean(jnp.var(each, axis=1, ddof=1)) / count)
    freedom = np.asarray(parts) - 1
    weights = jnp.asarray(freedom / freedom.sum(), value.dtype)
    sizes = np.array([total, *(total // count for count in parts)])
    design = np.stack([np.ones(len(sizes)), total / sizes], axis=1)
    intercept, slope = jnp.asarray(np.linalg.pinv(design), value.dtype)
    by_split = jnp.stack(means, axis=1)
    return _PartEstimates(
        value=value,
        variances=jnp.stack(variances),
        variance=weights @ jnp.stack(variances),
        sizes=jnp.asarray(sizes, value.dtype),
        means=jnp.mean(by_split, axis=0),
        intercepts=by_split @ intercept,
        slope=total * jnp.mean(by_split @ slope),
    )


def _check_estimates(found: SubsampleInterval | Extrapolation) -> None:
    """Raises a ValueError unless estimates, of all samples and of parts, are finite."""
    if is_traced(found.means):
        return
    for size, mean in zip(found.sizes, found.means, strict=True):
        part = "the" if size == found.sizes[0] else "parts of"
        check_estimate(mean, f"{part} {int(size)} samples", finite=True)


def _check_parts(
    key: jax.Array,
    estimator: Estimator,
    x: ArrayLike,
    y: ArrayLike,
    num_parts: Sequence[int],
    num_splits: int,
    *,
    compiled: bool = True,
) -> tuple[jax.Array, jax.Array, tuple[int, ...]]:
    check_key(key)
    x, y = check_pair(x, y)
    if not isinstance(num_parts, Iterable) or isinstance(num_parts, str):
        raise ValueError(f"num_parts is {shown(num_parts)}; it must hold whole numbers")
    for count in num_parts:
        check_counts(num_parts=count)
    parts = tuple(sorted(num_parts))
    if not parts or len(set(parts)) < len(parts):
        raise ValueError(f"num_parts is {num_parts}; it must hold different numbers")
    if parts[0] < 2 or parts[-1] > len(x) // 2:
        raise ValueError(
            f"num_parts is {num_parts}; for {len(x)} samples each must be from 2 to "
            f"{len(x) // 2}"
        )
    check_counts(num_splits=num_splits)
    if compiled:
        check_scalar(estimator, x[: len(x) // parts[-1]], y[: len(y) // parts[-1]])
    else:
        check_known(estimator, x, y)
    return x, y, parts
