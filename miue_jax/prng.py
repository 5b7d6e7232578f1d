"""Keys of a run for its shards and their images.

They belong to a shard, not to a device: however shards are spread over devices, each
draws the same.
"""

import jax
from jax.typing import ArrayLike


def shard_keys(key: jax.Array, shard: jax.Array, *numbers: ArrayLike) -> jax.Array:
    """A key for each of a device's shards.

    Args:
      key: the run's key.
      shard: (g,) int32, the indices of the shards.
      *numbers: () int32 each, what the keys are for: a use, a step.

    Returns:
      (g,) keys.
    """
    for number in numbers:
        key = jax.random.fold_in(key, number)
    return jax.vmap(jax.random.fold_in, (None, 0))(key, shard)


def image_keys(keys: jax.Array, share: int) -> jax.Array:
    """A key for each image of a batch.

    Args:
      keys: (g,) keys.
      share: b, images of each shard in a batch.

    Returns:
      (g * b,) keys, in the order of the batch.
    """
    return jax.vmap(lambda key: jax.random.split(key, share))(keys).ravel()
