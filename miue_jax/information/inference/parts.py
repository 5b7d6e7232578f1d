"""Estimates on disjoint random parts of the samples."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from miue_jax.information.checks import check_pair
from miue_jax.information.inference.scalar import check_scalar

Estimator = Callable[[jax.Array, jax.Array], jax.Array]


class PartEstimates(NamedTuple):
    """Estimates on all samples and on parts of them.

    Attributes:
      value: () float, the estimate on all N samples.
      variances: (F,) float, variance of the value from each number of parts.
      variance: () float, their mean, weighted by degrees of freedom.
      sizes: (F + 1,) float, samples behind the estimates, all of them first.
      means: (F + 1,) float, mean estimate at each size.
      intercepts: (splits,) float, of the least-squares line of the means in 1 / size.
      slope: () float, of that line, mean over splits.
    """

    value: jax.Array
    variances: jax.Array
    variance: jax.Array
    sizes: jax.Array
    means: jax.Array
    intercepts: jax.Array
    slope: jax.Array


def check_parts(
    estimator: Estimator,
    x: ArrayLike,
    y: ArrayLike,
    num_parts: Sequence[int],
    num_splits: int,
) -> tuple[jax.Array, jax.Array, tuple[int, ...]]:
    """Checks what `estimate_on_parts` needs.

    Args:
      estimator: (x, y) -> ().
      x: (N, dx) or (N,) numbers.
      y: (N, dy) or (N,) numbers.
      num_parts: numbers of parts.
      num_splits: random splits for each number of parts.

    Returns:
      The samples as (N, dx) and (N, dy), and the numbers of parts in order.

    Raises:
      ValueError: for bad samples, parts or splits, or an estimator that does not return
        a scalar.
    """
    x, y = check_pair(x, y)
    parts = tuple(sorted(num_parts))
    if not parts or len(set(parts)) < len(parts):
        raise ValueError(f"num_parts is {num_parts}; it must hold different numbers")
    if parts[0] < 2 or parts[-1] > len(x) // 2:
        raise ValueError(
            f"num_parts is {num_parts}; for {len(x)} samples each must be from 2 to "
            f"{len(x) // 2}"
        )
    if num_splits < 1:
        raise ValueError(f"num_splits is {num_splits}; it must be at least 1")
    check_scalar(estimator, x[: len(x) // parts[-1]], y[: len(y) // parts[-1]])
    return x, y, parts


def estimate_on_parts(
    key: jax.Array,
    estimator: Estimator,
    x: jax.Array,
    y: jax.Array,
    *,
    parts: tuple[int, ...],
    num_splits: int,
) -> PartEstimates:
    """Estimates on disjoint parts, several random splits for each number of parts.

    Args:
      key: random key of the splits.
      estimator: (x, y) -> ().
      x: (N, dx) float.
      y: (N, dy) float.
      parts: F numbers of parts; samples beyond equal parts are left out.
      num_splits: random splits.

    Returns:
      The estimates, summarized.
    """

    def on_part(indices: jax.Array) -> jax.Array:
        return estimator(x[indices], y[indices])

    value = estimator(x, y)
    keys = jax.random.split(key, num_splits)
    orders = jax.vmap(lambda key: jax.random.permutation(key, len(x)))(keys)
    means, variances = [jnp.broadcast_to(value, num_splits)], []
    for count in parts:
        size = len(x) // count
        used = orders[:, : count * size].reshape(num_splits * count, size)
        estimates = jax.lax.map(on_part, used).reshape(num_splits, count)
        means.append(jnp.mean(estimates, axis=1))
        # The variance of an estimate on 1 / count of the samples, over count.
        variances.append(jnp.mean(jnp.var(estimates, axis=1, ddof=1)) / count)
    freedom = np.asarray(parts) - 1
    weights = jnp.asarray(freedom / freedom.sum(), value.dtype)
    sizes = np.array([len(x), *(len(x) // count for count in parts)])
    design = np.stack([np.ones(len(sizes)), len(x) / sizes], axis=1)
    intercept, slope = jnp.asarray(np.linalg.pinv(design), value.dtype)
    by_split = jnp.stack(means, axis=1)
    return PartEstimates(
        value=value,
        variances=jnp.stack(variances),
        variance=weights @ jnp.stack(variances),
        sizes=jnp.asarray(sizes, value.dtype),
        means=jnp.mean(by_split, axis=0),
        intercepts=by_split @ intercept,
        slope=len(x) * jnp.mean(by_split @ slope),
    )
