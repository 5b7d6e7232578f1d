"""A pass over the data in their own order, which meets every example exactly once."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from miue_jax import sampling


def take(
    data: sampling.Shards, position: ArrayLike, share: int
) -> tuple[sampling.Batch, jax.Array]:
    """Takes the next rows of every shard.

    The last batch is filled up from the front, and shards may hold different numbers of
    examples: rows that this pass has met before are told apart.

    Args:
      data: the device's shards.
      position: the step within the pass, below `sampling.steps_per_pass`.
      share: b, images of each shard in a batch.

    Returns:
      A batch of g times b images, and (g, b) bool: whether a row is met for the first
      time in this pass.
    """
    rows = jnp.arange(data.labels.shape[1], dtype=jnp.int32)
    order = jnp.broadcast_to(rows, data.labels.shape)
    places = jnp.asarray(position) * share + jnp.arange(share)
    first = places < data.count[:, None]
    return sampling.take(data, order, position, share), first


def store(
    array: jax.Array, batch: sampling.Batch, chosen: jax.Array, values: jax.Array
) -> jax.Array:
    """Writes some rows of a batch.

    Args:
      array: (g, n, ...), one row for every row of the data.
      batch: from `take`.
      chosen: (g, b) bool, the rows to write; the others keep what they hold.
      values: (g * b, ...) or (g, b, ...), in the order of the batch.

    Returns:
      The array with these rows replaced.
    """
    values = values.reshape(*chosen.shape, *array.shape[2:])

    def write(
        rows: jax.Array, index: jax.Array, keep: jax.Array, new: jax.Array
    ) -> jax.Array:
        keep = keep.reshape(-1, *[1] * (new.ndim - 1))
        return rows.at[index].set(jnp.where(keep, new, rows[index]))

    return jax.vmap(write)(array, batch.rows, chosen, values)
