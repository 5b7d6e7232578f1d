"""Affine maps of images: one map an image, one bilinear resampling for any of them.

A map is a matrix (2, 3) that takes the place of a pixel in the result, (row, column)
from the middle of the image, to the place in the source where it comes from, also from
the middle. The functions that make maps take (B,) amounts, which may be traced.
"""

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates


def identity(batch_size: int) -> jax.Array:
    """The maps that leave images alone.

    Args:
      batch_size: B.

    Returns:
      (B, 2, 3) float32.

    Example:
      >>> from miue_jax.image import affine
      >>> affine.identity(2).shape
      (2, 2, 3)
    """
    return jnp.broadcast_to(jnp.eye(2, 3, dtype=jnp.float32), (batch_size, 2, 3))


def rotation(degrees: jax.Array) -> jax.Array:
    """Rotations about the middle.

    Args:
      degrees: (B,), counter-clockwise.

    Returns:
      (B, 2, 3) float32.

    Example:
      >>> import jax.numpy as jnp
      >>> from miue_jax.image import affine
      >>> affine.rotation(jnp.array([90.0])).shape
      (1, 2, 3)
    """
    angle = jnp.deg2rad(degrees.astype(jnp.float32))
    cos, sin, zero = jnp.cos(angle), jnp.sin(angle), jnp.zeros_like(angle)
    rows = (jnp.stack([cos, sin, zero], -1), jnp.stack([-sin, cos, zero], -1))
    return jnp.stack(rows, -2)


def shear_x(factor: jax.Array) -> jax.Array:
    """Shifts of every row by a multiple of its distance from the middle row.

    Args:
      factor: (B,), the multiple; positive ones move the lower half to the left.

    Returns:
      (B, 2, 3) float32.

    Example:
      >>> import jax.numpy as jnp
      >>> from miue_jax.image import affine
      >>> affine.shear_x(jnp.array([0.5])).shape
      (1, 2, 3)
    """
    return identity(len(factor)).at[:, 1, 0].set(factor.astype(jnp.float32))


def shear_y(factor: jax.Array) -> jax.Array:
    """Shifts of every column by a multiple of its distance from the middle column.

    Args:
      factor: (B,), the multiple; positive ones move the right half up.

    Returns:
      (B, 2, 3) float32.

    Example:
      >>> import jax.numpy as jnp
      >>> from miue_jax.image import affine
      >>> affine.shear_y(jnp.array([0.5])).shape
      (1, 2, 3)
    """
    return identity(len(factor)).at[:, 0, 1].set(factor.astype(jnp.float32))


def translation_x(pixels: jax.Array) -> jax.Array:
    """Shifts along the rows.

    Args:
      pixels: (B,), to the right.

    Returns:
      (B, 2, 3) float32.

    Example:
      >>> import jax.numpy as jnp
      >>> from miue_jax.image import affine
      >>> affine.translation_x(jnp.array([2.0])).shape
      (1, 2, 3)
    """
    return identity(len(pixels)).at[:, 1, 2].set(-pixels.astype(jnp.float32))


def translation_y(pixels: jax.Array) -> jax.Array:
    """Shifts along the columns.

    Args:
      pixels: (B,), down.

    Returns:
      (B, 2, 3) float32.

    Example:
      >>> import jax.numpy as jnp
      >>> from miue_jax.image import affine
      >>> affine.translation_y(jnp.array([2.0])).shape
      (1, 2, 3)
    """
    return identity(len(pixels)).at[:, 0, 2].set(-pixels.astype(jnp.float32))


def resample(images: jax.Array, maps: jax.Array) -> jax.Array:
    """Draws images anew, bilinear between pixels, black outside of the source.

    Args:
      images: (B, H, W, C) float in [0, 1].
      maps: (B, 2, 3), of this module.

    Returns:
      (B, H, W, C), of the same dtype.

    Example:
      >>> import jax.numpy as jnp
      >>> from miue_jax.image import affine
      >>> images = jnp.ones((1, 4, 4, 1))
      >>> bool((affine.resample(images, affine.identity(1)) == images).all())
      True
    """
    height, width = images.shape[1:3]
    middle = jnp.array([(height - 1) / 2, (width - 1) / 2], jnp.float32)
    grid = jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij")
    places = jnp.stack(grid, -1).astype(jnp.float32) - middle

    def draw(image: jax.Array, matrix: jax.Array) -> jax.Array:
        precise = jax.lax.Precision.HIGHEST
        source = jnp.matmul(places, matrix[:, :2].T, precision=precise)
        source = source + matrix[:, 2] + middle
        coordinates = [source[..., 0], source[..., 1]]
        by_channel = jax.vmap(
            lambda channel: map_coordinates(channel, coordinates, order=1),
            in_axes=-1,
            out_axes=-1,
        )
        return by_channel(image)

    # Weights that sum to 1 but for rounding can leave the range.
    return jnp.clip(jax.vmap(draw)(images, maps), 0, 1).astype(images.dtype)
