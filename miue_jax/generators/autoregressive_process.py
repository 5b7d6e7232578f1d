"""The process of AR: every value is a linear function of its upper left neighbors.

A process runs over a field of H x W pixels. It starts from the field's first two rows
and the first two columns of its other rows, the boundary: n = 2 W + 2 (H - 2) values.
"""

import jax
import jax.numpy as jnp
from jax import lax

_Pair = tuple[jax.Array, jax.Array]


def boundary_size(height: int, width: int) -> int:
    """The number of values that a process of this field starts from."""
    return 2 * width + 2 * (height - 2)


def run(filters: jax.Array, boundary: jax.Array, width: int) -> jax.Array:
    """Runs processes in raster order.

    Every value is a weighted sum of those to its left and above:

        z[i, j] = sum_{k, l in 0..2} b[k, l] z[i - 2 + k, j - 2 + l],    b[2, 2] = 0.

    Args:
      filters: (3, 3, ...) b, of as many processes as the trailing axes tell.
      boundary: (n, ...), the first two rows, then two values of every other row, of the
        same trailing shape.
      width: W of the field, boundary included.

    Returns:
      (H - 2, W - 2, ...), the field without its first two rows and columns.
    """
    rest = boundary.shape[1:]
    top = boundary[: 2 * width].reshape(2, width, *rest)
    left = boundary[2 * width :].reshape(len(boundary) // 2 - width, 2, *rest)
    inner = width - 2

    def row(carry: _Pair, left: jax.Array) -> tuple[_Pair, jax.Array]:
        upper, above = carry
        drive = jnp.zeros((inner, *rest), boundary.dtype)
        for k in range(3):
            drive += filters[0, k] * upper[k : k + inner]
            drive += filters[1, k] * above[k : k + inner]

        def pixel(carry: _Pair, drive: jax.Array) -> tuple[_Pair, jax.Array]:
            value = drive + filters[2, 0] * carry[0] + filters[2, 1] * carry[1]
            return (carry[1], value), value

        _, values = lax.scan(pixel, (left[0], left[1]), drive)
        return (above, jnp.concatenate([left, values])), values

    _, field = lax.scan(row, (top[0], top[1]), left)
    return field


def linear_map(filters: jax.Array, height: int, width: int) -> jax.Array:
    """The matrices that bring a boundary to the field, from the unit boundaries.

    Args:
      filters: (3, 3, C), one process a channel.
      height: H of the field, boundary included.
      width: W.

    Returns:
      (H - 2, W - 2, n, C): z = sum_m map[:, :, m] boundary[m] in every channel.
    """
    size, channels = boundary_size(height, width), filters.shape[2]
    units = jnp.eye(size, dtype=filters.dtype)[..., None]
    units = jnp.broadcast_to(units, (size, size, channels))
    return run(filters[:, :, None], units, width)
