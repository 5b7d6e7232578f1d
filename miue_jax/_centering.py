"""Known samples in the precision they came in, before JAX rounds them to its own types.

A time in seconds varies by one around 1.7e9, where float32 numbers are 128 apart: what
does not depend on the origin has to be centered first.
"""

from typing import Any

import jax
import numpy as np

# From here on float32 has no longer every integer.
_WHOLE = 2**24


def unrounded(array: Any) -> np.ndarray | None:
    """The values that conversion to JAX would round.

    Args:
      array: numbers, as a caller passed them.

    Returns:
      The values, float64 or wider; None if JAX would keep them as they are or has
      them already, traced or not.
    """
    if isinstance(array, jax.Array):
        return None
    values = np.asarray(array)
    if values.dtype.kind in "iu":
        large = values.size and max(abs(int(values.min())), abs(int(values.max())))
        return values.astype(np.longdouble) if large > _WHOLE else None
    if values.dtype.kind != "f":  # bfloat16 has a kind of its own
        return None
    kept = jax.dtypes.canonicalize_dtype(
        values.dtype if values.dtype.itemsize <= 8 else np.float64
    )
    return values if values.dtype.itemsize > kept.itemsize else None


def center_classes(values: np.ndarray, labels: Any) -> np.ndarray:
    """Subtracts from each sample the mean of its class.

    Args:
      values: (N, D), in the precision that is to be kept.
      labels: (N,) integers, known.

    Returns:
      (N, D) of the same type. Samples that are equal stay equal.
    """
    _, classes = np.unique(np.asarray(labels), return_inverse=True)
    values = values - values.mean(axis=0)  # what a rounded mean leaves is small
    order = np.argsort(classes, kind="stable")
    starts = np.flatnonzero(np.diff(classes[order], prepend=-1))
    counts = np.bincount(classes)
    sums = np.add.reduceat(values[order], starts, axis=0)
    return values - (sums / counts[:, None])[classes]
