"""Measured means that can be added: over steps, over calls, over parts of data."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from miue_jax.train import parallel


class Mean(NamedTuple):
    """A mean kept as a total and a weight, so that means of parts can be added.

    Attributes:
      total: () float32.
      weight: () float32; 0 says that nothing was measured.
    """

    total: jax.Array
    weight: jax.Array


Metrics = dict[str, Mean]


def mean_of(value: jax.Array, weight: float | jax.Array = 1.0) -> Mean:
    """A measured value as a mean of the given weight.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from miue_jax.train import metrics
      >>> both = jax.tree.map(
      ...     jnp.add, metrics.mean_of(jnp.array(1.0)), metrics.mean_of(jnp.array(3.0))
      ... )
      >>> metrics.values({"loss": both})
      {'loss': 2.0}
    """
    weight = jnp.asarray(weight, jnp.float32)
    return Mean(value.astype(jnp.float32) * weight, weight)


def values(metrics: Any) -> dict[str, float]:
    """The means that were measured, as plain numbers.

    Args:
      metrics: a dictionary of `Mean`, or several added together.

    Returns:
      A float for every name whose weight is positive.
    """
    host: Metrics = parallel.to_host(metrics)
    return {
        name: float(mean.total) / float(mean.weight)
        for name, mean in host.items()
        if mean.weight > 0
    }
