"""The empirical Bernstein inequality for means of bounded variables."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from miue_jax.information.checks import is_traced


def empirical_bernstein_radius(
    variance: ArrayLike,
    count: ArrayLike,
    *,
    span: ArrayLike,
    confidence: ArrayLike,
) -> jax.Array:
    r"""How far the expectation may lie to one side of a mean of independent variables.

    .. math:: \sqrt{\frac{2 v \log(2 / \alpha)}{m}}
              + \frac{7 b \log(2 / \alpha)}{3 (m - 1)}

    with v their unbiased sample variance, b the length of an interval that contains all
    of them and alpha one minus the confidence. With at least that confidence the
    expectation is at most the mean plus the radius; the same holds, separately, for the
    mean minus the radius. For every sample size and law.

    Args:
      variance: v >= 0.
      count: m, the number of variables.
      span: b > 0, known beforehand, not read off the sample.
      confidence: in (0, 1).

    Returns:
      The radius, in the unit of the variables; infinite below two variables.

    Raises:
      ValueError: for a variance, span or confidence out of range.

    References:
      Maurer and Pontil, Empirical Bernstein Bounds and Sample Variance Penalization,
      COLT 2009, theorem 4; docs/theory.md, T13.
    """
    variance = jnp.asarray(variance)
    dtype = jnp.promote_types(variance.dtype, jnp.float32)
    variance, count, span, confidence = (
        jnp.asarray(value, dtype) for value in (variance, count, span, confidence)
    )
    _check("variance", variance, ">= 0", variance >= 0)
    _check("span", span, "> 0", span > 0)
    _check("confidence", confidence, "in (0, 1)", (confidence > 0) & (confidence < 1))
    log_term = jnp.log(2 / (1 - confidence))
    several = count > 1
    first = jnp.sqrt(2 * variance * log_term / jnp.where(several, count, 1))
    second = 7 * span * log_term / (3 * jnp.where(several, count - 1, 1))
    return jnp.where(several, first + second, jnp.inf)


def _check(name: str, value: jax.Array, allowed: str, holds: jax.Array) -> None:
    if not is_traced(holds) and not bool(jnp.all(holds)):
        raise ValueError(f"{name} is {value}; it must be {allowed}")
