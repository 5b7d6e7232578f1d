"""Metrics as means that can be added: over steps, over calls, over parts of data."""

import statistics
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from miue_jax.train import parallel


class Mean(NamedTuple):
    """A mean kept as a total and a weight, so that means of parts can be added.

    Attributes:
      total: () float32, the weighted sum.
      weight: () float32; 0 if nothing was measured.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from miue_jax.train.metrics import Mean, values
      >>> one, three = Mean(jnp.array(1.0), 1.0), Mean(jnp.array(9.0), 3.0)
      >>> values({"loss": jax.tree.map(jnp.add, one, three)})
      {'loss': 2.5}
    """

    total: jax.Array
    weight: jax.Array


Metrics = dict[str, Mean]


def mean_of(value: jax.Array, weight: float | jax.Array = 1.0) -> Mean:
    """Returns a measured value as a `Mean`.

    Args:
      value: () float, the value.
      weight: its weight.

    Returns:
      The mean.

    Example:
      >>> import jax.numpy as jnp
      >>> from miue_jax.train import metrics
      >>> float(metrics.mean_of(jnp.array(0.5), weight=4).total)
      2.0
    """
    weight = jnp.asarray(weight, jnp.float32)
    return Mean(value.astype(jnp.float32) * weight, weight)


def values(metrics: Any) -> dict[str, float]:
    """Returns the means that were measured, as Python floats.

    Args:
      metrics: a dictionary of `Mean`.

    Returns:
      A float for every name whose weight is positive.

    Example:
      >>> import jax.numpy as jnp
      >>> from miue_jax.train import metrics
      >>> metrics.values({"loss": metrics.mean_of(jnp.array(0.5), weight=4)})
      {'loss': 0.5}
    """
    host: Metrics = parallel.to_host(metrics)
    return {
        name: float(mean.total) / float(mean.weight)
        for name, mean in host.items()
        if mean.weight > 0
    }


def mean_and_std(values: list[float]) -> dict[str, Any]:
    """Summarizes a result over several seeds.

    Args:
      values: one value per seed.

    Returns:
      Their ``mean``, their sample standard deviation ``std`` (None for a single seed),
      and the ``values``.

    Example:
      >>> from miue_jax.train import metrics
      >>> metrics.mean_and_std([0.25, 0.75])["mean"]
      0.5
    """
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.mean(values), "std": deviation, "values": values}
