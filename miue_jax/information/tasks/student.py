"""Parts of a multivariate Student-t vector: uncorrelated, yet dependent."""

import math

import jax
import jax.numpy as jnp

from miue_jax.information.tasks.task import Task


def student(dim_x: int, dim_y: int, *, degrees: int) -> Task:
    r"""Two blocks of a Student-t vector with identity dispersion.

    All coordinates share one scale, so that large values come together although the
    Gaussian part of the information is 0. With
    :math:`f(v) = \log\Gamma(v/2) - \tfrac v2 \psi(v/2)`,

    .. math:: I(x; y) = f(\nu) + f(\nu + m + n) - f(\nu + m) - f(\nu + n)

    for m and n coordinates and nu degrees of freedom.

    Args:
      dim_x: m.
      dim_y: n.
      degrees: nu, an integer; the variance is infinite up to 2, the mean undefined at
        1.

    Returns:
      The task `student-identity-<m>-<n>-<nu>`.

    Raises:
      ValueError: if a number is not a positive integer.

    References:
      Arellano-Valle et al., Shannon Entropy and Mutual Information for Multivariate
      Skew-Elliptical Distributions, 2013; Czyz et al., Beyond Normal, NeurIPS 2023.
    """
    for what, number in (("dim_x", dim_x), ("dim_y", dim_y), ("degrees", degrees)):
        if number < 1 or number != int(number):
            raise ValueError(f"{what} must be a positive integer, given {number}")

    def sample(key: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
        key_normal, key_scale = jax.random.split(key)
        z = jax.random.normal(key_normal, (size, dim_x + dim_y))
        # The mean square of nu normals: compiles far faster than a gamma variate.
        scale = jax.random.normal(key_scale, (size, degrees))
        z /= jnp.sqrt(jnp.mean(scale**2, axis=1, keepdims=True))
        return z[:, :dim_x], z[:, dim_x:]

    def log_density(points: jax.Array) -> jax.Array:
        dim = points.shape[1]
        power = (degrees + dim) / 2
        constant = math.lgamma(power) - math.lgamma(degrees / 2)
        constant -= dim / 2 * math.log(degrees * math.pi)
        return constant - power * jnp.log1p(jnp.sum(points**2, axis=1) / degrees)

    def pointwise(x: jax.Array, y: jax.Array) -> jax.Array:
        both = jnp.concatenate([x, y], axis=1)
        return log_density(both) - log_density(x) - log_density(y)

    information = (
        _entropy_term(degrees)
        + _entropy_term(degrees + dim_x + dim_y)
        - _entropy_term(degrees + dim_x)
        - _entropy_term(degrees + dim_y)
    )
    return Task(
        name=f"student-identity-{dim_x}-{dim_y}-{degrees}",
        sample=sample,
        information=information,
        standard_error=0.0,
        dim_x=dim_x,
        dim_y=dim_y,
        pointwise=pointwise,
    )


def _entropy_term(degrees: int) -> float:
    half = degrees / 2
    return math.lgamma(half) - half * _digamma(half)


def _digamma(value: float) -> float:
    """For positive arguments, to double precision."""
    shift = 0.0
    while value < 12:  # the series below is exact to 1e-16 from here
        shift -= 1 / value
        value += 1
    square = 1 / value**2
    series = 1 / 12 - square * (1 / 120 - square * (1 / 252 - square * (1 / 240)))
    return shift + math.log(value) - 1 / (2 * value) - square * series
