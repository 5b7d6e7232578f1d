"""Centering that keeps what float32 would lose: collapsed features far from the origin.

Features of a collapsed class differ in their last digits. Distances and covariances
found by products of the raw numbers are noise there, so every estimator takes the mean
out first, in float64 on the host where values are known, and only then rounds.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from miue_jax.information.checks import is_traced


def center(
    samples: ArrayLike,
    dtype: jnp.dtype,
    *,
    labels: ArrayLike | None = None,
    num_classes: int = 1,
    standardize: bool = False,
) -> jax.Array:
    """Subtracts the mean, of all samples or of each class, and optionally scales.

    Outside of `jax.jit` all of it happens in float64, before the samples are rounded to
    ``dtype``, whether or not x64 is enabled; inside, in ``dtype``.

    Args:
      samples: (N, D) or (N,), as the caller gave them, already checked.
      dtype: of the result.
      labels: (N,) integers from 0; None for one class.
      num_classes: number of classes.
      standardize: divide each column by its standard deviation after centering, within
        classes where there are labels. Constant columns stay 0.

    Returns:
      (N, D) of ``dtype``.
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
        means = _matmul(members.T, values) / counts[:, None]
        values = values - means[labels]
    values = xp.where(varies, values, 0)
    if standardize:
        largest = xp.max(xp.abs(values), axis=0)
        values = values / xp.where(largest > 0, largest, 1)
        deviation = xp.sqrt(xp.mean(xp.square(values), axis=0))
        values = values / xp.where(deviation > 0, deviation, 1)
    return jnp.asarray(values, dtype)


def _matmul(left, right):
    if isinstance(left, np.ndarray):
        return left @ right
    return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)
