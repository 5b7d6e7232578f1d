"""Boxes at random places of images: the squares of cutout, the boxes of CutMix."""

import jax
import jax.numpy as jnp


def random_box(
    row_key: jax.Array,
    column_key: jax.Array,
    batch_size: int,
    sides: tuple[int, int],
    lengths: tuple[jax.Array | int, jax.Array | int],
) -> jax.Array:
    """Draws a box in every image.

    Its middle is uniform over the pixels, and what lies beyond the border is cut off.

    Args:
      row_key: a PRNG key, of the middle rows.
      column_key: of the middle columns.
      batch_size: B.
      sides: H and W.
      lengths: of the box along both axes, in pixels, () or (B, 1) int.

    Returns:
      (B, H, W) bool, true inside.

    Example:
      >>> import jax
      >>> from miue_jax.image.box import random_box
      >>> keys = jax.random.split(jax.random.key(0))
      >>> bool(random_box(*keys, 2, (8, 8), (16, 16)).all())  # covers all from anywhere
      True
    """

    def covered(key: jax.Array, side: int, length: jax.Array | int) -> jax.Array:
        middle = jax.random.randint(key, (batch_size, 1), 0, side)
        offset = jnp.arange(side) - (middle - length // 2)
        return (offset >= 0) & (offset < length)

    rows = covered(row_key, sides[0], lengths[0])
    columns = covered(column_key, sides[1], lengths[1])
    return rows[:, :, None] & columns[:, None, :]
