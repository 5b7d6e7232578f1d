"""Plasma: fractal clouds that brighten, darken or change the contrast of an image."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike


def plasma(key: jax.Array, size: tuple[int, int], roughness: ArrayLike) -> jax.Array:
    """Draws a fractal cloud by the diamond-square algorithm as kornia has it up to 0.8.

    The smallest grid of sides 2^a + 1 >= H and 2^b + 1 >= W, of which the cloud is the
    upper left part, is refined from a first grid of one cell along the shorter side
    and 2^|a - b| along the longer one. With c the corners of a cell, uniform in [0, 1],
    and m their mean, the first grid is

        corners c / 3, centers m / 3, middles of border edges (c + c' + m) / 3,

    where c and c' are the ends of the edge; the middle of an edge between two cells is
    u / 3, u uniform in [0, 1]. Then the resolution doubles until the grid is whole. A
    point that is new at doubling n becomes (1 - s) m + s u: u is uniform in [0, 1],
    s = roughness^n, and m is the mean of the point's neighbors, which are the four
    corners for the center of a cell, and after that the two ends and the centers on
    both sides for the middle of an edge. On the border, where there is only one center
    z to the ends e and e', m is (e + e' + 2 z) / 3 instead.

    The weights of the latter sum to 4/3, so that the cloud may exceed 1 near its
    border. The first grid is dark but for the middles of its border edges: on average
    the cloud lies below 1/2, the more so the smaller the roughness is. One more
    peculiarity is kept: in the first grid, the middle of the lower border (of the right
    border if b > a) has the upper right (the lower left) corner of the grid for its
    left (its upper) end. Kornia 0.9 corrected all three; UEraser was published before.

    The draws are not kornia's but have the same distribution, except that kornia leaves
    a new point at 0 if its m is 0, which has next to no probability.

    Args:
      key: a PRNG key.
      size: (H, W), Python integers >= 1; a side below 3 is cropped from 3.
      roughness: () float in [0, 1].

    Returns:
      (H, W) float32, at least 0.

    References:
      Fournier, Fussell, Carpenter, Computer rendering of stochastic models, 1982.
      Riba et al., Kornia: an open source differentiable computer vision library for
      PyTorch, 2020; `kornia.contrib.diamond_square` of version 0.6.12.
    """
    # The smallest powers of two with 2^k + 1 >= the side, but at least 2.
    powers = [max((side - 2).bit_length(), 1) for side in size]
    doublings = min(powers) - 1
    stride = 2**doublings
    # One draw is enough: every point is new once.
    shape = [2**power + 1 for power in powers]
    noise = jax.random.uniform(key, shape, jnp.float32)
    grid = _first(noise[::stride, ::stride])
    for doubling in range(1, doublings + 1):
        stride //= 2
        share = jnp.asarray(roughness, jnp.float32) ** doubling
        grid = _double(grid, noise[::stride, ::stride], share)
    return grid[: size[0], : size[1]]


def plasma_brightness(
    key: jax.Array, image: jax.Array, roughness: ArrayLike, intensity: ArrayLike
) -> jax.Array:
    """Brightens and darkens parts of an image: clip(x + (2 m - 1) intensity, 0, 1).

    This is `RandomPlasmaBrightness` of kornia: m is `plasma`, on average below 1/2, so
    that it darkens more than it brightens.

    Args:
      key: a PRNG key.
      image: (H, W, C) float in [0, 1].
      roughness: () float in [0, 1], of the cloud m, of which every channel has its own.
      intensity: () float, the change where m is 0 or 1, in [0, 1] units.

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

    This is `RandomPlasmaContrast` of kornia, with m as in `plasma_brightness`.

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


def _first(noise: jax.Array) -> jax.Array:
    # A 3x3 grid is transposed too, as it is in kornia.
    if noise.shape[1] == 3:
        return _first_rows(noise.T).T
    return _first_rows(noise)


def _first_rows(noise: jax.Array) -> jax.Array:
    corners = noise[::2, ::2]
    ends = corners[:, :-1] + corners[:, 1:]
    centers = jnp.sum(ends, 0) / 4
    left = corners[0, 0] + corners[1, 0] + centers[0]
    # corners[1, 0] is kornia's; by the algorithm it is corners[0, -1].
    right = corners[1, -1] + corners[1, 0] + centers[-1]
    grid = noise.at[1, 1::2].set(centers).at[::2, 1::2].set(ends + centers)
    return grid.at[1, 0].set(left).at[1, -1].set(right) / 3


def _double(grid: jax.Array, noise: jax.Array, share: jax.Array) -> jax.Array:
    # The old points, with zeros between them where the new ones come.
    grid = lax.pad(grid, jnp.zeros((), grid.dtype), ((0, 0, 1), (0, 0, 1)))
    row, column = (jnp.arange(side) for side in grid.shape)
    row = row[:, None]
    row_is_new, column_is_new = row % 2 == 1, column % 2 == 1

    around = jnp.pad(grid, 1)
    corners = around[:-2, :-2] + around[:-2, 2:] + around[2:, :-2] + around[2:, 2:]
    centers = (1 - share) * corners / 4 + share * noise
    grid = jnp.where(row_is_new & column_is_new, centers, grid)

    # Reflected, the border has four neighbors too, yet their sum is divided by 3.
    around = jnp.pad(grid, 1, mode="reflect")
    beside = around[:-2, 1:-1] + around[2:, 1:-1] + around[1:-1, :-2] + around[1:-1, 2:]
    at_border = (row % (len(grid) - 1) == 0) | (column % (len(column) - 1) == 0)
    middles = (1 - share) * beside / jnp.where(at_border, 3, 4) + share * noise
    return jnp.where(row_is_new ^ column_is_new, middles, grid)
