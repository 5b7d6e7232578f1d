"""Plasma: fractal clouds that brighten, darken or change the contrast of an image."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike


def plasma(key: jax.Array, size: tuple[int, int], roughness: ArrayLike) -> jax.Array:
    """Draws a fractal cloud by the diamond-square algorithm.

    A grid of 3x3 uniform values doubles its resolution until it covers the image, which
    is its upper left corner. A point that is new at doubling n becomes (1 - s) m + s u:
    u is uniform in [0, 1], s = roughness^n, and m the mean of its neighbours, which
    are the four corners for the centre of a cell, and after that the two ends and the
    centres on both sides (at the border, on one) for the middle of an edge. There is no
    rescaling afterwards: a small roughness leaves a soft passage between the values of
    the first grid, and a roughness of 1 is white noise.

    Args:
      key: a PRNG key.
      size: (H, W), Python integers >= 1.
      roughness: () float in [0, 1].

    Returns:
      (H, W) float32 in [0, 1].

    References:
      Fournier, Fussell, Carpenter, Computer rendering of stochastic models, 1982.
    """
    height, width = size
    # The smallest power of two with 2^k + 1 >= both sides, but at least 3x3.
    power = max((max(height, width) - 2).bit_length(), 1)
    stride = 2 ** (power - 1)
    # One draw is enough: every point is new at one doubling.
    noise = jax.random.uniform(key, (2 * stride + 1,) * 2, jnp.float32)
    grid = noise[::stride, ::stride]
    for doubling in range(1, power):
        stride //= 2
        share = jnp.asarray(roughness, jnp.float32) ** doubling
        grid = _double(grid, noise[::stride, ::stride], share)
    return grid[:height, :width]


def plasma_brightness(
    key: jax.Array, image: jax.Array, roughness: ArrayLike, intensity: ArrayLike
) -> jax.Array:
    """Brightens and darkens parts of an image: clip(x + (2 m - 1) intensity, 0, 1).

    Args:
      key: a PRNG key.
      image: (H, W, C) float in [0, 1].
      roughness: () float in [0, 1], of the cloud m, of which every channel has its own.
      intensity: () float, the largest change, in [0, 1] units.

    Returns:
      (H, W, C), of the same dtype, in [0, 1].

    References:
      Qin et al., Learning the Unlearnable: Adversarial Augmentations Suppress
      Unlearnable Example Attacks, 2023, section 3.2.
    """
    change = (2 * _clouds(key, image, roughness) - 1) * intensity
    return jnp.clip(image + change, 0, 1).astype(image.dtype)


def plasma_contrast(
    key: jax.Array, image: jax.Array, roughness: ArrayLike
) -> jax.Array:
    """Changes the contrast in parts of an image: clip((x - 1/2) 4 m + 1/2, 0, 1).

    Args:
      key: a PRNG key.
      image: (H, W, C) float in [0, 1].
      roughness: () float in [0, 1], of the cloud m, of which every channel has its own.

    Returns:
      (H, W, C), of the same dtype, in [0, 1].

    References:
      As `plasma_brightness`.
    """
    factor = 4 * _clouds(key, image, roughness)
    return jnp.clip((image - 0.5) * factor + 0.5, 0, 1).astype(image.dtype)


def _clouds(key: jax.Array, image: jax.Array, roughness: ArrayLike) -> jax.Array:
    height, width, channels = image.shape
    keys = jax.random.split(key, channels)
    draw = lambda key: plasma(key, (height, width), roughness)  # noqa: E731
    return jax.vmap(draw, out_axes=-1)(keys)


def _double(grid: jax.Array, noise: jax.Array, share: jax.Array) -> jax.Array:
    # The old points, with zeros between them where the new ones come.
    zero = jnp.zeros((), grid.dtype)
    grid = lax.pad(grid, zero, ((0, 0, 1), (0, 0, 1)))
    index = jnp.arange(len(grid))
    row_is_new, column_is_new = index[:, None] % 2 == 1, index % 2 == 1
    at_border = (index == 0) | (index == index[-1])

    around = jnp.pad(grid, 1)
    corners = around[:-2, :-2] + around[:-2, 2:] + around[2:, :-2] + around[2:, 2:]
    centres = (1 - share) * corners / 4 + share * noise
    grid = jnp.where(row_is_new & column_is_new, centres, grid)

    around = jnp.pad(grid, 1)
    beside = around[:-2, 1:-1] + around[2:, 1:-1] + around[1:-1, :-2] + around[1:-1, 2:]
    count = jnp.where(at_border[:, None] | at_border, 3, 4)
    middles = (1 - share) * beside / count + share * noise
    return jnp.where(row_is_new ^ column_is_new, middles, grid)
