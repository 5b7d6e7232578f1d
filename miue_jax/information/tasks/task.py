"""Tasks of known mutual information, and injective maps that leave it unchanged."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.stats import norm

from miue_jax._arguments import check_callable
from miue_jax.information._core import check_counts, check_key

Draw = Callable[[jax.Array, int], tuple[jax.Array, ...]]
Pointwise = Callable[[jax.Array, jax.Array], jax.Array]
Map = Callable[[jax.Array], jax.Array]


class Task(NamedTuple):
    """Samples together with the mutual information of their law.

    Attributes:
      name: name of the task.
      sample: pure, ``sample(key, size) -> (x, y)`` or ``(x, y, labels)`` with x
        (size, dim_x) and y (size, dim_y) of JAX's default floating-point type and
        labels (size,) int32. The size is static: ``jax.jit(sample, static_argnums=1)``.
      information: I(x; y) in nats, in double precision.
      standard_error: of the information, in nats: 0 for closed forms and quadrature,
        positive if it is the mean of a function of known densities over samples.
      dim_x: columns of x.
      dim_y: columns of y.
      num_classes: number of labels; 0 if samples have none.
      pointwise: ``pointwise(x, y) -> (size,)``, the exact
        log p(x, y) / (p(x) p(y)) in nats; None if it has no simple form.

    Example:
      >>> import jax
      >>> from miue_jax.information import tasks
      >>> task = tasks.create("1v1-normal-0.75")
      >>> x, y = task.sample(jax.random.key(0), 100)
      >>> x.shape, round(task.information, 4)
      ((100, 1), 0.4133)
    """

    name: str
    sample: Draw
    information: float
    standard_error: float
    dim_x: int
    dim_y: int
    num_classes: int = 0
    pointwise: Pointwise | None = None


def mean_pointwise(
    key: jax.Array, sample: Draw, pointwise: Pointwise, *, size: int
) -> tuple[float, float]:
    """Mutual information as the mean of its exact pointwise values over samples.

    Computed in float64 whether or not x64 is enabled.

    Args:
      key: random key for the samples.
      sample: as in `Task`.
      pointwise: as in `Task`.
      size: number of samples.

    Returns:
      The mean and its standard error, in nats; the latter NaN for one sample.

    Raises:
      ValueError: for a key, a function or a number of samples that is none.

    Example:
      >>> import jax
      >>> from miue_jax.information import tasks
      >>> task = tasks.bivariate(0.75)
      >>> mean, error = tasks.mean_pointwise(
      ...     jax.random.key(0), task.sample, task.pointwise, size=1000
      ... )
      >>> abs(mean - task.information) < 5 * error
      True

    References:
      Czyz et al., On the Properties and Estimation of Pointwise Mutual Information
      Profiles, 2023.
    """
    check_key(key)
    check_callable("sample", sample)
    check_callable("pointwise", pointwise)
    check_counts(size=size)

    def values(key: jax.Array) -> jax.Array:
        x, y = sample(key, size)[:2]
        return pointwise(x, y)

    found = double_precision(values, key)
    return float(found.mean()), float(found.std(ddof=1) / np.sqrt(size))


def double_precision(
    function: Callable[..., Any], *arguments: Any, **named: Any
) -> Any:
    """Runs a function compiled and in float64, whether or not x64 is enabled.

    Arguments must be keys, numbers or float64 NumPy arrays, so that nothing has been
    rounded before. Returns NumPy arrays in the structure that the function returns.
    """
    with jax.enable_x64(True):
        return jax.device_get(jax.jit(function)(*arguments, **named))


def transform(
    name: str, task: Task, *, x: Map, y: Map, dim_x: int | None = None
) -> Task:
    """Maps either side of a task, which leaves its information unchanged.

    Args:
      name: name of the new task.
      task: the task to map.
      x: an injective map of (N, task.dim_x), row by row, to (N, dim_x).
      y: an injective map of (N, task.dim_y) that keeps the number of columns.
      dim_x: columns of the mapped x; None for as many as before.

    Returns:
      The new task, without pointwise values, which would need the inverse maps.

    Example:
      >>> import jax.numpy as jnp
      >>> from miue_jax.information import tasks
      >>> normal = tasks.bivariate(0.75)
      >>> task = tasks.transform("heavy", normal, x=jnp.sinh, y=lambda y: y**3)
      >>> task.information == normal.information
      True

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
    """Returns the samples unchanged."""
    return samples


def normal_cdf(samples: jax.Array) -> jax.Array:
    """Maps standard normal coordinates to uniform ones on [0, 1]."""
    return norm.cdf(samples)


def asinh(samples: jax.Array) -> jax.Array:
    """Shortens heavy tails: the inverse hyperbolic sine of every coordinate."""
    return jnp.arcsinh(samples)


def half_cube(samples: jax.Array) -> jax.Array:
    """Lengthens tails: sign(x) abs(x)^(3/2) of every coordinate."""
    return samples * jnp.sqrt(jnp.abs(samples))


def wiggly_x(samples: jax.Array) -> jax.Array:
    """Increasing map of every coordinate with slopes between 0.2 and 1.8."""
    waves = 0.4 * jnp.sin(samples) + 0.2 * jnp.sin(1.7 * samples + 1)
    return samples + waves + 0.03 * jnp.sin(3.3 * samples - 2.5)


def wiggly_y(samples: jax.Array) -> jax.Array:
    """Another increasing map of every coordinate, with different waves."""
    waves = 0.17 * jnp.sin(1.3 * samples + 3.5) - 0.4 * jnp.sin(0.4 * samples)
    return samples + waves + 0.02 * jnp.sin(4.3 * samples - 2.5)


def bimodal(weights: tuple[float, float], means: tuple[float, float]) -> Map:
    """Increasing map of standard normal coordinates to mixtures of two unit normals.

    Solves F(x) = Phi(z) for the distribution function F of the mixture by bisection, in
    the lower tail for z < 0 and in the upper one for z > 0, so that float32 resolves
    both. The weights of the two normals sum to 1.
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

        # Each component alone would shift z by its mean: the mixture lies in between.
        ends = samples + min(means), samples + max(means)
        low, high = lax.fori_loop(0, steps, halve, ends)
        return (low + high) / 2

    return apply


def swiss_roll(samples: jax.Array) -> jax.Array:
    """Rolls one coordinate on [0, 1] up into a plane: (N, 1) to (N, 2)."""
    angle = 1.5 * jnp.pi * (1 + 2 * samples)
    rolled = jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=1)
    return angle * rolled / 21


def spiral(first: int, second: int, *, speed: float) -> Map:
    """Rotates the plane of two coordinates by speed times the sample's squared norm.

    The map keeps norms and volumes and is inverted by rotating back.
    """

    def apply(samples: jax.Array) -> jax.Array:
        angle = speed * jnp.sum(samples**2, axis=1)
        a, b = samples[:, first], samples[:, second]
        turned_a = jnp.cos(angle) * a + jnp.sin(angle) * b
        turned_b = jnp.cos(angle) * b - jnp.sin(angle) * a
        return samples.at[:, first].set(turned_a).at[:, second].set(turned_b)

    return apply
