"""Injective maps of either side, which leave mutual information as it is."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.stats import norm

from miue_jax.information.tasks.task import Task

_Map = Callable[[jax.Array], jax.Array]


def transform(
    name: str, task: Task, *, x: _Map, y: _Map, dim_x: int | None = None
) -> Task:
    """The task with either side mapped; its information is unchanged.

    Args:
      name: of the new task.
      task: of samples to be mapped.
      x: an injective map of (N, task.dim_x), row by row, to (N, dim_x).
      y: an injective map of (N, task.dim_y) that keeps the number of columns.
      dim_x: columns of the mapped x; None for as many as before.

    Returns:
      The new task, without pointwise values, which would need the inverse maps.

    References:
      Kraskov et al., Estimating Mutual Information, 2004, appendix: invariance under
      homeomorphisms of either side.
    """

    def sample(key: jax.Array, size: int) -> tuple[jax.Array, ...]:
        first, second, *labels = task.sample(key, size)
        return x(first), y(second), *labels

    return task._replace(
        name=name,
        sample=sample,
        dim_x=task.dim_x if dim_x is None else dim_x,
        pointwise=None,
    )


def identity(samples: jax.Array) -> jax.Array:
    """Leaves samples as they are."""
    return samples


def normal_cdf(samples: jax.Array) -> jax.Array:
    """Standard normal coordinates become uniform on [0, 1]."""
    return norm.cdf(samples)


def asinh(samples: jax.Array) -> jax.Array:
    """Shortens heavy tails: the inverse hyperbolic sine of every coordinate."""
    return jnp.arcsinh(samples)


def half_cube(samples: jax.Array) -> jax.Array:
    """Lengthens tails: sign(x) |x|^(3/2) of every coordinate."""
    return samples * jnp.sqrt(jnp.abs(samples))


def wiggly_x(samples: jax.Array) -> jax.Array:
    """An increasing map of every coordinate, its slope between 0.2 and 1.8."""
    waves = 0.4 * jnp.sin(samples) + 0.2 * jnp.sin(1.7 * samples + 1)
    return samples + waves + 0.03 * jnp.sin(3.3 * samples - 2.5)


def wiggly_y(samples: jax.Array) -> jax.Array:
    """Another increasing map of every coordinate, with other waves."""
    waves = 0.17 * jnp.sin(1.3 * samples + 3.5) - 0.4 * jnp.sin(0.4 * samples)
    return samples + waves + 0.02 * jnp.sin(4.3 * samples - 2.5)


def bimodal(weights: tuple[float, float], means: tuple[float, float]) -> _Map:
    """Turns standard normal coordinates into mixtures of two unit normals.

    Solves F(x) = Phi(z) for the distribution function F of the mixture by bisection, in
    the lower tail for z < 0 and in the upper one for z > 0, so that float32 keeps both.

    Args:
      weights: of the two normals, summing to 1.
      means: of the two normals.

    Returns:
      The increasing map.
    """
    steps = 60  # halve the distance of the means down to the resolution of float64

    def mass(points: jax.Array, sign: int) -> jax.Array:
        parts = zip(weights, means, strict=True)
        return sum(
            (w * norm.cdf(sign * (points - m)) for w, m in parts),
            start=jnp.zeros_like(points),
        )

    def apply(samples: jax.Array) -> jax.Array:
        lower, upper = norm.cdf(samples), norm.cdf(-samples)

        def halve(_: int, ends: tuple[jax.Array, jax.Array]) -> tuple:
            low, high = ends
            middle = (low + high) / 2
            too_low = jnp.where(
                samples < 0, mass(middle, 1) < lower, mass(middle, -1) > upper
            )
            return jnp.where(too_low, middle, low), jnp.where(too_low, high, middle)

        # Each component alone would move z by its mean: the mixture lies in between.
        ends = samples + min(means), samples + max(means)
        low, high = lax.fori_loop(0, steps, halve, ends)
        return (low + high) / 2

    return apply


def swiss_roll(samples: jax.Array) -> jax.Array:
    """Rolls one coordinate on [0, 1] up into a plane: (N, 1) to (N, 2)."""
    angle = 1.5 * jnp.pi * (1 + 2 * samples)
    rolled = jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=1)
    return angle * rolled / 21


def spiral(first: int, second: int, *, speed: float) -> _Map:
    """Turns a plane by an angle that grows with the squared norm of the sample.

    Args:
      first: a coordinate of the plane.
      second: the other one.
      speed: radians per unit of squared norm.

    Returns:
      The map; it keeps norms and volumes and is undone by turning back.
    """

    def apply(samples: jax.Array) -> jax.Array:
        angle = speed * jnp.sum(samples**2, axis=1)
        a, b = samples[:, first], samples[:, second]
        turned_a = jnp.cos(angle) * a + jnp.sin(angle) * b
        turned_b = jnp.cos(angle) * b - jnp.sin(angle) * a
        return samples.at[:, first].set(turned_a).at[:, second].set(turned_b)

    return apply
