"""Resizing down and up again, to a share of the side drawn for each image."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

# Sizes that an image may be reduced to: each is a constant matrix.
SIZES = 4


def sides(side: int, least: float) -> tuple[int, ...]:
    """The sizes that images are reduced to.

    Args:
      side: of the image, in pixels.
      least: the smallest size as a share of it, in (0, 1].

    Returns:
      `SIZES` whole numbers from the smallest size to the one before the side itself, in
      equal steps up to rounding.

    Example:
      >>> from miue_jax.image import resize
      >>> resize.sides(32, 0.5)
      (16, 20, 24, 28)
    """
    shares = least + (1 - least) * np.arange(SIZES) / SIZES
    return tuple(max(1, round(side * share)) for share in shares)


def down_and_up(images: jax.Array, choice: jax.Array, *, least: float) -> jax.Array:
    """Reduces every image to one of four sizes, and enlarges it again.

    Both are `jax.image.resize` with bilinear weights, smoothed where it reduces; the
    two are one linear map.

    Args:
      images: (B, H, W, C) float in [0, 1].
      choice: (B,) int32 in [0, `SIZES`): which of `sides`.
      least: the smallest size as a share of the sides, in (0, 1].

    Returns:
      (B, H, W, C), of the same dtype.

    Example:
      >>> import jax.numpy as jnp
      >>> from miue_jax.image import resize
      >>> images = jnp.full((1, 8, 8, 1), 0.5)
      >>> smaller = resize.down_and_up(images, jnp.array([0]), least=0.5)
      >>> bool(jnp.allclose(smaller, images))
      True
    """
    # Exact products: an accelerator's fast ones would round pixels to 8 or 10 bits.
    return jnp.einsum(
        "bhi,bwj,bijc->bhwc",
        jnp.asarray(_matrices(images.shape[1], least), images.dtype)[choice],
        jnp.asarray(_matrices(images.shape[2], least), images.dtype)[choice],
        images,
        precision=lax.Precision.HIGHEST,
    )


@functools.cache
def _matrices(side: int, least: float) -> np.ndarray:
    """What happens to an axis, for each of the sizes: (SIZES, side, side)."""
    with jax.ensure_compile_time_eval():
        identity = jnp.eye(side, dtype=jnp.float32)
        return np.stack(
            [
                jax.image.resize(
                    jax.image.resize(identity, (small, side), "linear"),
                    (side, side),
                    "linear",
                )
                for small in sides(side, least)
            ]
        )
