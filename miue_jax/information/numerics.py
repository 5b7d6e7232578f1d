"""Numerics shared by bounds and estimators: products, centering and digamma tables.

Features of a collapsed class differ in their last digits, where products of the raw
numbers are noise. Every estimator therefore subtracts the mean first, in float64 on the
host if values are known, and only then rounds.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from miue_jax.information.checks import is_traced


def matmul(left: ArrayLike, right: ArrayLike) -> jax.Array:
    """Matrix product in full precision on every backend."""
    return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)


def as_matrix(samples: ArrayLike) -> jax.Array:
    """Samples as an (N, D) array; (N,) becomes (N, 1)."""
    samples = jnp.asarray(samples)
    return samples[:, None] if samples.ndim == 1 else samples


def center(
    samples: ArrayLike,
    dtype: jnp.dtype,
    *,
    labels: ArrayLike | None = None,
    num_classes: int = 1,
    standardize: bool = False,
) -> jax.Array:
    """Subtracts the mean, of all samples or of each class, and optionally scales.

    Outside `jax.jit` everything happens in float64, before the samples are rounded to
    `dtype`, whether or not x64 is enabled; inside, in `dtype`.

    Args:
      samples: (N, D) or (N,), as the caller passed them, already checked.
      dtype: of the result.
      labels: (N,) integers from 0; None for one class.
      num_classes: number of classes.
      standardize: divide each column by its standard deviation after centering, within
        classes if there are labels. Constant columns stay 0.

    Returns:
      (N, D) of `dtype`.
    """
    traced = is_traced(samples) or (labels is not None and is_traced(labels))
    xp = jnp if traced else np
    values = xp.asarray(samples, dtype if traced else np.float64)
    values = values.reshape(len(values), -1)
    # A rounded mean would leave a constant column at a constant other than 0.
    varies = xp.max(values, axis=0) > xp.min(values, axis=0)
    if labels is None:
        values = values - xp.mean(values, axis=0)
    else:
        labels = xp.asarray(labels)
        members = (labels[:, None] == xp.arange(num_classes)).astype(values.dtype)
        counts = xp.maximum(xp.sum(members, axis=0), 1)
        shift = xp.mean(values, axis=0)
        values = values - shift
        sums = matmul(members.T, values) if traced else members.T @ values
        values = values - (sums / counts[:, None])[labels]
    values = xp.where(varies, values, 0)
    if standardize:
        largest = xp.max(xp.abs(values), axis=0)
        values = values / xp.where(largest > 0, largest, 1)
        deviation = xp.sqrt(xp.mean(xp.square(values), axis=0))
        values = values / xp.where(deviation > 0, deviation, 1)
    return jnp.asarray(values, dtype)


def half_digamma(limit: int) -> np.ndarray:
    r"""Tabulates :math:`\psi(m / 2)` for m from 0 (NaN, a pole) to `limit`, in float64.

    By :math:`\psi(z + 1) = \psi(z) + 1/z` from :math:`\psi(1/2)` and :math:`\psi(1)`.
    Estimators need digamma at counts only: an exact table costs one gather on the
    device, whatever the type of the estimate.
    """
    table = np.full(max(limit, 2) + 1, np.nan)
    for first, value in ((1, -np.euler_gamma - 2 * np.log(2)), (2, -np.euler_gamma)):
        steps = 2 / np.arange(first, len(table) - 2, 2)
        table[first::2] = value + np.concatenate([[0], np.cumsum(steps)])
    return table[: limit + 1]


def whole_digamma(limit: int) -> np.ndarray:
    r"""Tabulates :math:`\psi(n)` for n from 0 (NaN, a pole) to `limit`, in float64."""
    return half_digamma(2 * limit)[::2]
