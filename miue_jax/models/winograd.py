"""Winograd's minimal filtering F(2x2, 3x3): 3x3 convolutions with 2.25 times less work.

Tiles of 4x4 pixels are transformed by additions, multiplied with the transformed kernel
in sixteen matrix products, and transformed back to 2x2 pixels:

    Y = A' [(G K G') * (B' X B)] A,   G = [1 0 0; .5 .5 .5; .5 -.5 .5; 0 0 1],
    B' X: x0 - x2, x1 + x2, x2 - x1, x1 - x3,   A' M: m0 + m1 + m2, m1 - m2 - m3.

In float32 the error is that of a direct convolution within a small factor (about 1e-6
of the largest value). Measured on one core with 64 to 256 channels on maps of 8x8 to
32x32, it is 1.6 to 2 times faster than XLA's convolution there.

References:
  Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax

# Rows of a matrix product: fewer make thin products, more fall out of the cache.
_ROWS = 512

_Pads = tuple[tuple[int, int], tuple[int, int]]


def convolve(x: jax.Array, kernel: jax.Array, pads: _Pads) -> jax.Array:
    """Convolves with stride 1, by blocks of images.

    Args:
      x: (B, H, W, C) float.
      kernel: (3, 3, C, O) float.
      pads: (low, high) zeros added to the height and to the width; negative ones crop.

    Returns:
      (B, H', W', O), H' = H + sum(pads[0]) - 2 and W' alike.
    """
    batch = len(x)
    size = [x.shape[axis + 1] + sum(pads[axis]) - 2 for axis in range(2)]
    tiles = [math.ceil(length / 2) for length in size]
    # An odd size gets one row or column more, which is cut off again.
    widths = [(low, high + n % 2) for (low, high), n in zip(pads, size, strict=True)]
    weights = _transform_kernel(kernel)

    def convolve_block(images: jax.Array) -> jax.Array:
        padding = ((0, 0, 0), *((*width, 0) for width in widths), (0, 0, 0))
        padded = lax.pad(images, jnp.zeros((), x.dtype), padding)
        products = [
            jnp.matmul(tile.reshape(-1, tile.shape[-1]), weight)
            for tile, weight in zip(_transform(padded, tiles), weights, strict=True)
        ]
        shape = (len(images), *tiles, kernel.shape[3])
        return _transform_back([p.reshape(shape) for p in products])

    images = max(1, min(batch, _ROWS // math.prod(tiles)))
    count = batch // images
    blocks = x[: count * images].reshape(count, images, *x.shape[1:])
    y = lax.map(convolve_block, blocks)
    y = y.reshape(-1, *y.shape[2:])
    if batch % images:
        y = jnp.concatenate([y, convolve_block(x[count * images :])])
    return y[:, : size[0], : size[1]]


def _transform_kernel(kernel: jax.Array) -> jax.Array:
    """G K G' of every pair of channels, (16, C, O)."""

    def along_first(k: jax.Array) -> jax.Array:
        ends = k[0] + k[2]
        return jnp.stack([k[0], (ends + k[1]) / 2, (ends - k[1]) / 2, k[2]])

    rows = along_first(kernel).swapaxes(0, 1)
    return along_first(rows).swapaxes(0, 1).reshape(16, *kernel.shape[2:])


def _transform(padded: jax.Array, tiles: list[int]) -> list[jax.Array]:
    """B' X B of every tile, 16 arrays (B, H' / 2, W' / 2, C)."""

    def along(axis: int, array: jax.Array) -> list[jax.Array]:
        span = 2 * tiles[axis - 1] - 1
        x = [lax.slice_in_dim(array, i, i + span, 2, axis) for i in range(4)]
        return [x[0] - x[2], x[1] + x[2], x[2] - x[1], x[1] - x[3]]

    return [tile for rows in along(1, padded) for tile in along(2, rows)]


def _transform_back(products: list[jax.Array]) -> jax.Array:
    """A' M A of every tile, put together as (B, H', W', O)."""

    def both(m: list[jax.Array]) -> tuple[jax.Array, jax.Array]:
        return m[0] + m[1] + m[2], m[1] - m[2] - m[3]

    columns = [both(products[j::4]) for j in range(4)]
    pixels = [both([column[i] for column in columns]) for i in range(2)]
    # (B, H' / 2, 2, W' / 2, 2, O)
    y = jnp.stack([jnp.stack(row, axis=3) for row in pixels], axis=2)
    batch, high, _, wide, _, channels = y.shape
    return y.reshape(batch, 2 * high, 2 * wide, channels)
