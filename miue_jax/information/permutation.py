"""Permutation tests of independence, over all samples or within classes."""

import functools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from miue_jax._arguments import check_callable
from miue_jax._checks import check_flag
from miue_jax.information._core import (
    check_counts,
    check_key,
    check_labels,
    check_pair,
    is_traced,
)

# Arrays are of JAX where it is compiled, and of NumPy where it is not.
Estimator = Callable[[Any, Any], Any]


class PermutationTest(NamedTuple):
    """The result of a permutation test.

    Attributes:
      value: () float, the estimate on the original samples.
      p_value: () float in [1 / (1 + B), 1]; NaN where the value is.
      null: (B,) float, estimates on permuted samples.

    Example:
      >>> from miue_jax.information import inference
      >>> inference.PermutationTest(value=0.4, p_value=0.005, null=(0.1, 0.0)).p_value
      0.005
    """

    value: jax.Array
    p_value: jax.Array
    null: jax.Array


def permutation_test(
    key: jax.Array,
    estimator: Estimator,
    x: ArrayLike,
    y: ArrayLike,
    *,
    num_permutations: int = 199,
    labels: ArrayLike | None = None,
    batch_size: int | None = None,
    compiled: bool = True,
) -> PermutationTest:
    r"""Tests independence by estimates on permuted samples.

    .. math:: p = \frac{1 + \#\{b : \hat I_b \ge \hat I\}}{1 + B}

    Without labels, all rows of y are permuted: the null hypothesis is that x and y are
    independent. On features that cluster by class it is rejected because of the
    information about the class alone. With labels, rows of y are permuted within
    classes: the null is that x and y are independent given the label, so that only what
    they share beyond it is found. Under the null P(p <= a) <= a for every estimator,
    sample size and number of permutations: neither the estimator's bias nor its
    distribution matters. Estimates on permuted samples that are NaN count against
    rejection, as exceeding the observed one, and a warning says how many there were. If
    the observed estimate is NaN nothing has been tested: that is refused.

    Assumes independent pairs. The p-value does not measure the amount of information
    and does not bound it.

    Args:
      key: random key for the permutations.
      estimator: pure function (x, y) -> (), the same object in repeated calls so that
        it is compiled once; with a fixed key if it is random.
      x: (N, dx) or (N,) numbers.
      y: (N, dy) or (N,) numbers.
      num_permutations: B; the smallest possible p-value is 1 / (1 + B).
      labels: (N,) integers from 0, at least two samples per class; None for the global
        test. Traced negative labels give NaN.
      batch_size: permutations computed at once, for estimators that leave a device
        idle; None for one after the other.
      compiled: whether the estimator is compiled. If not, it is called with NumPy
        arrays, once for each permutation, with the same permutations.

    Returns:
      The test. Under `jax.jit`, where nothing can be refused, an estimate that is NaN
      has a p-value of NaN.

    Raises:
      ValueError: for bad samples, labels that do not match or with a class of one
        sample, numbers that are not positive, or an estimator that does not return a
        scalar or whose estimate on the samples is NaN.

    Warns:
      UserWarning: if estimates on permuted samples are NaN.

    Example:
      >>> import jax
      >>> import numpy as np
      >>> from miue_jax.information import estimators, inference
      >>> x, noise = np.random.default_rng(0).standard_normal((2, 100))
      >>> def estimator(x, y):
      ...     return estimators.gaussian(x, y).value
      >>> test = inference.permutation_test(
      ...     jax.random.key(0), estimator, x, x + noise, num_permutations=19
      ... )
      >>> round(float(test.p_value), 3)  # the smallest possible: 1 / 20
      0.05

    References:
      Phipson and Smyth, Permutation P-values Should Never Be Zero, 2010; Runge,
      Conditional Independence Testing Based on a Nearest-Neighbor Estimator, 2018
      (permutation that keeps what is conditioned on).
    """
    check_key(key)
    x, y = check_pair(x, y)
    check_counts(num_permutations=num_permutations)
    if batch_size is not None:
        check_counts(batch_size=batch_size)
    if labels is None:
        classes = jnp.zeros(len(x), jnp.int32)
    else:
        classes = check_labels(labels, len(x))
        _check_members(classes)
    check_flag("compiled", compiled)
    if compiled:
        check_scalar(estimator, x, y)
        test = _permutation_test(
            key, x, y, classes, estimator, num_permutations, batch_size
        )
    else:
        check_known(estimator, x, y, classes)
        first, second = np.asarray(x), np.asarray(y)
        orders = np.asarray(_orders(key, classes, num_permutations))
        null = [estimator(first, second[order]) for order in orders]
        estimates = (
            np.asarray(each, x.dtype) for each in (estimator(first, second), null)
        )
        test = _tested(*map(jnp.asarray, estimates))
    if not is_traced(test.value):
        check_estimate(test.value, f"the {len(x)} samples", finite=False)
        lost = int(jnp.sum(jnp.isnan(test.null)))
        if lost:
            warnings.warn(
                f"{lost} of {num_permutations} estimates on permuted samples are NaN; "
                "they count as exceeding the observed one",
                stacklevel=2,
            )
    return test


def check_scalar(estimator: Estimator, x: jax.Array, y: jax.Array) -> None:
    """Raises a ValueError for an estimator that returns anything but a float scalar."""
    check_callable("estimator", estimator)
    result = jax.eval_shape(estimator, x, y)
    shape = getattr(result, "shape", None)
    if shape != () or not jnp.issubdtype(result.dtype, jnp.floating):
        got = type(result).__name__ if shape is None else f"{result.dtype}{list(shape)}"
        raise ValueError(
            f"the estimator returns {got}; it must return a floating-point scalar (of "
            "an Estimate, its value)"
        )


def check_known(estimator: Estimator, *samples: jax.Array) -> None:
    """Raises a ValueError for what cannot be called without being compiled."""
    check_callable("estimator", estimator)
    if is_traced(*samples):
        raise ValueError(
            "compiled is False, which needs samples that are known (not traced)"
        )


def check_estimate(value: jax.Array, what: str, *, finite: bool) -> None:
    """Raises a ValueError for a known estimate that is NaN, or not finite."""
    if bool(jnp.isnan(value)) or (finite and not bool(jnp.isfinite(value))):
        raise ValueError(
            f"the estimate on {what} is {float(value)}, from which nothing follows; "
            "the estimator may say why if it is called outside of `jax.jit`"
        )


@functools.partial(jax.jit, static_argnums=(4, 5, 6))
def _permutation_test(
    key: jax.Array,
    x: jax.Array,
    y: jax.Array,
    classes: jax.Array,
    estimator: Estimator,
    num_permutations: int,
    batch_size: int | None,
) -> PermutationTest:
    value = jnp.where(jnp.all(classes >= 0), estimator(x, y), jnp.nan)
    keys = jax.random.split(key, num_permutations)
    null = jax.lax.map(
        lambda key: estimator(x, y[_order(key, classes)]), keys, batch_size=batch_size
    )
    return _tested(value, null)


def _order(key: jax.Array, classes: jax.Array) -> jax.Array:
    """A permutation within classes."""
    by_class = jnp.argsort(classes)
    # Both orders list the classes one after the other; the second shuffles each.
    shuffled = jax.random.permutation(key, len(classes))
    shuffled = shuffled[jnp.argsort(classes[shuffled])]
    return jnp.zeros_like(by_class).at[by_class].set(shuffled)


@functools.partial(jax.jit, static_argnums=2)
def _orders(key: jax.Array, classes: jax.Array, count: int) -> jax.Array:
    return jax.lax.map(lambda key: _order(key, classes), jax.random.split(key, count))


@jax.jit
def _tested(value: jax.Array, null: jax.Array) -> PermutationTest:
    exceed = jnp.sum(~(null < value))  # not `>=`: NaN exceeds
    p_value = (1 + exceed) / jnp.asarray(1 + len(null), null.dtype)
    return PermutationTest(value, jnp.where(jnp.isnan(value), value, p_value), null)


def _check_members(classes: jax.Array) -> None:
    if is_traced(classes):
        return
    present, counts = np.unique(np.asarray(classes), return_counts=True)
    if (counts < 2).any():
        lone = int(present[np.argmax(counts < 2)])
        raise ValueError(
            f"class {lone} has one sample; permuting within classes needs at least 2 "
            "in each"
        )
