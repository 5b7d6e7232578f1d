"""A uniform variable seen through additive uniform noise."""

import math

import jax
import jax.numpy as jnp

from miue_jax.information.tasks.task import Task


def additive(epsilon: float) -> Task:
    r"""X uniform on [0, 1], y = x + noise uniform on [-eps, eps].

    .. math:: I(x; y) = \epsilon - \log 2\epsilon \ (\epsilon \le \tfrac12),
              \quad \frac{1}{4\epsilon} \ (\epsilon > \tfrac12)

    Args:
      epsilon: half width of the noise, > 0.

    Returns:
      The task `1v1-additive-<epsilon>`.

    Raises:
      ValueError: if epsilon is not positive.

    References:
      Czyz et al., Beyond Normal, NeurIPS 2023, the additive-noise task.
    """
    if not epsilon > 0:
        raise ValueError(f"epsilon must be > 0, given {epsilon}")

    def sample(key: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
        key_x, key_noise = jax.random.split(key)
        x = jax.random.uniform(key_x, (size, 1))
        noise = jax.random.uniform(
            key_noise, (size, 1), minval=-epsilon, maxval=epsilon
        )
        return x, x + noise

    def pointwise(x: jax.Array, y: jax.Array) -> jax.Array:
        # p(y | x) = 1 / (2 eps); p(y) is that times the x that can have led to y.
        low, high = jnp.maximum(y - epsilon, 0), jnp.minimum(y + epsilon, 1)
        del x
        return -jnp.log(high - low)[:, 0]

    small = epsilon <= 0.5
    information = epsilon - math.log(2 * epsilon) if small else 1 / (4 * epsilon)
    return Task(
        name=f"1v1-additive-{epsilon}",
        sample=sample,
        information=information,
        standard_error=0.0,
        dim_x=1,
        dim_y=1,
        pointwise=pointwise,
    )
