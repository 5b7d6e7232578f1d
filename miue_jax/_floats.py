"""Floating-point numbers to the last bit: powers of two and rounding toward zero."""

from types import ModuleType
from typing import Any

import jax.numpy as jnp
import numpy as np


def is_narrow(dtype: Any) -> bool:
    """Whether a type has fewer bits than float32, such as bfloat16."""
    return jnp.finfo(dtype).bits < 32


def power_of_two(values: Any) -> Any:
    """Powers of two near some magnitudes: within a factor of 4, 1 for zero.

    Dividing by a power of two changes no digit, so that sums of squares can be taken at
    a scale where they neither vanish nor overflow, without a trace in the results.

    Args:
      values: an array >= 0 of float32 or wider.

    Returns:
      An array of the same shape and type; 1 where a value is not finite.
    """
    regular = (values > 0) & (values < jnp.inf)
    exponent = jnp.frexp(jnp.where(regular, values, 1))[1] - 1
    # Neither the power nor its reciprocal, by which a compiler may multiply, must be
    # subnormal: those are flushed to zero.
    lowest = jnp.finfo(values.dtype).minexp
    exponent = jnp.clip(exponent, lowest, -lowest)
    return jnp.ldexp(jnp.ones_like(values), exponent)


def toward_zero(values: Any, dtype: Any, *, xp: ModuleType = jnp) -> Any:
    """Casts to a narrower type without making any magnitude larger.

    A cast rounds to the nearest number of the type, and so may leave an interval whose
    ends the type does not have.

    Args:
      values: an array of float32 or float64.
      dtype: the narrower type.
      xp: `numpy` or `jax.numpy`, whichever the values belong to.

    Returns:
      The array in that type. NaN stays NaN, infinity becomes the largest number.
    """
    info, wide = jnp.finfo(dtype), jnp.finfo(values.dtype)
    # `frexp` has mantissas in [1/2, 1); a subnormal quantum would be flushed to zero.
    lowest = max(info.minexp - info.nmant, wide.minexp)
    limit = np.asarray(info.max, values.dtype)
    values = xp.clip(values, -limit, limit)
    exponent = xp.maximum(xp.frexp(values)[1] - info.nmant - 1, lowest)
    quantum = xp.ldexp(xp.ones_like(values), exponent)
    cut = xp.trunc(values / quantum) * quantum
    return cut.astype(dtype)
