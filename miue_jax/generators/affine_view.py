"""A differentiable view: images shifted by fractions of a pixel, some of them mirrored.

Victims crop and flip. A perturbation that is to survive this is moved by gradients
through such views, drawn anew for every step.
"""

import jax
import jax.numpy as jnp
from jax import lax


def shift_and_flip(key: jax.Array, images: jax.Array, *, shift: float) -> jax.Array:
    """Shifts every image, mirrors it with probability 1/2, and interpolates bilinearly.

    Coordinates run from -1 at the center of an axis's first pixel to 1 at that of the
    last, so a shift of s moves an axis of n pixels by s (n - 1) / 2 of them. Each image
    is shifted along either axis by a uniform draw from [-shift, shift]; what comes in
    from outside is 0.

    Args:
      key: a PRNG key.
      images: (B, H, W, C) float.
      shift: the largest shift, in the coordinates above; 8 / 31 is 4 of 32 pixels.

    Returns:
      (B, H, W, C), linear in the images.

    References:
      Fowl et al., NeurIPS 2021, arXiv 2106.10807: the augmentation of the attack.
    """
    size, height, width, _ = images.shape
    row_key, column_key, flip_key = jax.random.split(key, 3)
    mirrored = jax.random.bernoulli(flip_key, shape=(size, 1, 1))
    row_source = _source(row_key, size, height, shift)
    column_source = _source(column_key, size, width, shift)
    column_source = jnp.where(mirrored, width - 1 - column_source, column_source)
    # Exact products: an accelerator's fast ones would round pixels to 8 or 10 bits.
    return jnp.einsum(
        "bhi,bwj,bijc->bhwc",
        _weights(row_source, height),
        _weights(column_source, width),
        images,
        precision=lax.Precision.HIGHEST,
    )


def _source(key: jax.Array, size: int, length: int, shift: float) -> jax.Array:
    """Where each place of an axis reads from, in pixels: (size, length, 1)."""
    draws = jax.random.uniform(key, (size, 1, 1), jnp.float32, -shift, shift)
    place = jnp.arange(length, dtype=jnp.float32)[:, None]
    return place + draws * (length - 1) / 2


def _weights(source: jax.Array, length: int) -> jax.Array:
    """Weights of linear interpolation, 0 outside the axis: (size, length, length)."""
    return jnp.maximum(0, 1 - jnp.abs(source - jnp.arange(length, dtype=jnp.float32)))
